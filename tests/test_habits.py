"""What is said in one place only, and that the places which repeat it agree."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_static import CODE

import dno

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


def ours(name: str) -> list[Path]:
    """Files of that name at the root and wherever we have code."""
    folders = [ROOT / folder for folder in CODE]
    found = [path for folder in folders if folder.is_dir() for path in folder.rglob(name)]
    return [path for path in (ROOT / name, *found) if path.exists()]


def test_ruffs_settings_are_in_one_place() -> None:
    """In pyproject.toml of the root: for the tests, for nox, for git's hooks and for editors."""
    files = [path for name in ("ruff.toml", ".ruff.toml") for path in ours(name)]
    files += [path for path in ours("pyproject.toml") if "[tool.ruff" in path.read_text("utf-8")]
    assert files == [ROOT / "pyproject.toml"]


def test_whoever_calls_ruff_leaves_it_its_settings() -> None:
    callers = ["noxfile.py", "tests/test_static.py", ".pre-commit-config.yaml"]
    texts = [(ROOT / name).read_text("utf-8") for name in callers]
    commands = [line for text in texts for line in text.splitlines() if "ruff" in line]
    options = {option for line in commands for option in re.findall(r"--[a-z-]+", line)}
    assert {"--check"} <= options <= {"--check", "--fix", "--force-exclude"}


def test_hooks_need_no_network_and_run_what_the_tests_check() -> None:
    assert re.findall(r"repo: (.+)", HOOKS) == ["local"]
    assert set(re.findall(r"language: (.+)", HOOKS)) == {"system"}
    commands = [tuple(entry.split()[:2]) for entry in re.findall(r"entry: (.+)", HOOKS)]
    assert commands == [("ruff", "check"), ("ruff", "format")]


def test_nox_looks_at_the_files_that_the_tests_look_at() -> None:
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    assert f"CODE = {CODE!r}".replace("'", '"') in noxfile


def test_the_version_is_in_one_place() -> None:
    """In `dno/__init__.py`; what is installed was built from there."""
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "dno/__init__.py"
    assert importlib.metadata.version("dno") == dno.__version__


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    """Then come the releases, the newest first, which is the version at hand."""
    page = (ROOT / "docs" / "changelog.md").read_text("utf-8")
    unreleased, newest, *_ = re.findall(r"^## (\S+)", page, re.MULTILINE)
    assert unreleased == "Unreleased"
    assert newest == dno.__version__


def requirements() -> dict[str, str]:
    """The oldest version of each package that pyproject.toml allows, by the package's name."""
    project = PROJECT["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", text) for text in needed]
    return {match[1]: match[2] for match in found if match}


def floors() -> dict[str, str]:
    lines = (ROOT / "tests" / "floors.txt").read_text("utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    return {name: version for name, _, version in pins}


@pytest.mark.parametrize("name", sorted(floors().keys() & requirements().keys()))
def test_a_floor_is_the_oldest_version_allowed(name: str) -> None:
    """Or the latest repair of it: `>=8.3` is tried as 8.3.5."""
    allowed = requirements()[name]
    assert f"{floors()[name]}.".startswith(f"{allowed}.")


def test_every_requirement_has_a_floor() -> None:
    """torch apart, for its size, which floors.txt tells."""
    names = {re.match(r"[\w-]+", text)[0] for text in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert names - floors().keys() == {"torch"}
