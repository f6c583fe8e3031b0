"""`report.html`: a run, or several side by side, as one file that any browser opens by itself.

It is made of what run folders hold, and of nothing else, so that it can be made of runs that were
killed, that go on, or that an earlier version left. The page asks nobody for anything, and its
policy forbids it: even its own script and style run only by their checksums.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dno.errors import RunFolderError
from dno.files import read_file, write_file
from dno.paths import user_path
from dno.runs.saved import SavedRun, open_run
from dno.runs.versions import versions
from dno.wording import named, reason

if TYPE_CHECKING:
    from jinja2 import Environment

    from dno.report.view import Sheet

NAME: Final = "report.html"
"""What the report of a run folder is called in it."""
MARK: Final = '<meta name="generator" content="dno '
"""What tells a report of ours from a page of somebody else's."""
_MARKED_WITHIN: Final = 4000
"""Bytes at a page's beginning in which the mark stands."""


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
    """Write a page of one or several runs.

    Args:
        runs: the run folders.
        out: where to write it; unless given, `report.html` in the folder of a run that is alone,
            and in the current folder for several. A page that `dno` wrote is replaced.

    Returns:
        Where it is.

    Raises:
        RunFolderError: one is no run folder, or a file is in the way that `dno` did not write.
        RunError: the file cannot be written.
    """
    opened = [open_run(run) for run in runs]
    if out is not None:
        path = user_path(out, source="--out")
    elif len(opened) == 1:
        path = opened[0].path / NAME
    else:
        path = Path(NAME)
    _check_place(path)
    write_file(path, page_of(opened))
    return path


def _check_place(path: Path) -> None:
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
    from markupsafe import Markup

    style = _part("report.css")
    script = _part("report.js")
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_checksum(style)}'; script-src '{_checksum(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template("page.html")
    return template.render(
        sheet=sheet,
        version=versions().get("dno", ""),
        policy=policy,
        # Ours, and free of what would end their elements.
        style=Markup(style),
        script=Markup(script),
    )


def _checksum(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@functools.cache
def _part(name: str) -> str:
    return files("dno.report").joinpath("templates", name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from dno.report.view import number

    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"number": number}
    environment.filters.update(filters)
    return environment
