"""Commands in children of this process, which has imported what takes long, and what befalls them.

A child is a fork, so that a hundred of them cost what one start of Python with torch does.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 60
"""After so many a child has hung, and is killed."""
MEMORY: Final = 16 * 2**30
"""Bytes of address space that a child may have."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """Its exit code; negative for the signal that killed it."""
    out: str
    err: str

    @property
    def is_clean(self) -> bool:
        """Whether it told what went wrong in sentences, if anything did."""
        quiet = "Traceback" not in self.err and "Exception ignored" not in self.err
        told = self.code in (0, -signal.SIGKILL) or bool(self.err)
        return quiet and told and self.code != -signal.SIGALRM


def forked(
    args: Sequence[object],
    folder: Path,
    before: Callable[[], object] = lambda: None,
    meanwhile: Callable[[int], object] = lambda child: None,
) -> Done:
    """`dno` with these arguments in a folder.

    Args:
        args: what follows `dno` on the command line.
        folder: the working folder.
        before: called in the child first, with the standard streams in place.
        meanwhile: called here with the child's number.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _be_the_child([str(arg) for arg in args], folder, before, out.fileno(), err.fileno())
        meanwhile(child)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        code = os.waitstatus_to_exitcode(status)
        texts = [file.read().decode(errors="backslashreplace") for file in (out, err)]
    return Done(code, *texts)


def _be_the_child(
    args: list[str], folder: Path, before: Callable[[], object], out: int, err: int
) -> None:
    code: Any = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        warnings.resetwarnings()
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.argv = ["dno", *args]
        before()

        from dno.cli.entry import main

        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int(code or 0))


WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS: Final = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
"""What Python tells its audit hooks of changes to files, besides those that are opened."""
CALLS: Final = ("fsync", "write", "ftruncate")
"""Functions of `os` that it tells nothing of."""


class Interference:
    """Something that happens at the n-th operation on a file below a folder; for `before`.

    Args:
        folder: below which operations count.
        at: the number of the operation, from 1; 0 for none of them.
        deed: what happens just before it.
        log: where a byte is added for each operation.
        calls: whether those of `CALLS` count.
    """

    def __init__(
        self, folder: Path, at: int, deed: Callable[[], object], log: Path, *, calls: bool
    ) -> None:
        self.folder = folder
        self.at = at
        self.deed = deed
        self.log = log
        self.calls = calls
        self.count = 0

    def __call__(self) -> None:
        """Begin to count."""
        # Every iteration is saved, so that there are operations between them.
        import dno.runs.run

        dno.runs.run.SAVE_SECONDS = 0.0  # type: ignore[misc]
        self.descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.write = os.write
        for name in CALLS if self.calls else ():
            setattr(os, name, self._counted(getattr(os, name)))
        sys.addaudithook(self._look)

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" and event not in EVENTS:
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITES):
            return
        if not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        path = Path(os.path.abspath(os.fsdecode(args[0])))  # noqa: PTH100
        if path.is_relative_to(self.folder):
            self._step()

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self._step()
            return call(*args)

        return counted

    def _step(self) -> None:
        self.count += 1
        self.write(self.descriptor, b".")
        if self.count == self.at:
            self.deed()


def kill() -> None:
    """What a scheduler or a lack of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def fill_disk() -> None:
    """What a disk without room says."""
    raise OSError(28, "No space left on device")


def look(folder: Path, without: Path | None = None) -> dict[str, Any]:
    """All that is below a folder: what each path leads to, or holds."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if without is not None and path.is_relative_to(without):
            continue
        if path.is_symlink():
            found[str(path)] = path.readlink()
        elif path.is_file():
            found[str(path)] = path.read_bytes()
        else:
            found[str(path)] = path.stat().st_mode
    return found


def bits(folder: Path) -> dict[str, Any]:
    """What a run computed: its noise, its pictures and its history, the time that it took left
    out.
    """
    import dno

    run = dno.open_run(folder)
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")
    }
    found |= {name: run.noise(name).numpy().tobytes() for name in ("initial", "best")}
    records = [json.loads(record.to_json()) for record in run.history]
    found["history"] = [{**record, "seconds": 0} for record in records]
    found["status"] = run.status
    return found


def anew(folder: Path, like: Path | None = None) -> Path:
    """An empty folder in the place of what was there, or a copy of another."""
    shutil.rmtree(folder, ignore_errors=True)
    if like is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(like, folder, symlinks=True)
    return folder
