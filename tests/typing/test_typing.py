"""mypy and pyright, both strict, accept every right plugin and point at every wrong line of a wrong
one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = sorted(HERE.glob("*/*.py"))
MARK = re.compile(r"# wrong(?: \((\w+)\))?: ")

Errors = dict[str, str]
"""What is wrong by place, `file:line`, the file from the root of the repository."""


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # 1 says that files have errors, as the wrong ones must; anything above is an error of the
    # command itself.
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout, done.stderr
    return done.stdout


def mypy() -> Errors:
    # One run for the repository's packages too: nearly all its time goes into torch, which both
    # import.
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["packages"]
    packages += ["tests.typing.right", "tests.typing.wrong"]
    lines = run(
        "mypy", "--output", "json", *(f"--package={name}" for name in packages)
    ).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return {
        f"{at['file']}:{at['line']}": at["message"] for at in found if at["severity"] == "error"
    }


def pyright() -> Errors:
    told = json.loads(
        run("pyright", "--project", "tests/typing", "--pythonpath", sys.executable, "--outputjson")
    )
    assert told["summary"]["filesAnalyzed"] == len(EXAMPLES)
    return {
        f"{Path(at['file']).relative_to(ROOT).as_posix()}:{at['range']['start']['line'] + 1}": at[
            "message"
        ]
        for at in told["generalDiagnostics"]
    }


def marked(checker: str) -> Errors:
    """What is marked wrong for this checker; a mark that names no checker is for both."""
    return {
        f"{path.relative_to(ROOT).as_posix()}:{number}": line.strip()
        for path in EXAMPLES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (mark := MARK.search(line)) and mark[1] in (None, checker)
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_exactly_the_wrong_lines_are_errors(checker: Callable[[], Errors]) -> None:
    found, expected = checker(), marked(checker.__name__)
    wrong = [f"{at} should be no error: {found[at]}" for at in found.keys() - expected.keys()]
    wrong += [f"{at} should be an error: {expected[at]}" for at in expected.keys() - found.keys()]
    assert not wrong, "\n".join(sorted(wrong))
