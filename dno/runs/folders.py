"""What a run folder is called if nobody names it."""

from __future__ import annotations

import re
import time
from pathlib import Path


def slug(text: str) -> str:
    """A prompt as a harmless part of a folder's name: lower-case ASCII letters, digits and
    dashes.
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "run"


def default_folder(prompt: str) -> Path:
    """`runs/<time>-<prompt>` here, with a number behind it where that is taken. Makes nothing."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(prompt)}"
    names = (Path("runs", stem + (f"-{n}" if n else "")) for n in range(1000))
    return next(name for name in names if not name.exists())
