"""What a page's script needs to follow the slider: plain values alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dno.core.result import StepRecord
from dno.report.pictures import Pictures
from dno.report.readings import Row

_POSITIONS: Final = 400
"""Iterations whose numbers are in a page, at most."""
_NUMBERS: Final = 60_000
"""Numbers of a run that are in a page, at most."""
_MARKED: Final = 64
"""Iterations that are not left out, at most."""


def data_of(
    history: Sequence[StepRecord],
    rows: Sequence[Row],
    pictures: Pictures,
    best: Sequence[int | None],
) -> Mapping[str, Any]:
    """The numbers and frames of a run.

    Args:
        history: the records that the rows were read from.
        rows: of the samples that are shown.
        pictures: of the same.
        best: at which iteration each of them was at its best.
    """
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
    return sorted(even | set(sorted(marked)[:_MARKED]))


def _all_json(values: Sequence[float]) -> list[float | None]:
    return [_json(value) for value in values]


def _json(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None
