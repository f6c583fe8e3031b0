"""Everything that a page shows of a run, as plain values: a template only draws it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dno.core.result import StepRecord
from dno.errors import DNOError
from dno.paths import current_folder
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
from dno.report.pictures import Pictures, pictures_of
from dno.report.private import folders_in, shown, shown_value
from dno.report.readings import Row, Told, best_iterations, in_order, rows_of
from dno.report.repeat import Repeat, repeat_of
from dno.report.verdict import verdict
from dno.runs.saved import SavedRun
from dno.wording import clean, said

ITEMS: Final = 64
"""Samples of a run that a page shows."""
_POSITIONS: Final = 400
"""Iterations whose numbers are in a page, at most."""
_NUMBERS: Final = 60_000
"""Numbers of a run that are in a page, at most."""
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
    best: int | None
    """The iteration at which it was at its best."""
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
class Setting:
    """One option of a run and its value."""

    place: str
    value: str


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
    read = [_Read.of(run) for run in runs]
    ranges = joined([ranges_of(one.rows) for one in read])
    views = [_view(one, ranges) for one in read]
    first = views[0]
    title = first.items[0].prompt if len(views) == 1 else f"{len(views)} runs"
    return Sheet(title, views, max(view.data["last"] for view in views))


@dataclass(frozen=True)
class _Read:
    """What was read of one run."""

    run: SavedRun
    items: Sequence[tuple[Any, Any]]
    history: Sequence[StepRecord]
    result: Mapping[str, Any]
    """Of `result.json`; empty where the run has not ended, or went on since."""
    told: Told
    rows: Sequence[Row]
    notes: Sequence[str]
    folders: Sequence[Path]
    """Whose names are not shown."""

    @classmethod
    def of(cls, run: SavedRun) -> _Read:
        """Read what can be read, and note what cannot."""
        items = run.items
        folders = _folders(run)
        notes: list[str] = []
        try:
            history = in_order(run.history)
        except DNOError as error:
            history = []
            notes.append(shown(said(error, 400), folders))
        try:
            result: Mapping[str, Any] = run.result
        except DNOError as error:
            result = {}
            notes.append(shown(said(error, 400), folders))
        if _went_on(result, history):
            result = {}
            notes.append("It had ended before, and went on since.")
        told = _told(run.values, result, len(items))
        rows = [_shown_row(row) for row in rows_of(history, told)]
        return cls(run, items, history, result, told, rows, notes, folders)


def _view(read: _Read, ranges: Mapping[str, Range]) -> RunView:
    run, told = read.run, read.told
    count = min(told.samples, ITEMS)
    best = best_iterations(read.history, told)
    pictures = pictures_of(run, told.samples, best, _last_iterations(read), shown=count)
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
        items=[_item(read, i, best[i]) for i in range(count)],
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
        settings=_settings(run.values),
        versions=_versions(read.result),
        repeat=repeat_of(run, name),
        data=_data(read, rows, pictures, best[:count]),
    )


def _is_folded(chart: Chart) -> bool:
    """Whether a chart is shown on request."""
    return chart.kind == "other" or chart.title == "reward calls"


def _went_on(result: Mapping[str, Any], history: Sequence[StepRecord]) -> bool:
    """Whether there are records of a time after the end that is told."""
    ended = result.get("iterations")
    return bool(history) and isinstance(ended, int) and history[-1].iteration > ended


def _told(values: Mapping[str, Any], result: Mapping[str, Any], samples: int) -> Told:
    kept = result.get("kept", ())
    return Told(
        samples=samples,
        initial=_table(result.get("initial")),
        best=_table(result.get("best")),
        weights=_weights(values, result),
        kept=kept if isinstance(kept, list) else (),
        log_p_floor=_finite(values.get("log_p_floor")),
        p_floor=_finite(values.get("p_floor")),
    )


def _weights(values: Mapping[str, Any], result: Mapping[str, Any]) -> Mapping[str, float]:
    """The weights of rewards by name, as far as names tell; 0 for those that were not climbed."""
    weights: dict[str, float] = {}
    for part in _listed(values.get("rewards")):
        weight = _finite(_table(part).get("weight"))
        if isinstance(_table(part).get("use"), str) and weight is not None:
            weights[part["use"]] = weight
    climbed = result.get("climbed")
    if isinstance(climbed, list):
        names = _table(_table(result.get("initial")).get("rewards"))
        weights |= {name: 0.0 for name in names if name not in climbed}
    return weights


def _last_iterations(read: _Read) -> Sequence[int | None]:
    said = _table(read.result.get("last")).get("iteration")
    if isinstance(said, list) and len(said) == read.told.samples:
        return [i if isinstance(i, int) else None for i in said]
    last = read.history[-1].iteration if read.history else None
    return [last] * read.told.samples


def _status(read: _Read) -> Status:
    if not read.result:
        return Status("not ended", "plain")
    word = str(read.result["status"])
    tone = {"finished": "good", "stopped": "good", "interrupted": "plain"}.get(word, "bad")
    return Status(word, tone)


def _verdict(read: _Read) -> list[str]:
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


def _item(read: _Read, i: int, best: int | None) -> Item:
    prompt, seed = read.items[i]
    failures = _table(read.result.get("failures"))
    return Item(
        prompt=shown_prompt(prompt),
        seed=shown(str(seed), limit=40),
        best=best,
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


def _settings(values: Mapping[str, Any]) -> Mapping[str, Sequence[Setting]]:
    """The whole configuration but prompts and seeds, which stand elsewhere, by heading."""
    found: dict[str, list[Setting]] = {"run": []}
    for key, value in shown_value(values).items():
        if key in ("prompts", "seeds"):
            continue
        if isinstance(value, Mapping):
            found[key] = [Setting(place, text) for place, text in _leaves(value)]
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            found[key] = [
                Setting(place, text)
                for one in value
                for place, text in _leaves({"use": one.get("use"), **one})
            ]
        else:
            found["run"].append(Setting(key, _text(value)))
    return {title: rows for title, rows in found.items() if rows}


def _leaves(table: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        inner = f"{place}.{key}" if place else key
        if isinstance(value, Mapping):
            yield from _leaves(value, inner)
        else:
            yield inner, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value or "–"
    return shown(str(value), limit=200)


def _versions(result: Mapping[str, Any]) -> Mapping[str, str]:
    return {
        shown(str(name), limit=40): shown(str(version), limit=40)
        for name, version in list(_table(result.get("versions")).items())[:12]
    }


def _shown_row(row: Row) -> Row:
    """The row with a name that can be displayed."""
    return replace(row, name=shown(row.name, limit=80))


def _first_samples(row: Row, count: int) -> Row:
    """The row of the samples that are shown."""
    return replace(
        row,
        by_record=[values[:count] for values in row.by_record],
        plain=row.plain[:count],
        best=row.best[:count],
    )


def _data(
    read: _Read, rows: Sequence[Row], pictures: Pictures, best: Sequence[int | None]
) -> Mapping[str, Any]:
    """What the script needs to follow the slider."""
    history = read.history
    places = _positions(len(history), len(rows) * len(best), _marked(history, best))
    strip = pictures.strip
    at = [history[i].iteration for i in places]
    seen = strip.at if strip is not None else ()
    return {
        "at": at,
        "first": at[0] if at else 0,
        "last": max([*at, *seen], default=0),
        "grids": [history[i].grid for i in places],
        "left": [
            [record.has_left(s) for s in range(min(len(best), len(record.healthy)))]
            for record in (history[i] for i in places)
        ],
        "rows": {
            row.key: {
                "at": [_all_json(row.by_record[i]) for i in places],
                "plain": _all_json(row.plain),
                "best": _all_json(row.best),
            }
            for row in rows
        },
        "reward": next((row.key for row in rows if row.kind in ("total", "climbed")), None),
        "best": list(best),
        "frames": None
        if strip is None
        else {
            "at": list(strip.at),
            "uris": list(strip.uris),
            "columns": strip.layout.columns,
            "width": strip.width,
            "height": strip.height,
        },
    }


def _marked(history: Sequence[StepRecord], best: Sequence[int | None]) -> set[int]:
    """Places of records that must not be left out: those of best samples."""
    wanted = set(best)
    return {i for i, record in enumerate(history) if record.iteration in wanted}


def _positions(count: int, numbers: int, marked: set[int]) -> list[int]:
    """Places of the records whose numbers are in the page."""
    most = max(min(_POSITIONS, _NUMBERS // max(numbers, 1)), 30)
    if count <= most:
        return list(range(count))
    even = {round(i * (count - 1) / (most - 1)) for i in range(most)}
    return sorted(even | set(sorted(marked)[:ITEMS]))


def _all_json(values: Sequence[float]) -> list[float | None]:
    return [_json(value) for value in values]


def _json(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> Sequence[Any]:
    if isinstance(value, list):
        return [one if isinstance(one, Mapping) else {"use": one} for one in value]
    return []


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _folders(run: SavedRun) -> Sequence[Path]:
    """The folders that messages of a run may name, the longest first."""
    found = {run.path.resolve().parent, run.path.absolute().parent}
    settings = {key: value for key, value in run.values.items() if key != "prompts"}
    found |= set(folders_in(settings))
    # Neither need be there.
    with contextlib.suppress(DNOError, RuntimeError):
        found |= {current_folder(), Path.home()}
    return sorted(found, key=lambda folder: -len(str(folder)))
