"""Charts of a run: where each line goes in a box that a page stretches as it likes.

A box is 1000 wide and 300 high, y from its top; words stand beside it, so that they never stretch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dno.core.result import StepRecord
from dno.report.readings import Kind, Row, Values

WIDTH: Final = 1000
HEIGHT: Final = 300
_INSET: Final = 8
"""Left free above and below, so that a line at an end is seen whole."""
_POINTS: Final = 300
"""Of a line, at most."""
_LEAST_P: Final = 1e-12

Range = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    sample: int | None
    """Whose it is; None: of all samples."""
    path: str
    """As an SVG path has it."""
    name: str
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """One or several numbers by iteration."""

    title: str
    note: str
    kind: Kind
    keys: Sequence[str]
    """Of the rows that it shows."""
    lines: Sequence[Line]
    ticks: Sequence[str]
    """At equal distances, from the top down."""
    rule: float | None = None
    """y of a limit, where there is one within the box."""
    rule_label: str = ""


@dataclass(frozen=True)
class Stage:
    """A stretch of iterations on one grid."""

    x: float
    width: float
    label: str
    own: bool
    """Whether it is the sampler's own grid."""


@dataclass(frozen=True)
class Across:
    """Where iterations are, from left to right."""

    first: int
    last: int

    def x(self, iteration: float) -> float:
        """The place of an iteration."""
        span = max(self.last - self.first, 1)
        return (iteration - self.first) / span * WIDTH

    @property
    def ticks(self) -> list[str]:
        """Iterations at equal distances."""
        span = self.last - self.first
        parts = next((parts for parts in (5, 4, 3, 2) if span and span % parts == 0), 1)
        if not span:
            return [str(self.first)]
        return [str(self.first + span * i // parts) for i in range(parts + 1)]


def across(iterations: Sequence[int]) -> Across:
    """The axis of these iterations."""
    return Across(iterations[0], iterations[-1]) if iterations else Across(0, 0)


def stages_of(history: Sequence[StepRecord]) -> list[Stage]:
    """The stretches of a run, where it was on other grids than the sampler's own."""
    axis = across([record.iteration for record in history])
    starts: list[StepRecord] = []
    for record in history:
        if not starts or starts[-1].grid != record.grid:
            starts.append(record)
    if all(record.grid is None for record in starts):
        return []

    # An iteration takes the room from halfway after the one before it.
    begins = [0.0, *(axis.x(record.iteration - 0.5) for record in starts[1:])]
    found = []
    for record, x, end in zip(starts, begins, [*begins[1:], float(WIDTH)], strict=True):
        own = record.grid is None
        label = "all steps" if own else f"{record.grid} steps"
        found.append(Stage(x, end - x, label, own))
    return found


def ranges_of(rows: Sequence[Row]) -> Mapping[str, Range]:
    """From where to where each row goes, by its key."""
    return {row.key: found for row in rows if (found := _range(row)) is not None}


def joined(several: Sequence[Mapping[str, Range]]) -> Mapping[str, Range]:
    """Ranges that hold those of all runs, so that runs side by side can be compared by eye."""
    found: dict[str, Range] = {}
    for ranges in several:
        for key, (low, high) in ranges.items():
            before = found.get(key, (low, high))
            found[key] = (min(low, before[0]), max(high, before[1]))
    return found


def charts_of(
    rows: Sequence[Row], iterations: Sequence[int], ranges: Mapping[str, Range]
) -> list[Chart]:
    """A chart for each row, all p-values in one.

    Args:
        rows: what to show.
        iterations: of the records that they were read from.
        ranges: see `ranges_of`.
    """
    axis = across(iterations)
    charts = [_chart(row, iterations, axis, ranges[row.key]) for row in rows if row.kind != "p"]
    p_values = [row for row in rows if row.kind == "p"]
    if p_values:
        after = sum(row.kind not in ("cost", "other") for row in rows) - len(p_values)
        charts.insert(after, _p_chart(p_values, iterations, axis, ranges))
    return charts


def _chart(row: Row, iterations: Sequence[int], axis: Across, range_: Range) -> Chart:
    low, high, ticks = nice(*range_)

    def y(value: float) -> float:
        return HEIGHT - _INSET - (value - low) / (high - low) * (HEIGHT - 2 * _INSET)

    shared = len(row.by_record[0]) == 1 and row.kind == "cost"
    lines = []
    for sample, values in enumerate(zip(*row.by_record, strict=True)):
        path = _path(iterations, [y(value) for value in values], axis)
        lines.append(Line(None if shared else sample, path, row.name))
    rule = y(row.floor) if row.floor is not None and low <= row.floor <= high else None
    label = "" if rule is None else f"floor {row.floor:.3g}"
    title, note = row.title
    return Chart(title, note, row.kind, [row.key], lines, ticks, rule, label)


def _p_chart(
    rows: Sequence[Row], iterations: Sequence[int], axis: Across, ranges: Mapping[str, Range]
) -> Chart:
    """All p-values on one logarithmic axis, from 1 down."""
    least = min(ranges[row.key][0] for row in rows)
    floor = next((row.floor for row in rows if row.floor is not None), None)
    decades = max(2, math.ceil(-math.log10(max(least, _LEAST_P))))
    step = math.ceil(decades / 4)
    decades = math.ceil(decades / step) * step
    ticks = [_power(-exponent) for exponent in range(0, decades + 1, step)]

    def y(value: float) -> float:
        if math.isnan(value):
            return value
        depth = min(-math.log10(max(value, _LEAST_P)), decades)
        return _INSET + depth / decades * (HEIGHT - 2 * _INSET)

    lines = [
        Line(sample, _path(iterations, [y(v) for v in values], axis), row.name, row.note == "kept")
        for row in rows
        for sample, values in enumerate(zip(*row.by_record, strict=True))
    ]
    rule = y(floor) if floor is not None and floor >= 10.0**-decades else None
    label = "" if rule is None else f"floor {floor:.2g}"
    # What a constraint keeps is no evidence, and is not read out.
    keys = [row.key for row in rows if row.note != "kept"] or [row.key for row in rows]
    return Chart("p-values", "", "p", keys, lines, ticks, rule, label)


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else f"1e{exponent}"


def _range(row: Row) -> Range | None:
    values = [v for values in (*row.by_record, row.plain, row.best) for v in values]
    known = [value for value in values if math.isfinite(value)]
    return (min(known), max(known)) if known else None


def nice(low: float, high: float) -> tuple[float, float, list[str]]:
    """Round numbers around a range, with the numbers in between, from the top down."""
    span = high - low
    if span <= abs(high) * 1e-9 or not math.isfinite(span):
        middle = low if math.isfinite(low) else 0.0
        pad = abs(middle) * 0.1 or 0.5
        low, high, span = middle - pad, middle + pad, 2 * pad
    rough = span / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = [_tick(step * i, _digits(step)) for i in range(last, first - 1, -1)]
    return first * step, last * step, ticks


def _digits(step: float) -> int:
    """Decimals that tell multiples of a step apart."""
    return next((n for n in range(9) if math.isclose(step * 10**n, round(step * 10**n))), 9)


def _tick(value: float, digits: int) -> str:
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2g}"
    text = f"{value:.{digits}f}"
    return text.replace("-0", "0") if float(text) == 0 else text.replace("-", "−")


def _path(iterations: Sequence[int], ys: Values, axis: Across) -> str:
    """A line that breaks where there is no number."""
    parts = []
    gap = True
    for i in _thinned(ys):
        if not math.isfinite(ys[i]):
            gap = True
            continue
        parts.append(f"{'M' if gap else 'L'}{axis.x(iterations[i]):.1f} {ys[i]:.1f}")
        gap = False
    # A number alone is a dot: a line from it to itself, with round ends.
    if len(parts) == 1:
        parts.append("h0.1")
    return "".join(parts)


def _thinned(ys: Values) -> list[int]:
    """Places of a line's points; of many, the lowest and the highest in each stretch."""
    count = len(ys)
    if count <= _POINTS:
        return list(range(count))
    chosen = {0, count - 1}
    stretches = _POINTS // 2
    for stretch in range(stretches):
        places = range(count * stretch // stretches, count * (stretch + 1) // stretches)
        known = [i for i in places if math.isfinite(ys[i])]
        if not known:
            chosen.add(places[0])
            continue
        chosen |= {min(known, key=lambda i: ys[i]), max(known, key=lambda i: ys[i])}
    return sorted(chosen)
