"""What a run folder is called if nobody names it."""

from __future__ import annotations

import re
import time
from itertools import count
from pathlib import Path
from typing import Final

from dno.errors import RunFolderError

_LONGEST: Final = 40


def slug(text: str) -> str:
    """A prompt as a harmless part of a folder's name: lower-case ASCII letters, digits, dashes."""
    harmless = re.sub(r"[^a-z0-9]+", "-", text.lower())
    return harmless[:_LONGEST].strip("-") or "run"


def default_folder(prompt: str) -> Path:
    """`runs/<time>-<prompt>` here, with a number behind it where that is taken. Makes nothing."""
    folder = Path("runs", f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(prompt)}")
    if not folder.exists():
        return folder

    # In one second of one prompt: another process, or a script.
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(1))
    return next(path for path in numbered if not path.exists())


def refuse_taken(path: Path) -> None:
    """Raise `RunFolderError` where a folder is there that holds something.

    So much can be told without torch; `dno.runs.storage.free_folder` looks more closely.
    """
    if path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir()):
        raise RunFolderError(
            f"{path} is in use; name another folder, or go on with a run: dno resume {path}"
        )
