"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dno.errors import RunError
from dno.files import PART, write_file


def test_a_file_has_all_its_bytes_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "steps" / "deep" / "a.bin"
    write_file(path, b"one")
    write_file(path, bytes(100_000))
    assert path.read_bytes() == bytes(100_000)
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_file(path, b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"a\.bin cannot be written: No space left on device"):
        write_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_at_its_place_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    path = tmp_path / "run" / "best.png"
    path.parent.mkdir()
    path.symlink_to(thesis)
    write_file(path, b"picture")
    assert thesis.read_text() == "years of work"
    assert not path.is_symlink()
    assert path.read_bytes() == b"picture"


def test_a_link_at_the_unfinished_files_place_is_not_followed(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".best.png.part").symlink_to(thesis)
    write_file(folder / "best.png", b"picture")
    assert thesis.read_text() == "years of work"
    assert (folder / "best.png").read_bytes() == b"picture"
    assert not (folder / "best.png").is_symlink()


def test_the_unfinished_file_has_a_name_that_nobody_can_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    system_open = os.open

    def seen(path: str | Path, flags: int, mode: int = 0o777) -> int:
        opened.append(Path(path).name)
        assert flags & os.O_EXCL
        assert flags & os.O_CREAT
        return system_open(path, flags, mode)

    monkeypatch.setattr(os, "open", seen)
    write_file(tmp_path / "best.png", b"picture")
    write_file(tmp_path / "best.png", b"picture")
    assert all(PART.fullmatch(name) for name in opened)
    assert len(set(opened)) == 2


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"file.a\.bin cannot be written: "):
        write_file(tmp_path / "file" / "a.bin", b"x")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"folder cannot be written: "):
        write_file(tmp_path / "folder", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_whoever_reads_while_it_is_written_finds_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    versions = [bytes([i]) * 50_000 for i in range(40)]
    write_file(path, versions[0])
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for version in versions:
        write_file(path, version)
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= set(versions)
