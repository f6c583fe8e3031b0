"""How far an item of a study is, by its own files and its lock alone."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path

from dno.core.result import Status
from dno.errors import RunFolderError
from dno.runs.lock import HeldError, hold
from dno.runs.saved import SavedRun


class Standing(StrEnum):
    """How far an item is."""

    NEW = "new"
    BEGUN = "begun"
    """It can be gone on with."""
    HELD = "held"
    """Another process works on it."""
    DONE = "done"


def standing(folder: Path) -> Standing:
    """How far the item with this run folder is."""
    if folder.is_dir() and _is_held(folder):
        return Standing.HELD
    if not (folder / "run.toml").exists():
        return Standing.NEW
    # Damaged files are for the resumption to tell.
    with contextlib.suppress(RunFolderError):
        if SavedRun(folder).status in (Status.FINISHED, Status.STOPPED, Status.PARTIAL):
            return Standing.DONE
    return Standing.BEGUN


def _is_held(folder: Path) -> bool:
    try:
        release = hold(folder)
    except HeldError:
        return True
    # Who cannot lock it is told so when it is run.
    except OSError:
        return False
    release()
    return False
