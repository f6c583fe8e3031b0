"""`dno compare` and `dno leaderboard`: what runs and studies reached, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dno.cli.say import say
from dno.wording import clean

_FOLDERS = "Run folders, studies, or folders of runs."
CsvFile = Annotated[
    Path | None,
    typer.Option("--csv", help="Write the table there.", metavar="FILE", show_default=False),
]


def compare(
    folders: Annotated[list[str], typer.Argument(metavar="RUN...", help=_FOLDERS)],
    to: Annotated[
        list[float] | None,
        typer.Option(
            help="Tell the seconds to this gain, and who is ahead at equal seconds; repeatable.",
            metavar="GAIN",
            show_default=False,
        ),
    ] = None,
    csv: CsvFile = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Write a CSV with a row for each prompt, seed and way there.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with the table and the pictures there.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare ended runs or studies on the prompts and seeds that all of them ran.

    The first is what the others are compared with; ± is a 95 % interval over prompts.

    Example: dno compare study-adam study-ascent --html both.html
    """
    from dno.report.tables import items_csv, pace_notes, pace_table, paired_csv, paired_table
    from dno.runs.pairs import compare_runs

    if to:
        from dno.runs.pace import check_goals

        check_goals(to)
    paired = compare_runs(*folders)
    # Before the first line: what fails does so with nothing said.
    paces = paired.paces() if to else {}
    say(paired.sentence())
    say()
    say(paired_table(paired).text())
    if to:
        say()
        say(f"{clean(paired.pace_sentence())}:")
        say(pace_table(paces, to).text())
        for note in pace_notes(paces):
            say(clean(note))

    if csv is not None:
        _write(csv, paired_csv(paired, paces, to or ()), "--csv")
    if items is not None:
        _write(items, items_csv(paired), "--items")
    if html is not None:
        from dno.report.pairs_page import pairs_page

        _write(html, pairs_page(paired, to or ()).encode(), "--html")


def leaderboard(
    folders: Annotated[list[str], typer.Argument(metavar="STUDY...", help=_FOLDERS)],
    by: Annotated[
        str | None,
        typer.Option(help="Reward to order by.", metavar="NAME", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Look at this prompt alone.", metavar="TEXT", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="Rows to print.", min=1)] = 20,
    csv: CsvFile = None,
) -> None:
    """Order the settings of a study by what they reached; of one setting, its items.

    Settings are compared on the prompts and seeds that all of them ran. Where several rewards were
    climbed, * marks those that no other setting beats in all of them (the Pareto front).

    Example: dno leaderboard study
    """
    from dno.report.tables import leaderboard_csv, leaderboard_table
    from dno.runs.leaderboard import leaderboard as ordered

    found = ordered(*folders, by=by, prompt=prompt)
    say(found.sentence())
    say()
    say(leaderboard_table(found, top).text())
    if csv is not None:
        _write(csv, leaderboard_csv(found), "--csv")


def _write(path: Path, data: bytes, source: str) -> None:
    from dno.files import write_file
    from dno.paths import user_path

    place = user_path(path, source=source)
    write_file(place, data)
    say(place)
