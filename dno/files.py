"""Files that are there whole or not at all, and files of others that are read with care."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from dno.errors import RunError
from dno.wording import named, reason

PART: Final = re.compile(r"\.dno-[0-9a-f]{16}\.part")
"""Name of a file that is not written to its end; a process that is killed may leave one."""

# A name that is taken is never opened, be it by a link that leads elsewhere.
_NEW: Final = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_READ: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that nobody, not even after a crash, finds a part of it.

    Its folder is made if it is not there. A link at its place, symbolic or hard, is replaced: what
    it leads to stays as it is.

    Args:
        path: where.
        data: all of its bytes.

    Raises:
        RunError: the disk is full, or the folder may not be written.
    """
    # Nobody can have put anything at a name that nobody can know.
    part = path.with_name(f".dno-{secrets.token_hex(8)}.part")
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(part, _NEW, 0o666)
        made = True
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        made = False
    except (OSError, ValueError) as error:
        raise RunError(f"{named(path)} cannot be written: {reason(error)}") from error
    finally:
        # Of an interruption too, nothing is left.
        if made:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def read_file(path: Path, limit: int | None = None) -> bytes:
    """All bytes of a regular file, whoever put it there; a pipe or device is never waited for.

    Args:
        path: the file; a link is followed.
        limit: the most bytes that it may have.

    Raises:
        OSError: it is not there, may not be read, is no regular file, or is larger.
    """
    check_regular(path)
    descriptor = os.open(path, _READ)
    with os.fdopen(descriptor, "rb") as file:
        # It may have become another meanwhile.
        _check_mode(os.fstat(file.fileno()).st_mode)
        if limit is None:
            return file.read()
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit // 2**20} MB", str(path))
    return data


def check_regular(path: Path) -> None:
    """Raise `OSError` unless a file, or what a link leads to, is a regular one."""
    _check_mode(path.stat().st_mode)


def _check_mode(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file")
