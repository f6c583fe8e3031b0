"""Standard output and standard error that nothing can break: a run does not end with its reader."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, Final

PATIENCE: Final = 5.0
"""Seconds to wait for a reader that takes nothing, where writing does not wait by itself."""


class Enduring(io.FileIO):
    """A file descriptor that takes whatever is written, and notes when it got no further."""

    def __init__(self, descriptor: int, lost: OSError | None = None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost = lost
        """What kept it from being written, if anything did."""

    def write(self, data: Any, /) -> int:
        """Write, or do as if: whatever is lost once stays lost."""
        size = len(memoryview(data).cast("B"))
        if self.lost is not None:
            return size
        try:
            written = super().write(data)
            if written is None:
                select.select([], [self.fileno()], [], PATIENCE)
                written = super().write(data)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, "its reader takes nothing")
            return written
        except OSError as error:
            self.lost = error
            return size


class Text(io.TextIOWrapper):
    """Text on a descriptor, which is not closed by whoever believes it to be their own."""

    def close(self) -> None:
        """Write what is left; it stays open."""
        self.flush()


def hold() -> None:
    """Put streams that nothing can break in the place of this process's own."""
    missing = _fill()
    output = Enduring(1, missing.get(1))
    errors = Enduring(2, missing.get(2))
    sys.stdout = sys.__stdout__ = _text(output, sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text(errors, sys.stderr, at_once=True)  # type: ignore[misc]


def lost_output() -> OSError | None:
    """What kept standard output from being written so far, if anything did."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, Enduring) else None


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What is printed meanwhile goes to standard error: it is a plugin's, and no result."""
    lines = Lines(sys.stderr)
    try:
        with contextlib.redirect_stdout(lines):
            yield
    finally:
        lines.flush()


class Lines:
    """Writes on a stream by the line, above a bar of progress that may stand on its last one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the lines that are whole by now."""
        lines, end, self._begun = (self._begun + text).rpartition("\n")
        self._pass_on(lines + end)
        return len(text)

    def flush(self) -> None:
        """Write what was begun: somebody may be asked something."""
        begun, self._begun = self._begun, ""
        self._pass_on(begun)
        self._stream.flush()

    def _pass_on(self, text: str) -> None:
        if not text:
            return
        # Only who shows a bar has it imported.
        bars = sys.modules.get("tqdm.std")
        aside = contextlib.nullcontext()
        if bars is not None:
            aside = bars.tqdm.external_write_mode(file=self._stream)
        with aside:
            self._stream.write(text)


def _fill() -> dict[int, OSError]:
    """Open what was closed, so that no file of a run gets the number of a standard stream."""
    missing = {}
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
            missing[descriptor] = error
    return missing


def _text(raw: Enduring, before: Any, *, at_once: bool = False) -> Text:
    """The stream that a raw one makes, with the encoding of the one before."""
    refusing = getattr(before, "errors", "strict") == "strict"
    return Text(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        # A name that cannot be spelled in it is better told than none.
        errors="backslashreplace" if refusing else before.errors,
        line_buffering=at_once or raw.isatty(),
        write_through=at_once,
    )
