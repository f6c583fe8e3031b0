"""Commands on run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dno.cli.ending import finish, plugins_at_work, tell
from dno.guard import collecting_later


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    iterations: Annotated[
        int | None,
        typer.Option(help="Go on to this many in all.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="What else may change, as budget.seconds=60; repeatable.",
            metavar="PLACE=VALUE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Go on with a run that was stopped or killed, or give a finished one more iterations."""
    from dno.runs.spellings import parse_settings

    changes = dict(parse_settings(settings or []))

    from dno.runs.again import configuration_of
    from dno.runs.check import check

    with plugins_at_work():
        check(configuration_of(folder, iterations=iterations, settings=changes), fresh=False)

    # After what was given has been read: this imports torch, which takes seconds.
    with collecting_later():
        from dno.api import resume as go_on

    with plugins_at_work():
        result = go_on(folder, iterations=iterations, settings=changes)
    tell(result)
    finish(result)
