"""What was read of a run for a page: all that can be, and notes of what cannot."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dno.core.result import StepRecord
from dno.errors import DNOError, RunFolderError
from dno.paths import current_folder
from dno.report.private import folders_in, shown
from dno.report.readings import Row, Told, in_order, rows_of
from dno.runs.saved import SavedRun
from dno.wording import named, said

_SAMPLES: Final = 10_000
"""Samples of a run that is reported, at most."""
_ROWS: Final = 100
"""Numbers of a record that are shown, at most."""


@dataclass(frozen=True)
class Gathered:
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
    def of(cls, run: SavedRun) -> Gathered:
        """Read what can be read, and note what cannot.

        Raises:
            RunFolderError: `run.toml` cannot be read, or names no prompts, or too many.
        """
        _check_size(run)
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
        rows = [_shown_row(row) for row in rows_of(history, told)[:_ROWS]]
        return cls(run, items, history, result, told, rows, notes, folders)


def _check_size(run: SavedRun) -> None:
    """Raise `RunFolderError` where a file names more samples than any run has."""
    prompts = run.values.get("prompts")
    seeds = run.values.get("seeds")
    if isinstance(prompts, list) and isinstance(seeds, list):
        samples = len(prompts) * len(seeds)
        if samples > _SAMPLES:
            raise RunFolderError(
                f"{named(run.path / 'run.toml')} names {samples:,} samples, more than a report "
                f"can show ({_SAMPLES:,})"
            )


def _went_on(result: Mapping[str, Any], history: Sequence[StepRecord]) -> bool:
    """Whether there are records of a time after the end that is told."""
    ended = result.get("iterations")
    return bool(history) and isinstance(ended, int) and history[-1].iteration > ended


def _told(values: Mapping[str, Any], result: Mapping[str, Any], samples: int) -> Told:
    kept = result.get("kept", ())
    return Told(
        samples=samples,
        initial=table(result.get("initial")),
        best=table(result.get("best")),
        weights=_weights(values, result),
        kept=kept if isinstance(kept, list) else (),
        log_p_floor=_finite(values.get("log_p_floor")),
        p_floor=_finite(values.get("p_floor")),
    )


def _weights(values: Mapping[str, Any], result: Mapping[str, Any]) -> Mapping[str, float]:
    """The weights of rewards by name, as far as names tell; 0 for those that were not climbed."""
    weights: dict[str, float] = {}
    for part in _listed(values.get("rewards")):
        weight = _finite(table(part).get("weight"))
        if isinstance(table(part).get("use"), str) and weight is not None:
            weights[part["use"]] = weight
    climbed = result.get("climbed")
    if isinstance(climbed, list):
        names = table(table(result.get("initial")).get("rewards"))
        weights |= {name: 0.0 for name in names if name not in climbed}
    return weights


def last_iterations(read: Gathered) -> Sequence[int | None]:
    """Where each sample ended."""
    ended = table(read.result.get("last")).get("iteration")
    if isinstance(ended, list) and len(ended) == read.told.samples:
        return [i if isinstance(i, int) else None for i in ended]
    last = read.history[-1].iteration if read.history else None
    return [last] * read.told.samples


def _shown_row(row: Row) -> Row:
    """The row with a name that can be displayed."""
    return replace(row, name=shown(row.name, limit=80))


def table(value: Any) -> Mapping[str, Any]:
    """A table that somebody wrote; an empty one where it is something else."""
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
