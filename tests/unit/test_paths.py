"""Paths that cannot be are told in a sentence, wherever they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import dno
from dno.errors import ConfigError
from dno.paths import absolute, current_folder, user_path
from dno.registry.models import find_model
from dno.runs.config_files import read_values
from dno.runs.folders import free_folder

BAD = {
    "a name that is too long": ("runs/" + "n" * 300, "the name is too long"),
    "a path that is too long": ("p/" * 3000, "the name is too long"),
    "nobody's home": ("~nosuchuser/run", 'there is no user "nosuchuser" here'),
    "NUL": ("a\0b", "it holds the character NUL"),
    "no UTF-8": (os.fsdecode(b"caf\xe9"), "its name is not UTF-8"),
}


@pytest.mark.parametrize(("path", "told"), BAD.values(), ids=BAD.keys())
def test_a_path_that_cannot_be_is_told_in_one_sentence(path: str, told: str) -> None:
    calls = [user_path, dno.open_run, dno.list_runs, dno.resume, find_model]
    for call in [*calls, lambda path: free_folder(Path(path))]:
        with pytest.raises(ConfigError, match=told) as caught:
            call(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="its links lead in a circle"):
        user_path(tmp_path / "a" / "run")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="there are no users here")
def test_a_folder_that_may_not_be_entered_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root may enter any folder: look as somebody else.
        for folder in (tmp_path, *tmp_path.parents[:3]):
            folder.chmod(0o755)
        os.seteuid(65534)
    try:
        closed = tmp_path / "closed"
        if os.geteuid() != tmp_path.stat().st_uid:
            os.seteuid(0)
            closed.mkdir(mode=0o700)
            os.seteuid(65534)
        else:
            closed.mkdir(mode=0o000)
        with pytest.raises(ConfigError, match="a folder above it may not be entered"):
            user_path(closed / "run")
        with pytest.raises(ConfigError, match=r"closed.*(cannot|may not)"):
            free_folder(closed)
        with pytest.raises(ConfigError, match="may not be entered"):
            dno.open_run(closed / "run")
        with pytest.raises(ConfigError, match=r"run\.toml: cannot be read: "):
            read_values(closed / "run.toml")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        (tmp_path / "closed").chmod(0o700)


def test_a_path_from_the_root(tmp_path: Path) -> None:
    assert absolute(Path("a/b"), tmp_path) == tmp_path / "a" / "b"
    assert absolute(Path("/a"), tmp_path) == Path("/a")
    assert absolute(Path("a/../b"), tmp_path) == tmp_path.resolve() / "b"
    # What is above a link is where it leads to.
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
    assert absolute(Path("link/../b"), tmp_path) == tmp_path.resolve() / "real" / "b"


def test_a_current_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current folder is gone"):
        current_folder()
