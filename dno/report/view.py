"""Everything that a page shows of a run, as plain values: a template only draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dno.errors import DNOError
from dno.report.charts import (
    Across,
    Chart,
    Range,
    Stage,
    across,
    charts_of,
    joined,
    ranges_of,
    stages_of,
)
from dno.report.facts import facts_of_saved
from dno.report.followed import data_of
from dno.report.gathered import Gathered, last_iterations, table
from dno.report.pictures import Pictures, pictures_of
from dno.report.private import shown
from dno.report.readings import Row, best_iterations
from dno.report.repeat import Repeat, repeat_of
from dno.report.settings import Setting, settings_of, versions_of
from dno.report.verdict import verdict
from dno.runs.saved import SavedRun
from dno.wording import clean, said

ITEMS: Final = 64
"""Samples of a run that a page shows."""
_PROMPT: Final = 2000
"""Characters of a prompt that are shown."""
_WARNS: Final = ("careful: ", "failed: ", "passed over: ")

GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "Rewards": ("total", "climbed", "reported"),
    "Held out": ("held out",),
    "Noise": ("log P",),
    "Tests of the noise": ("p",),
    "Cost": ("cost",),
}
"""Headings of the table of numbers, and the kinds of rows below each."""


@dataclass(frozen=True)
class Item:
    """One sample of a run."""

    prompt: str
    seed: str
    gain: str
    """What became of its reward, in a few characters."""
    failure: str


@dataclass(frozen=True)
class Status:
    """How a run ended, for people."""

    word: str
    tone: str
    """`good`, `plain` or `bad`."""


@dataclass(frozen=True)
class Heading:
    """Rows of the table of numbers under one heading."""

    title: str
    rows: Sequence[Row]
    beside: bool
    """Whether there are so many that they have a table of their own."""


@dataclass(frozen=True)
class RunView:
    """One run on a page."""

    name: str
    status: Status
    items: Sequence[Item]
    samples: int
    """How many it has in all."""
    iterations: int
    """Done so far."""
    seconds: float
    """That these took."""
    verdict: Sequence[str]
    warnings: Sequence[str]
    notes: Sequence[str]
    """What could not be read, or was not kept."""
    pictures: Pictures
    stages: Sequence[Stage]
    axis: Across
    charts: Sequence[Chart]
    more_charts: Sequence[Chart]
    numbers: Sequence[Heading]
    settings: Mapping[str, Sequence[Setting]]
    """By heading."""
    versions: Mapping[str, str]
    repeat: Repeat
    data: Mapping[str, Any]
    """What the page's script reads: plain values alone."""


@dataclass(frozen=True)
class Sheet:
    """A whole page."""

    title: str
    runs: Sequence[RunView]
    last: int
    """The highest iteration of any run."""


def sheet_of(runs: Sequence[SavedRun]) -> Sheet:
    """What a page of these runs shows.

    Raises:
        RunFolderError: a `run.toml` cannot be read.
    """
    read = [Gathered.of(run) for run in runs]
    ranges = joined([ranges_of(one.rows) for one in read])
    views = [_view(one, ranges) for one in read]
    first = views[0]
    title = first.items[0].prompt if len(views) == 1 else f"{len(views)} runs"
    return Sheet(title, views, max(view.data["last"] for view in views))


def _view(read: Gathered, ranges: Mapping[str, Range]) -> RunView:
    run, told = read.run, read.told
    count = min(told.samples, ITEMS)
    best = best_iterations(read.history, told)
    pictures = pictures_of(run, told.samples, best, last_iterations(read), shown=count)
    iterations = [record.iteration for record in read.history]
    rows = [_first_samples(row, count) for row in read.rows]
    charts = charts_of(rows, iterations, ranges) if rows else []
    lines = _verdict(read)
    name = shown(run.path.resolve().name, limit=200)
    notes = [*read.notes]
    if not pictures.any:
        notes.append("There are no pictures: the samples have none, or none were kept.")
    elif pictures.strip is None:
        notes.append("No frames were kept on the way, so that there is nothing between to see.")

    return RunView(
        name=name,
        status=_status(read),
        items=[_item(read, i) for i in range(count)],
        samples=told.samples,
        iterations=read.history[-1].iteration if read.history else 0,
        seconds=read.history[-1].seconds if read.history else math.nan,
        verdict=[line for line in lines if not line.startswith(_WARNS)],
        warnings=[line for line in lines if line.startswith(_WARNS)],
        notes=notes,
        pictures=pictures,
        stages=stages_of(read.history),
        axis=across(iterations),
        charts=[chart for chart in charts if not _is_folded(chart)],
        more_charts=[chart for chart in charts if _is_folded(chart)],
        numbers=_numbers(rows),
        settings=settings_of(run.values),
        versions=versions_of(read.result),
        repeat=repeat_of(run, name),
        data=data_of(read.history, rows, pictures, best[:count]),
    )


def _is_folded(chart: Chart) -> bool:
    """Whether a chart is shown on request."""
    return chart.kind == "other" or chart.title == "reward calls"


def _status(read: Gathered) -> Status:
    if not read.result:
        return Status("not ended", "plain")
    word = str(read.result["status"])
    tone = {"finished": "good", "stopped": "good", "interrupted": "plain"}.get(word, "bad")
    return Status(word, tone)


def _verdict(read: Gathered) -> list[str]:
    """The verdict's lines; of a run that has not ended, how far it came and how to go on."""
    if read.result and read.history:
        try:
            return [
                shown(line.replace(" -> ", " → "), read.folders)
                for line in verdict(facts_of_saved(read.run)).split("\n")
            ]
        # What somebody else wrote may lack anything.
        except (AttributeError, DNOError, KeyError, LookupError, TypeError, ValueError) as error:
            return [f"failed: its result.json cannot be told: {shown(said(error), read.folders)}"]
    done = read.history[-1].iteration if read.history else 0
    name = shown(read.run.path.resolve().name, limit=200)
    return [
        f"not ended: it is going on, or was killed; {done} iterations are recorded",
        f"to go on: dno resume {name}",
    ]


def _item(read: Gathered, i: int) -> Item:
    prompt, seed = read.items[i]
    failures = table(read.result.get("failures"))
    return Item(
        prompt=shown_prompt(prompt),
        seed=shown(str(seed), limit=40),
        gain=_gain(read.rows, i),
        failure=shown(str(failures.get(str(i), "")), read.folders),
    )


def shown_prompt(prompt: object) -> str:
    """A prompt for a page; paths in it are its author's own words."""
    text = clean(str(prompt))
    return text if len(text) <= _PROMPT else f"{text[:_PROMPT]} ... ({len(text):,} characters)"


def _gain(rows: Sequence[Row], sample: int) -> str:
    for row in rows:
        if row.kind in ("total", "climbed") and sample < min(len(row.plain), len(row.best)):
            return f"{number(row.plain[sample])} → {number(row.best[sample])}"
    return ""


def number(value: float | None) -> str:
    """A number for people, to four digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−") if "e" not in text else text


def _numbers(rows: Sequence[Row]) -> list[Heading]:
    found = []
    for title, kinds in GROUPS.items():
        under = [row for row in rows if row.kind in kinds]
        if under:
            found.append(Heading(title, under, beside=kinds == ("p",)))
    return found


def _first_samples(row: Row, count: int) -> Row:
    """The row of the samples that are shown."""
    return replace(
        row,
        by_record=[values[:count] for values in row.by_record],
        plain=row.plain[:count],
        best=row.best[:count],
    )
