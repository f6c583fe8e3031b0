"""The history is appended to at a cost that does not grow, and survives a kill at any byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dno.core import result
from dno.core.result import StepRecord
from dno.errors import RunError
from dno.runs.history import HistoryFile, Mark, read_history, read_records


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's files are closed after it, as a run folder closes its own."""
    made: list[HistoryFile] = []
    begin = HistoryFile.__init__

    def noted(self: HistoryFile, folder: Path) -> None:
        begin(self, folder)
        made.append(self)

    monkeypatch.setattr(HistoryFile, "__init__", noted)
    yield
    for history in made:
        history.close()


def records(count: int) -> list[StepRecord]:
    first = StepRecord(
        iteration=0,
        grid=None,
        reward=(0.1, float("nan")),
        objective=(1.0, 0.3),
        rewards={"r": (0.1, 1 / 3)},
        monitors={},
        penalties={},
        log_p={"p": (-0.5, -1e-30)},
        gamma=None,
        figures={},
        healthy=(True, False),
        best=(-float("inf"), 1e300),
        grad_norm=(2.0, 0.0),
        seconds=0.25,
    )
    return [replace(first, iteration=i, seconds=i / 7) for i in range(count)]


def lines(several: Sequence[StepRecord]) -> bytes:
    return b"".join(record.to_json() + b"\n" for record in several)


def test_what_is_appended_is_what_would_be_written_whole(tmp_path: Path) -> None:
    history = HistoryFile(tmp_path)
    for count in (1, 1, 4, 9):
        mark = history.extend(records(count))
        assert (tmp_path / "history.jsonl").read_bytes() == lines(records(count))
        saved = read_history(tmp_path, count, mark)
        assert lines(saved.records) == lines(records(count))


def test_a_state_from_before_a_last_look_leaves_the_look_in_the_file(tmp_path: Path) -> None:
    history = HistoryFile(tmp_path)
    mark = history.extend(records(3))
    history.extend(records(4))
    assert history.extend(records(3)) == mark
    assert (tmp_path / "history.jsonl").read_bytes() == lines(records(4))
    assert len(read_history(tmp_path, 3, mark).records) == 3


def test_fewer_records_than_are_there_leave_no_others(tmp_path: Path) -> None:
    history = HistoryFile(tmp_path)
    history.extend(records(5))
    mark = history.extend(records(3))
    assert (tmp_path / "history.jsonl").read_bytes() == lines(records(3))
    assert len(read_history(tmp_path, 3, mark).records) == 3
    history.extend(records(4))
    assert (tmp_path / "history.jsonl").read_bytes() == lines(records(4))


def test_an_append_writes_the_new_lines_alone(tmp_path: Path) -> None:
    history = HistoryFile(tmp_path)
    history.extend(records(100))
    before = (tmp_path / "history.jsonl").stat()
    history.extend(records(101))
    after = (tmp_path / "history.jsonl").stat()
    assert after.st_ino == before.st_ino
    assert after.st_size - before.st_size == len(lines(records(101)[100:]))


def test_a_reader_of_records_is_made_once() -> None:
    assert result._record_adapter() is result._record_adapter()


@given(cut=st.integers(0, 10**6))
def test_a_kill_at_any_byte_of_an_append_loses_no_line_that_a_state_knows(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    mark = HistoryFile(folder).extend(records(3))
    file = folder / "history.jsonl"
    known = file.read_bytes()
    added = lines(records(6)[3:])
    file.write_bytes(known + added[: cut % (len(added) + 1)])

    saved = read_history(folder, 3, mark)
    assert lines(saved.records) == known
    # Who reads along sees whole lines alone.
    assert lines(read_records(file.read_bytes())) in (lines(records(n)) for n in range(3, 7))

    again = HistoryFile(folder)
    again.go_on_from(saved)
    again.extend(records(5))
    assert file.read_bytes() == lines(records(5))


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_nothing_is_appended_to_what_a_link_leads_to(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    mark = HistoryFile(folder).extend(records(2))
    mine = tmp_path / "profile"
    (folder / "history.jsonl").rename(mine)
    if kind == "hard":
        (folder / "history.jsonl").hardlink_to(mine)
    else:
        (folder / "history.jsonl").symlink_to(mine)

    history = HistoryFile(folder)
    history.go_on_from(read_history(folder, 2, mark))
    history.extend(records(3))
    history.extend(records(4))
    assert mine.read_bytes() == lines(records(2))
    assert not (folder / "history.jsonl").is_symlink()
    assert (folder / "history.jsonl").read_bytes() == lines(records(4))


@pytest.mark.parametrize("harm", ["removed", "replaced", "cut", "added to"])
def test_a_file_that_another_touched_meanwhile_is_written_whole_again(
    tmp_path: Path, harm: str
) -> None:
    history = HistoryFile(tmp_path)
    history.extend(records(3))
    history.extend(records(4))
    file = tmp_path / "history.jsonl"
    whole = file.read_bytes()
    if harm == "removed":
        file.unlink()
    elif harm == "replaced":
        file.unlink()
        file.write_bytes(whole)
    elif harm == "cut":
        file.write_bytes(whole[:-5])
    else:
        file.write_bytes(whole + b"more")
    mark = history.extend(records(5))
    assert file.read_bytes() == lines(records(5))
    assert len(read_history(tmp_path, 5, mark).records) == 5


def test_a_full_disk_leaves_what_was_saved_and_the_next_line_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = HistoryFile(tmp_path)
    history.extend(records(2))
    mark = history.extend(records(3))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match=r"history\.jsonl cannot be written: No space left"):
            history.extend(records(4))
    assert len(read_history(tmp_path, 3, mark).records) == 3
    history.extend(records(5))
    assert (tmp_path / "history.jsonl").read_bytes() == lines(records(5))


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_seen(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    mark = HistoryFile(folder).extend(records(3))
    data = bytearray((folder / "history.jsonl").read_bytes())
    data[place % len(data)] ^= 1 << bit
    (folder / "history.jsonl").write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is not what was saved"):
        read_history(folder, 3, mark)


def test_lines_of_another_count_or_order_are_seen(tmp_path: Path) -> None:
    mark = HistoryFile(tmp_path).extend(records(3))
    with pytest.raises(ValueError, match="has 3 of 4 lines"):
        read_history(tmp_path, 4, mark)
    with pytest.raises(ValueError, match="has 3 of 3 lines"):
        read_history(tmp_path, 3, Mark(lines=2, size=mark.size, sha256=mark.sha256))
    (tmp_path / "history.jsonl").write_bytes(lines(records(3)[::-1]))
    with pytest.raises(ValueError, match="does not count its iterations"):
        read_history(tmp_path, 3, None)
