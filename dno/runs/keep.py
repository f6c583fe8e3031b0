"""What of a run folder a study keeps once its item is done, and how much that is."""

from __future__ import annotations

import contextlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Final

from dno.errors import ConfigError
from dno.runs.lock import HeldError, hold
from dno.wording import short


class Keep(StrEnum):
    """What is kept of an item that is done."""

    ALL = "all"
    BEST = "best"
    """Its configuration, history, result and noise, its pictures at the start and at the best; not
    the state to go on from, the last pictures, nor the frames that its report was made of."""


def parse_keep(text: str) -> Keep:
    """`all` or `best`.

    Raises:
        ConfigError: it is neither.
    """
    try:
        return Keep(text)
    except ValueError:
        raise ConfigError(f"should be all or best, got {short(text)}", source="--keep") from None


_GOES: Final = ("state.safetensors", "found.safetensors", "last.*", "last-*.*", "frames/*")


def thin(folder: Path) -> None:
    """Remove what `Keep.BEST` does not keep, unless somebody works in the folder.

    Whoever asks such a run for more iterations has it begun again, and gets the same.
    """
    # What a link leads to is somebody else's.
    if folder.is_symlink() or (folder / "frames").is_symlink():
        return
    with contextlib.suppress(HeldError, OSError):
        release = hold(folder)
        try:
            for pattern in _GOES:
                for file in folder.glob(pattern):
                    file.unlink()
            # What its report shows of them is in the report.
            (folder / "frames").rmdir()
        finally:
            release()


def size(folder: Path) -> int:
    """Bytes of all files below a folder, links not followed."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += Path(place, name).lstat().st_size
    return found


def forecast(bytes_each: int, left: int, free: int) -> str:
    """What the items of a study will take, said where the first is done.

    Args:
        bytes_each: of one.
        left: how many are to come.
        free: bytes on the disk.
    """
    needed = bytes_each * left
    text = f"an item keeps {_shown(bytes_each)}; {left} more take {_shown(needed)}"
    if needed > free:
        return (
            f"{text}, and {_shown(free)} are free: make room, or keep less of each with --keep best"
        )
    return f"{text} of {_shown(free)} free"


def _shown(count: float) -> str:
    units = ["kB", "MB", "GB", "TB"]
    count /= 1000
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    digits = 1 if count < 10 else 0
    return f"{count:.{digits}f} {units[0]}"
