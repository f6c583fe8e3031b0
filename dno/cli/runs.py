"""Commands on run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dno.cli.ending import finish, plugins_at_work, tell
from dno.cli.loading import tell_loading
from dno.cli.say import say


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
        config = configuration_of(folder, iterations=iterations, settings=changes)
        check(config, fresh=False)
    tell_loading(config)

    # After what was given has been read: this imports torch, which takes seconds.
    from dno.guard import collecting_later

    with collecting_later():
        from dno.api import resume as go_on

    with plugins_at_work():
        result = go_on(folder, iterations=iterations, settings=changes)
    tell(result)
    finish(result)


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run folders; several side by side.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write. [default: report.html in the folder; of several, here]",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write a page that shows runs or a study, whether they ended or go on, for any browser."""
    from dno.report.page import report as write

    with plugins_at_work():
        path = write(folders, out)
    say(path)
    if show:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            say("dno: there is no browser to open it with", err=True)
