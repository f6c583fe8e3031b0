"""`report.html`: a run, or several side by side, as one file that any browser opens by itself.

It is made of what run folders hold, and of nothing else, so that it can be made of runs that were
killed, that go on, or that an earlier version left. The page asks nobody for anything, and its
policy forbids it: even its own script and style run only by their checksums.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dno.errors import RunFolderError
from dno.files import write_file
from dno.paths import user_path
from dno.report.place import NAME, check_place
from dno.runs.saved import SavedRun, open_run
from dno.wording import named

if TYPE_CHECKING:
    from dno.report.view import Sheet


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all; a link there is replaced.

    Args:
        folder: the run folder.

    Returns:
        Where it is.

    Raises:
        RunFolderError: it is no run folder, or `run.toml` cannot be read.
        RunError: the file cannot be written.
    """
    page = page_of([open_run(folder)])
    path = folder / NAME
    write_file(path, page)
    return path


def report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write a page of one or several runs, or of one study.

    Args:
        runs: the run folders, or a study's folder alone.
        out: where to write it; unless given, `report.html` in the folder of a run or study that is
            alone, and in the current folder for several. A page that `dno` wrote is replaced.

    Returns:
        Where it is.

    Raises:
        RunFolderError: one is no run folder, a study is not alone, or a file is in the way that
            `dno` did not write.
        RunError: the file cannot be written.
    """
    from dno.report.study_page import write_study_page
    from dno.report.study_read import is_study

    given = [user_path(run) for run in runs]
    studies = [folder for folder in given if is_study(folder)]
    if studies and len(given) > 1:
        raise RunFolderError(
            f"{named(studies[0])} is a study, which has a page of its own; name it alone, or set "
            "studies side by side with `dno compare`"
        )
    if studies:
        return write_study_page(studies[0], None if out is None else user_path(out, source="--out"))

    opened = [open_run(run) for run in runs]
    if out is not None:
        path = user_path(out, source="--out")
    elif len(opened) == 1:
        path = opened[0].path / NAME
    else:
        path = Path(NAME)
    check_place(path)
    write_file(path, page_of(opened))
    return path


def page_of(runs: Sequence[SavedRun]) -> bytes:
    """The page of one or several runs, as UTF-8.

    Raises:
        RunFolderError: a `run.toml` cannot be read.
    """
    # Here, since plugins import this module, and a report needs much that they do not.
    from dno.report.view import sheet_of

    return render(sheet_of(runs)).encode()


def render(sheet: Sheet) -> str:
    """A page of what is known."""
    from dno.report.pages import rendered

    return rendered("page.html", styles=["report.css"], script="report.js", sheet=sheet)
