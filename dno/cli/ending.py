"""How a run ended, told on the command line, and the exit codes that say so to scripts."""

from __future__ import annotations

import contextlib
import math
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from dno.cli.say import say

if TYPE_CHECKING:
    from dno.report.result import Result

SUCCESS: Final = 0
FAILED: Final = 1
MISTAKE: Final = 2
"""What was asked for is wrong; nothing was run."""
INTERRUPTED: Final = 130
"""What shells report of a program that Ctrl-C ended."""

CODES: Final = {
    "finished": SUCCESS,
    "stopped": SUCCESS,
    "partial": FAILED,
    "failed": FAILED,
    "interrupted": INTERRUPTED,
}
"""Exit code by the status of a run."""

told_of: Final[list[Path]] = []
"""Folders of the runs that this command told of."""

SHOWN: Final = ("initial.png", "best.png", "curve.png", "report.html")
"""Files of a run folder that people are pointed to."""

_LIBRARIES: Final = ("torch", "diffusers", "transformers", "pluggy", "pydantic", "importlib")


@contextlib.contextmanager
def plugins_at_work() -> Iterator[None]:
    """Whatever plugins print is no result, and none of them ends the command.

    Raises:
        RunError: one tried to.
    """
    from dno.cli.streams import apart
    from dno.guard import failure

    try:
        with apart():
            yield
    except SystemExit as error:
        raise failure("a plugin", error) from error


def finish(*results: Result) -> None:
    """End the command with the worst of the codes of runs that were told."""
    code = max(CODES[result.status.value] for result in results)
    if code != SUCCESS:
        raise typer.Exit(code)


def tell(result: Result) -> None:
    """Say how a run that has a folder went, and what kept it from going well, if anything."""
    assert result.folder is not None
    told_of.append(result.folder)
    for name in SHOWN:
        if (result.folder / name).exists():
            say(result.folder / name)
    say(result.verdict())

    if CODES[result.status.value] != SUCCESS:
        say(f"dno: {_what_to_do(result)}", err=True)


def _what_to_do(result: Result) -> str:
    """What kept a run from going well, and how to go on."""
    status = result.status.value
    if status == "interrupted":
        return f"interrupted; to go on: dno resume {result.folder}"
    if status == "partial":
        failed = f"{len(result.failures)} of {len(result.items)} samples failed"
        return f"{failed}; the others went well, and all are kept in {result.folder}"
    assert result.error is not None
    folder = result.folder
    way = f"kept what was reached; to try again from there: dno resume {folder}"
    reached = (result.best.score_B > -math.inf).any()
    if reached and "not finite" in str(result.error):
        # Going on may well meet the same numbers again.
        way += (
            f"\nor from its best noise, with other options: dno optimize --config "
            f"{folder}/run.toml --start {folder}"
        )
    return f"{told(result.error)}\n{way}"


def told(error: BaseException) -> str:
    """The error's sentence, with the place in a plugin's code that raised something unforeseen."""
    cause = error.__cause__
    if cause is None or type(cause).__name__ not in str(error):
        return str(error)

    frames = [
        frame
        for frame in traceback.extract_tb(cause.__traceback__)
        if not _is_a_librarys(frame.filename)
    ]
    if not frames:
        return str(error)
    return f"{error} (at {frames[-1].filename}:{frames[-1].lineno})"


def _is_a_librarys(file: str) -> bool:
    """Whether a file is ours or a library's, and so not where a plugin's author should look."""
    ours = str(Path(__file__).parents[1])
    libraries = [f"{os.sep}{name}{os.sep}" for name in _LIBRARIES]
    return any(part in file for part in (ours, "<frozen", *libraries))
