"""`history.jsonl`: a record a line, appended to, and marked so that it can be trusted."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from pydantic import BaseModel, ConfigDict, Field

from dno.core.result import StepRecord
from dno.errors import RunError
from dno.files import read_file, write_file
from dno.wording import named, reason

NAME: Final = "history.jsonl"


class Mark(BaseModel):
    """How much of the file belongs to a saved state. What follows it is left out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    lines: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=0)]
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class Saved:
    """Records that were read back, and the very lines that they were read from."""

    records: Sequence[StepRecord]
    text: bytes


def read_records(data: bytes) -> list[StepRecord]:
    """The records of whole lines; a last line without its end was torn by a kill, and is left out.

    Raises:
        ValueError: a line is no record.
    """
    whole, _, _torn = data.rpartition(b"\n")
    if not whole:
        return []
    return [StepRecord.from_json(line) for line in whole.split(b"\n")]


def read_history(folder: Path, iterations: int, mark: Mark | None) -> Saved:
    """The records of the first iterations.

    Args:
        folder: the run folder.
        iterations: how many records a state belongs to.
        mark: what was noted of them; None in folders of format 2.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it does not hold those records.
    """
    data = read_file(folder / NAME)
    if mark is None:
        lines = data.split(b"\n")[:iterations]
        data = b"".join(line + b"\n" for line in lines)
    else:
        data = data[: mark.size]
        if hashlib.sha256(data).hexdigest() != mark.sha256:
            raise ValueError(f"{NAME} is not what was saved")

    records = read_records(data)
    if len(records) != iterations or (mark is not None and mark.lines != iterations):
        raise ValueError(f"{NAME} has {len(records)} of {iterations} lines")
    if [record.iteration for record in records] != list(range(iterations)):
        raise ValueError(f"{NAME} does not count its iterations")
    return Saved(records, data)


class HistoryFile:
    """The file as one process writes it: whole at first, and from then on at its end alone.

    The first writing makes a file of our own, so that nothing is ever appended to what a link in a
    stranger's folder leads to.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: BinaryIO | None = None
        self._inode = -1
        self._before: Mark | None = None
        """What was true before the last lines were added."""
        self._known = Saved((), b"")
        self._begin_anew()

    def go_on_from(self, saved: Saved) -> None:
        """Begin with lines of an earlier process; those past them are dropped."""
        self._known = saved
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.close()
        self._before = None
        self._lines = 0
        self._size = 0
        self._hash = hashlib.sha256()

    def extend(self, records: Sequence[StepRecord]) -> Mark:
        """Write those of a run's records that are not in the file yet.

        A kill leaves the lines that were there, and at most a part of those that come behind them.

        Returns:
            What to note in a state that these records belong to.

        Raises:
            RunError: the disk is full, or the folder may not be written.
        """
        ours = self._is_ours()
        if ours and self._before is not None and self._before.lines == len(records) < self._lines:
            # A state from before a last look: its records are there, with those of the look.
            return self._before
        if len(records) < self._lines or not ours:
            self._begin_anew()
            known = self._known if len(self._known.records) <= len(records) else Saved((), b"")
            text = known.text + _lines_of(records[len(known.records) :])
            write_file(self._path, text)
            self._note(text, len(records))
        elif len(records) > self._lines:
            self._before = self._mark()
            text = _lines_of(records[self._lines :])
            self._append(text)
            self._note(text, len(records))
        return self._mark()

    def _mark(self) -> Mark:
        return Mark(lines=self._lines, size=self._size, sha256=self._hash.hexdigest())

    def _note(self, text: bytes, lines: int) -> None:
        self._hash.update(text)
        self._size += len(text)
        self._lines = lines

    def _is_ours(self) -> bool:
        """Whether the file is the one that this process wrote, with all of it and nothing else."""
        if not self._size:
            return False
        try:
            if self._file is None:
                flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
                self._file = os.fdopen(os.open(self._path, flags), "ab")
                self._inode = os.fstat(self._file.fileno()).st_ino
            status = self._path.lstat()
        except OSError:
            return False
        alone = status.st_nlink == 1 and status.st_ino == self._inode
        return alone and status.st_size == self._size

    def _append(self, text: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            # What is there of it would stand in the way of the next lines.
            self.close()
            raise RunError(f"{named(self._path)} cannot be written: {reason(error)}") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None


def _lines_of(records: Sequence[StepRecord]) -> bytes:
    return b"".join(record.to_json() + b"\n" for record in records)
