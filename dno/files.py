"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dno.errors import RunError


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that nobody, not even after a crash, finds a part of it.

    Its folder is made if it is not there. A link at its place is replaced and not followed.

    Args:
        path: where.
        data: all of its bytes.

    Raises:
        RunError: the disk is full, or the folder may not be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a killed process left, or a link: opened anew, so that no link is followed.
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise RunError(f"{path} cannot be written: {reason}") from error
