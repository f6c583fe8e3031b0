"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from dno.runs.folders import LOCK

_CANNOT: Final = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)
"""What file systems answer that lock no folders, as NFS does not."""
_PAUSE: Final = 0.05
"""Seconds after which who waits looks again."""


class HeldError(Exception):
    """Another process holds the folder."""


def hold(folder: Path) -> Callable[[], None]:
    """Hold a folder until the function that is returned is called, or this process ends.

    The folder itself is locked, which no removed or replaced file undoes; nothing is written.

    Raises:
        HeldError: another process, or another part of this one, holds it.
        OSError: it cannot be locked.
    """
    if sys.platform == "win32":
        return _hold_file_on_windows(folder / LOCK)

    try:
        return _hold_descriptor(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    # Never emptied and never a link's, for it may be a stranger's file under our name.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return _hold_descriptor(os.open(folder / LOCK, flags, 0o666))


@contextlib.contextmanager
def in_turn(folder: Path, patience: float = math.inf) -> Iterator[None]:
    """Hold a folder for a moment, as soon as nobody else does; where it cannot be locked, or after
    so many seconds, all the same."""
    release: Callable[[], None] | None = None
    until = time.monotonic() + patience
    while release is None and time.monotonic() < until:
        try:
            release = hold(folder)
        except HeldError:
            time.sleep(_PAUSE)
        # A folder that may only be read, for one.
        except OSError:
            break
    try:
        yield
    finally:
        if release is not None:
            release()


def _hold_descriptor(descriptor: int) -> Callable[[], None]:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HeldError from None
    except OSError:
        os.close(descriptor)
        raise

    def release() -> None:
        with contextlib.suppress(OSError):
            os.close(descriptor)

    return release


def _hold_file_on_windows(path: Path) -> Callable[[], None]:
    """Windows lets nobody remove a file that is open."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise HeldError from None
    return lock.release
