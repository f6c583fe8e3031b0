"""Every block of the README and the docs runs, or says why not.

The `bash` blocks of a page run in one shell; its `python` blocks in one interpreter, under pytest
where they have tests; `toml` blocks are read; all in an empty folder. A comment `<!-- not run: why
-->` above a block leaves it out.

What README shows runs in processes that begin from nothing, as a reader's do; that of the other
pages in forks of one, see `warm.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
COLD = Path(sys.executable).parent
FENCE = re.compile(
    r"(?P<note><!-- not run: [^>]+ -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
OUTPUT = {"", "text", "console"}
# Its commands install a package, so they run in an environment of their own:
# tests/plugins/test_outside.py.
OUTSIDE = ROOT / "docs" / "tutorials" / "write-a-plugin.md"


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    runs: bool


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["text"], match["note"] is None) for match in found]


def of_kind(page: Path, kind: str) -> list[str]:
    return [block.text for block in blocks(page) if block.kind == kind and block.runs]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_are_of_a_kind_that_is_run_or_shown(page):
    for block in blocks(page):
        assert block.kind in {"bash", "python", "toml"} | OUTPUT, block


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "mailto:")):
            assert (page.parent / target).exists(), target


def run(command: list[str], script: str, folder: Path, programs: Path) -> None:
    env = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        command,
        input=script,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if of_kind(page, "bash") and page != OUTSIDE], ids=page_id
)
def test_commands_run(page, warm, tmp_path):
    programs = COLD if page == README else warm
    run(["bash", "-euo", "pipefail"], "\n".join(of_kind(page, "bash")), tmp_path, programs)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if of_kind(page, "python")], ids=page_id)
def test_python_runs(page, warm, tmp_path):
    script = "\n".join(of_kind(page, "python"))
    programs = COLD if page == README else warm
    if "\nclass Test" not in script:
        run([str(programs / "python"), "-"], script, tmp_path, programs)
        return
    (tmp_path / "test_page.py").write_text(script)
    command = ["-m", "pytest", "-p", "no:cacheprovider", "test_page.py"]
    run([sys.executable, *command], "", tmp_path, COLD)


@pytest.mark.parametrize("page", [page for page in PAGES if of_kind(page, "toml")], ids=page_id)
def test_toml_is_a_valid_run(page):
    from dno.runs.run_config import RunConfig

    for text in of_kind(page, "toml"):
        RunConfig.parse(tomllib.loads(text))


def test_ci_installs_a_browser_and_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    *_, command = (line for line in script if line and not line.startswith("#"))
    assert command in (ROOT / "README.md").read_text().splitlines()
    # Whoever has no browser runs the same command, which then skips the tests that need one.
    assert [line for line in script if line and not line.startswith("#")][:-1] == [
        "set -euo pipefail", 'cd "$(dirname "$0")/.."', "bash tests/browser/install.sh",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["plugin_reference", "kit_reference", "option_reference"])
def test_a_reference_is_what_the_code_says(name):
    script = ROOT / "docs" / "figures" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.text(), (
        f"run: python {script.relative_to(ROOT)}"
    )
