"""`dno batch`: a list of prompts and seeds, each a run folder of its own."""

from __future__ import annotations

import functools
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from dno.cli.config import start_values
from dno.cli.ending import FAILED, INTERRUPTED, plugins_at_work, told_of
from dno.cli.help import OptimizeCommand
from dno.cli.loading import tell_that_it_loads
from dno.cli.optimize import ask_for_a_reward, table_parameters
from dno.cli.say import say
from dno.cli.shared import ConfigFile, NoReport, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from dno.runs.batch import Told
    from dno.runs.lists import Row
    from dno.runs.run_config import RunConfig

_PER_ITEM = frozenset({"seed", "batch"})
"""Options of one run that a study has in another form."""


def batch(
    prompts: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Prompts: .txt, .csv, .tsv, .json, .jsonl or .parquet; columns may set options.",
            show_default=False,
            rich_help_panel="DRAW",
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(help="Folder of the study.", metavar="FOLDER", rich_help_panel="KEEP"),
    ],
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds of every prompt, as 0..7 or 0,3,5.", metavar="SEEDS", rich_help_panel="DRAW"
        ),
    ] = "0",
    size: Annotated[
        str,
        typer.Option(
            "--batch",
            help="Items side by side in one tensor, where they differ in prompt or seed alone; or "
            "auto: as many as there is memory for.",
            metavar="N|auto",
            rich_help_panel="DRAW",
        ),
    ] = "1",
    shard: Annotated[
        str | None,
        typer.Option(
            help="Do part i of n of the items alone, as 2/8.",
            metavar="I/N",
            show_default=False,
            rich_help_panel="KEEP",
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            help="How often an item that failed is tried again.", min=0, rich_help_panel="STOP"
        ),
    ] = 1,
    keep: Annotated[
        str,
        typer.Option(
            help="Of an item that is done: all, or best: no state, last pictures, frames.",
            metavar="all|best",
            rich_help_panel="KEEP",
        ),
    ] = "all",
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run items on a Ray cluster: auto, local, or its address.",
            metavar="auto|local|ADDRESS",
            show_default=False,
            rich_help_panel="KEEP",
        ),
    ] = None,
    ray_gpus: Annotated[
        float | None,
        typer.Option(
            help="GPUs of each worker, as 1 or 0.5.", show_default=False, rich_help_panel="KEEP"
        ),
    ] = None,
    ray_cpus: Annotated[
        int | None,
        typer.Option(
            help="Cores of each worker, and its threads.",
            show_default=False,
            rich_help_panel="KEEP",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            help="How many workers, else as many as there is room for.",
            show_default=False,
            rich_help_panel="KEEP",
        ),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="No line for each item.", rich_help_panel="KEEP"),
    ] = False,
    no_report: NoReport = False,
    config: ConfigFile = None,
    settings: Settings = None,
    **options: Any,
) -> None:
    """Optimise every prompt of FILE from every seed, each in a run folder of its own.

    Started again it goes on where it stopped; started several times at once, on one machine or
    many that share the folder, each takes items that no other has.

    Example: dno batch prompts.txt --seeds 0..7 --reward clip --out study
    """
    from dno.paths import user_path
    from dno.runs.cluster import Cluster, check_together
    from dno.runs.keep import parse_keep
    from dno.runs.lists import read_rows
    from dno.runs.spellings import parse_part, parse_seeds, parse_settings, parse_size

    prompts = user_path(prompts, source="FILE")
    out = user_path(out, source="--out")
    numbers = parse_seeds(seeds, "--seeds")
    part = parse_part(shard, "--shard")
    cluster = Cluster.asked_for(ray, gpus=ray_gpus, cpus=ray_cpus, workers=ray_workers)
    many = parse_size(size, "--batch")
    check_together(many, cluster)
    kept = parse_keep(keep)
    rows = read_rows(prompts)
    values = start_values(config, quiet=True, no_report=no_report)
    ask_for_a_reward(values, options)
    configure = _configurer(values, options, parse_settings(settings or []), str(config or ""))

    from dno.runs.check import check
    from dno.runs.lists import configured

    with plugins_at_work():
        # What is wrong with the first is most often wrong with all.
        for row in rows[:1]:
            first = configured(row, numbers[0], configure)
            check(first)
            if not quiet:
                tell_that_it_loads(first)

    # From here on torch is needed, which takes seconds to import: mistakes in the list are told
    # before.
    from dno.guard import collecting_later

    with collecting_later():
        from dno.runs.batch import items_of

    items = items_of(rows, numbers, configure, out)

    from dno.report.page import write_report
    from dno.report.study_page import page_if_interrupted, write_page_of_items
    from dno.runs.study import run_study

    telling: dict[str, Any] = {}
    if not quiet:
        output = sys.stdout
        telling = {
            "tell": functools.partial(_tell, output),
            "say": functools.partial(say, stream=output),
        }
    with plugins_at_work(), page_if_interrupted(items, out):
        summary = run_study(
            items,
            out,
            part=part,
            retries=retries,
            cluster=cluster,
            keep=kept,
            size=many,
            page=write_report,
            **telling,
        )
    told_of.append(out)
    say(summary.sentence(out))
    page = write_page_of_items(items, out)
    if page is not None:
        say(page)
    if summary.interrupted:
        raise typer.Exit(INTERRUPTED)
    if summary.failed:
        raise typer.Exit(FAILED)


def _configurer(
    values: dict[str, Any], options: dict[str, Any], settings: list[tuple[str, Any]], source: str
) -> Callable[[Row, int], RunConfig]:
    """What makes the configuration of one row and seed."""
    from dno.runs.shorthands import assemble, known_options

    known = known_options(command_line=True)

    def configure(row: Row, seed: int) -> RunConfig:
        own = {name: value for name, value in row.options.items() if name in known}
        placed = [*settings, *row.settings.items()]
        given = {**options, **own, "seed": seed}
        return assemble(
            {**values, "prompts": [row.prompt]}, given, placed, source=source, command_line=True
        )

    return configure


def _tell(output: TextIO, told: Told) -> None:
    head = f"[{told.number}/{told.of}] {told.item.name}"
    attempt = told.attempt
    if attempt.error:
        say(f"{head}: {attempt.error}", err=True)
        return
    rises = [f"{name} {first:.4g} -> {best:.4g}" for name, (first, best) in attempt.rises.items()]
    where = f", {told.where}" if told.where else ""
    say(f"{head}: {', '.join(rises)} ({attempt.seconds:.0f} s{where})", stream=output)


def add_to(app: typer.Typer) -> None:
    """Make `batch` a command of the app, with the options of the table among its parameters."""

    @functools.wraps(batch)
    def command(**given: Any) -> None:
        batch(**given)

    signature = inspect.signature(batch, eval_str=True)
    prompts, *few, _options = signature.parameters.values()
    table = [one for one in table_parameters() if one.name not in _PER_ITEM]
    parameters = [prompts, *table, *few]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]

    app.command(cls=OptimizeCommand, context_settings={"max_content_width": 100})(command)
