"""What the studies of results.py reached, as it is kept in the CSVs beside the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dno.runs.pace import Pace

Row = dict[str, Any]
"""A case, prompt and seed: columns of a study's `items.csv`, and `moved`, the distance of the best
noise from its start."""
WORDS = ("case", "prompt")
"""Columns that hold no number."""


@dataclass(frozen=True)
class Measured:
    """Rows of all cases, and how far each case got in how many seconds."""

    rows: Sequence[Row]
    paces: Mapping[str, Pace]

    def of(self, case: str) -> list[Row]:
        """The rows of one case."""
        return [row for row in self.rows if row["case"] == case]

    @classmethod
    def read(cls, rows: Path, curves: Path) -> Self:
        """From the files that `write` made."""
        with rows.open(newline="") as file:
            found = [_row(line) for line in csv.DictReader(file)]

        points: dict[str, dict[float, dict[str, float]]] = {}
        with curves.open(newline="") as file:
            for line in csv.DictReader(file):
                point = points.setdefault(line["case"], {}).setdefault(float(line["seconds"]), {})
                point[line["prompt"]] = float(line["gain"])
        return cls(found, {case: _pace(of_case) for case, of_case in points.items()})

    def write(self, rows: Path, curves: Path) -> None:
        """A row for each case, prompt and seed; and one for each case, point and prompt."""
        titles = list(dict.fromkeys(name for row in self.rows for name in row))
        _write(rows, titles, [[row.get(name, "") for name in titles] for row in self.rows])
        points = [
            [case, seconds, prompt, gains[place]]
            for case, pace in self.paces.items()
            for place, seconds in enumerate(pace.seconds)
            for prompt, gains in pace.gains.items()
        ]
        _write(curves, ["case", "seconds", "prompt", "gain"], points)


def _row(line: Mapping[str, str]) -> Row:
    told = {name: text for name, text in line.items() if text}
    return {name: text if name in WORDS else float(text) for name, text in told.items()}


def _pace(points: Mapping[float, Mapping[str, float]]) -> Pace:
    prompts = next(iter(points.values()))
    gains = {prompt: [point[prompt] for point in points.values()] for prompt in prompts}
    return Pace(list(points), gains)


def _write(path: Path, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Numbers to seven digits, as float32 holds them; what is not known is left empty."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else f"{value:.7g}"

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(titles)
        writer.writerows([cell(value) for value in row] for row in rows)
