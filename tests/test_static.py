"""Style, on every file that a change may touch; types are in tests/typing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ["dno", "plugins", "tests", "docs", "noxfile.py"]
COMMANDS = {"ruff check": ["ruff", "check", *CODE], "ruff format": ["ruff", "format", "--check", *CODE]}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_static(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_core_stays_small():
    """1,500 lines of code, docstrings, comments, blank lines and elided bodies apart."""
    import ast
    import io
    import tokenize

    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    total = 0
    for path in (ROOT / "dno").glob("*.py"):
        text = path.read_text()
        silent = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, (str, type(...)))
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in quiet]
        lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
        total += len(lines - silent)
    assert total < 1500
