"""The guard that keeps models out of quick tests, and how slow ones are found and left out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_a_quick_test_that_loads_a_model_fails_and_is_told_what_to_do(name: str) -> None:
    with pytest.raises(
        pytest.fail.Exception, match=f"{name}.Something is wanted, .* mark the test"
    ):
        exec(f"from {name} import Something")


def test_looking_through_all_modules_is_no_offence() -> None:
    assert not hasattr(sys.modules["diffusers"], "__file__")


@pytest.mark.slow
def test_a_slow_test_may() -> None:
    from transformers import CLIPConfig

    assert CLIPConfig().model_type == "clip"


@dataclass
class Item:
    """As much of a collected test as the shared settings look at."""

    fixturenames: tuple[str, ...]
    marks: list[str] = field(default_factory=list)

    def add_marker(self, mark: str | pytest.MarkDecorator) -> None:
        self.marks.append(mark if isinstance(mark, str) else mark.name)

    def get_closest_marker(self, name: str) -> str | None:
        return next((mark for mark in self.marks if mark == name), None)


@pytest.fixture
def shared(pytestconfig: pytest.Config) -> Any:
    """The settings that all tests share: tests/conftest.py as a module."""
    return pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py"))


def test_a_test_that_asks_for_a_model_is_slow(shared: Any) -> None:
    asking = Item(("tmp_path", "tiny_folder"))
    other = Item(("tmp_path",))
    shared.pytest_collection_modifyitems([asking, other])
    assert asking.marks == ["slow"]
    assert other.marks == []


def test_what_needs_a_gpu_is_skipped_where_there_is_none(
    shared: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = Item((), ["gpu"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    shared.pytest_collection_modifyitems([without])
    assert without.marks == ["gpu", "skip"]

    with_one = Item((), ["gpu"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    shared.pytest_collection_modifyitems([with_one])
    assert with_one.marks == ["gpu"]


@pytest.mark.parametrize(
    ("wanted", "file", "ignored"),
    [
        pytest.param("not slow", "typing/test_typing.py", True, id="slow as a whole"),
        pytest.param("not slow and not gpu", "typing/test_typing.py", True, id="and more"),
        pytest.param("not slow", "docs/test_docs.py", None, id="slow in parts"),
        pytest.param("slow", "typing/test_typing.py", None, id="slow ones wanted"),
        pytest.param("", "typing/test_typing.py", None, id="all wanted"),
    ],
)
def test_a_slow_file_is_not_imported_where_no_slow_tests_are_wanted(
    shared: Any,
    wanted: str,
    file: str,
    ignored: bool | None,
) -> None:
    config = SimpleNamespace(option=SimpleNamespace(markexpr=wanted))
    assert shared.pytest_ignore_collect(TESTS / file, config) is ignored
