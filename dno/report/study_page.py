"""`report.html` of a study: what all of its items gained, and each of them with its pictures.

It is made of what the study's folder holds, and of nothing else, so that it can be made while the
study goes on, and again when more of it is done.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dno.files import write_file
from dno.report.pages import rendered
from dno.report.place import NAME, check_place
from dno.report.study_read import read_study
from dno.report.study_view import study_view
from dno.runs.lock import in_turn
from dno.wording import said

if TYPE_CHECKING:
    from dno.runs.batch import Item

_log = logging.getLogger("dno")

REPORT: Final = "report"
"""The observer that writes a run's own page."""
_PATIENCE: Final = 60.0
"""Seconds to wait for another process that writes the page."""


def write_page_of_items(items: Sequence[Item], folder: Path) -> Path | None:
    """Write the page of a study that ended, if its items have reports.

    Where it cannot be written that is told, and the study is none the worse.

    Args:
        items: what was asked for.
        folder: the study's.

    Returns:
        Where it is; None where none was written.
    """
    observers = [part["use"] for item in items[:1] for part in item.config.dump()["observers"]]
    if REPORT not in observers:
        return None
    try:
        return write_study_page(folder)
    # All that was run is kept by then: no page is worth failing a command that ran for days.
    except Exception as error:
        _log.warning("the study has no page: %s", said(error))
        return None


@contextlib.contextmanager
def page_if_interrupted(items: Sequence[Item], folder: Path) -> Iterator[None]:
    """Write the page of a study where Ctrl-C ends what is within, wherever it strikes."""
    try:
        yield
    except KeyboardInterrupt:
        write_page_of_items(items, folder)
        raise


def write_study_page(folder: Path, path: Path | None = None) -> Path:
    """Write the page of a study, whole or not at all.

    Of several processes that end together the last one's is kept, and it tells of all.

    Args:
        folder: the study's.
        path: where to write it; `report.html` in the folder unless given. A page that `dno` wrote
            is replaced, and nothing else.

    Returns:
        Where it is.

    Raises:
        RunFolderError: it is no study, or a file is in the way that `dno` did not write.
        RunError: the file cannot be written.
    """
    place = folder / NAME if path is None else path
    check_place(place)
    # Who reads first writes first.
    with in_turn(folder, _PATIENCE):
        write_file(place, study_page(folder, place))
    return place


def study_page(folder: Path, path: Path) -> bytes:
    """The page of a study, as UTF-8.

    Args:
        folder: the study's.
        path: where the page will be, which its links start from.

    Raises:
        RunFolderError: it is no study.
    """
    study = study_view(read_study(folder), path)
    styles = ["report.css", "study.css"]
    return rendered("study.html", styles=styles, script="study.js", study=study).encode()
