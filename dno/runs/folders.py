"""What a run folder is called if nobody names it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Set
from itertools import count
from pathlib import Path
from typing import Final

from dno.errors import RunFolderError
from dno.files import PART
from dno.paths import user_path
from dno.wording import named, reason

_LONGEST: Final = 40


def slug(text: str) -> str:
    """A prompt as a harmless part of a folder's name: lower-case ASCII letters, digits, dashes."""
    harmless = re.sub(r"[^a-z0-9]+", "-", text.lower())
    return harmless[:_LONGEST].strip("-") or "run"


@contextlib.contextmanager
def default_folder(prompt: str) -> Iterator[Path]:
    """A new folder `runs/<time>-<prompt>` here, with a number behind it where that is taken.

    It is made at once, so that no other process takes it for its own; where nothing is put into
    it, it is gone again afterwards.

    Raises:
        RunFolderError: it cannot be made.
    """
    above = Path("runs")
    made_above = not above.exists()
    try:
        above.mkdir(exist_ok=True)
        folder = _new_folder(above / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(prompt)}")
    except OSError as error:
        raise RunFolderError(
            f"no folder can be made in {above}: {reason(error)}; name another: --out"
        ) from None
    try:
        yield folder
    finally:
        _remove_if_empty(folder)
        if made_above:
            _remove_if_empty(above)


def _new_folder(path: Path) -> Path:
    """A folder that was not there, of this name or with a number behind it."""
    for number in count():
        folder = path.with_name(f"{path.name}-{number}") if number else path
        # In one second of one prompt: another process, or a script.
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers do not end")


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


LOCK: Final = ".lock"
"""The file that is locked where a folder itself cannot be."""
_MARKERS: Final = frozenset(
    {LOCK, ".DS_Store", ".directory", ".gitignore", ".gitkeep", ".keep", "Thumbs.db", "desktop.ini"}
)
"""Files that are no reason to keep out of a folder: file managers, git and killed runs leave them
in folders that are empty to people."""


def holds_nothing(folder: Path, apart: Set[str] = frozenset()) -> bool:
    """Whether a folder is empty but for such files, and what killed processes left unfinished.

    Args:
        folder: where to look.
        apart: names of other files that do not count.
    """
    names = {path.name for path in folder.iterdir()} - apart
    return all(name in _MARKERS or PART.fullmatch(name) for name in names)


def free_folder(path: Path) -> Path:
    """The path, if a new run may be kept there. Makes nothing.

    Raises:
        RunFolderError: something is there already, or nothing can be made there.
        ConfigError: nothing can have that name.
    """
    user_path(path)
    shown = named(path)
    try:
        if (path.exists() or path.is_symlink()) and not (path.is_dir() and holds_nothing(path)):
            raise RunFolderError(
                f"{shown} is in use; name another folder, or go on with a run: dno resume {shown}"
            )
        above = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(
            f"{shown} cannot be looked into: {reason(error)}; name another folder"
        ) from None
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise RunFolderError(
            f"{shown} cannot be made, because {named(above)} is no folder to write in; name "
            "another folder"
        )
    return path
