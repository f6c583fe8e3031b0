"""The numbers of a run by iteration, each with where it began and what it was at the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from dno.core.result import StepRecord

Kind: TypeAlias = Literal["total", "climbed", "reported", "held out", "log P", "p", "cost", "other"]

Values: TypeAlias = Sequence[float]
"""One for each sample, or a single one that all share; nan where there is none."""

_NAN: Final = math.nan


@dataclass(frozen=True)
class Row:
    """One number by iteration."""

    kind: Kind
    name: str
    by_record: Sequence[Values]
    plain: Values = ()
    """At the plain sample."""
    best: Values = ()
    note: str = ""
    floor: float | None = None
    """What it must not fall below, where noise is to count as healthy."""

    @property
    def key(self) -> str:
        """What it is called among all rows of a run."""
        return f"{self.kind}.{self.name}"

    @property
    def title(self) -> tuple[str, str]:
        """What people call it, and what there is to add."""
        return ("log P", self.name) if self.kind == "log P" else (self.name, self.note)


@dataclass(frozen=True)
class Told:
    """What is known of a run besides its records."""

    samples: int
    initial: Mapping[str, Any] = field(default_factory=dict)
    """Of `result.json`, as the next one."""
    best: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the rewards that are climbed, by name."""
    kept: Sequence[str] = ()
    log_p_floor: float | None = None
    p_floor: float | None = None


def in_order(history: Sequence[StepRecord]) -> list[StepRecord]:
    """The records by iteration, of each the last that was written."""
    return [record for _, record in sorted({r.iteration: r for r in history}.items())]


def best_iterations(history: Sequence[StepRecord], told: Told) -> list[int | None]:
    """Where each sample was at its best, of those evaluations that its run could end with."""
    said = told.best.get("iteration")
    if isinstance(said, list) and len(said) == told.samples:
        return [i if isinstance(i, int) else None for i in said]
    if not history:
        return [None] * told.samples

    # The best of a coarser grid is not the run's: it is handed over to the grid that comes last.
    grid = None if any(r.grid is None for r in history[1:]) else history[-1].grid
    found: list[int | None] = []
    for sample in range(told.samples):
        healthy = [
            (_at(record.reward, sample), -record.iteration)
            for record in history
            if record.grid == grid and _is_healthy(record, sample)
        ]
        known = [pair for pair in healthy if math.isfinite(pair[0])]
        found.append(-max(known)[1] if known else None)
    return found


def rows_of(history: Sequence[StepRecord], told: Told) -> list[Row]:
    """All that was recorded, what is looked at first coming first."""
    if not history:
        return []
    reader = _Reader(history, told)
    rewards = _names(history, "rewards")
    climbed = [name for name in rewards if told.weights.get(name, 1.0)]
    rows = []
    if len(climbed) > 1:
        rows.append(reader.alone("total", "weighted rewards", lambda record: record.reward))
    for name in climbed:
        weight = told.weights.get(name, 1.0)
        note = "" if weight == 1 else f"weight {weight:g}"
        rows.append(reader.of("climbed", "rewards", name, note))
    rows += [
        reader.of("reported", "rewards", name, "reported")
        for name in rewards
        if name not in climbed
    ]
    rows += [
        reader.of("held out", "monitors", name, "held out") for name in _names(history, "monitors")
    ]
    rows += _noise_rows(reader, history, told)
    rows += [reader.shared("cost", name, read) for name, read in _COSTS.items()]
    rows += [
        reader.of("other", "penalties", name, "penalty") for name in _moving_penalties(history)
    ]
    if any(record.gamma is not None for record in history):
        rows.append(reader.alone("other", "gamma", lambda record: record.gamma or ()))
    rows.append(reader.alone("other", "gradient norm", lambda record: record.grad_norm))
    figures = [name for name in _names(history, "figures") if not _is_p_value(name)]
    rows += [reader.of("other", "figures", name, "figure") for name in figures]
    return [row for row in rows if _says_something(row)]


def _noise_rows(reader: _Reader, history: Sequence[StepRecord], told: Told) -> list[Row]:
    rows = [
        reader.of("log P", "log_p", name, floor=told.log_p_floor)
        for name in _names(history, "log_p")
    ]
    p_values = [name for name in _names(history, "figures") if _is_p_value(name)]
    free = [name for name in p_values if not _is_kept(name, told.kept)]
    floor = None
    if told.p_floor and free:
        # The least of them times their number decides.
        floor = told.p_floor / len(free)
    for name in [*free, *(name for name in p_values if name not in free)]:
        kept = name not in free
        note = "kept" if kept else ""
        rows.append(reader.of("p", "figures", name, note, None if kept else floor))
    return rows


_COSTS: Final[Mapping[str, Callable[[StepRecord], float]]] = {
    "seconds": lambda record: record.seconds,
    "network evaluations": lambda record: float(record.network_evaluations),
    "reward calls": lambda record: float(record.reward_calls),
}
"""What is counted for a run as a whole, the last two per sample."""


class _Reader:
    """Reads rows of the same records, however many values somebody put into them."""

    def __init__(self, history: Sequence[StepRecord], told: Told) -> None:
        self._history = history
        self._told = told
        at = {record.iteration: i for i, record in enumerate(history)}
        self._best = [
            at.get(-1 if iteration is None else iteration)
            for iteration in best_iterations(history, told)
        ]

    def of(
        self, kind: Kind, group: str, name: str, note: str = "", floor: float | None = None
    ) -> Row:
        """The row of one name in a group of a record."""
        by_record = [self._fit(getattr(record, group).get(name, ())) for record in self._history]
        plain = self._said(self._told.initial, group, name) or by_record[0]
        best = self._said(self._told.best, group, name) or self._at_best(by_record)
        return Row(kind, name, by_record, plain, best, note, floor)

    def alone(self, kind: Kind, name: str, read: Callable[[StepRecord], Values]) -> Row:
        """The row of a field of a record that has no names in it."""
        by_record = [self._fit(read(record)) for record in self._history]
        return Row(kind, name, by_record, by_record[0], self._at_best(by_record))

    def shared(self, kind: Kind, name: str, read: Callable[[StepRecord], float]) -> Row:
        """The row of a number that all samples share."""
        values = [read(record) for record in self._history]
        best = tuple(_NAN if at is None else values[at] for at in self._best)
        return Row(kind, name, [(value,) for value in values], (values[0],), best)

    def _fit(self, values: Values) -> Values:
        samples = self._told.samples
        return tuple(_at(values, sample) for sample in range(samples))

    def _at_best(self, by_record: Sequence[Values]) -> Values:
        return tuple(
            _NAN if at is None else by_record[at][sample] for sample, at in enumerate(self._best)
        )

    def _said(self, reached: Mapping[str, Any], group: str, name: str) -> Values | None:
        """What `result.json` has of it; None where it has nothing."""
        held = reached.get(group)
        values = held.get(name) if isinstance(held, Mapping) else None
        if not isinstance(values, list):
            return None
        return self._fit([_number(value) for value in values])


def _names(history: Sequence[StepRecord], group: str) -> list[str]:
    return list(dict.fromkeys(name for record in history for name in getattr(record, group)))


def _moving_penalties(history: Sequence[StepRecord]) -> list[str]:
    """Penalties that were ever more than nothing."""
    return [
        name
        for name in _names(history, "penalties")
        if any(value for record in history for value in record.penalties.get(name, ()))
    ]


def _says_something(row: Row) -> bool:
    known = {value for values in row.by_record for value in values if math.isfinite(value)}
    # What is folded away is worth a look only where it ever changed.
    return len(known) > (row.kind == "other")


def _is_p_value(name: str) -> bool:
    return name.rpartition(".")[2].startswith("p_")


def _is_kept(name: str, kept: Sequence[str]) -> bool:
    return name.rpartition(".")[2] in kept


def _is_healthy(record: StepRecord, sample: int) -> bool:
    return sample < len(record.healthy) and record.healthy[sample]


def _at(values: Values, sample: int) -> float:
    return values[sample] if sample < len(values) else _NAN


def _number(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else _NAN  # type: ignore[arg-type]
