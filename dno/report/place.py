"""What reports are called, and what of others they do not replace."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dno.errors import RunFolderError
from dno.files import read_file
from dno.wording import named, reason

NAME: Final = "report.html"
"""What the report of a run folder, or of a study, is called in it."""
MARK: Final = '<meta name="generator" content="dno '
"""What tells a report of ours from a page of somebody else's."""
_MARKED_WITHIN: Final = 4000
"""Bytes at a page's beginning in which the mark stands."""


def check_place(path: Path) -> None:
    """Raise `RunFolderError` where something stands that is not a report."""
    # A link is replaced, and what it leads to stays.
    if path.is_symlink() or not path.exists():
        return
    try:
        ours = MARK.encode() in read_file(path)[:_MARKED_WITHIN]
    except OSError as error:
        raise RunFolderError(
            f"{named(path)} is in the way: {reason(error)}; name another file: --out"
        ) from None
    if not ours:
        raise RunFolderError(
            f"{named(path)} is there and no report of dno's; name another file: --out"
        )
