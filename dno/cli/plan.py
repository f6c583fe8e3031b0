"""`dno plan`: what `dno optimize` would need of memory, before it loads anything."""

from __future__ import annotations

import functools
from typing import Any

import typer

from dno.cli.ending import FAILED, plugins_at_work
from dno.cli.optimize import made_command, run_asked_for
from dno.cli.say import say


def plan(**given: Any) -> None:
    """Say what `dno optimize` with the same options takes of memory and time, and load no weights.

    A MODEL may be a folder with configuration files alone, and --memory 24GiB stands for a card of
    that size. --batch auto finds out how many samples fit side by side, as for dno batch. It ends
    with 1 where the run does not fit.

    Example: dno plan "a black cat" --reward clip --memory 8GiB
    """
    batch = given.pop("batch")
    run_config = run_asked_for(**given, batch=None if batch == "auto" else batch)

    # From here on torch is needed, which takes seconds to import: a mistake is told before.
    from dno.runs.plan import plan as planned

    head = ""
    with plugins_at_work():
        if batch == "auto":
            from dno.runs.batch_size import how_many

            decided = how_many(run_config)
            each = max(1, decided.items // len(run_config.prompts))
            run_config = run_asked_for(**given, batch=str(each))
            head = f"--batch {each}  {decided.sentence()}\n\n"
        found = planned(run_config)
    say(head + found.text())
    if not found.fits:
        raise typer.Exit(FAILED)


def add_to(app: typer.Typer) -> None:
    """Make `plan` a command of the app, with all the options of `optimize`."""

    @functools.wraps(plan)
    def command(**given: Any) -> None:
        # Where a run would be kept decides nothing here, nor what it would be compared with.
        del given["compare"], given["out"]
        plan(**given)

    made_command(app, command)
