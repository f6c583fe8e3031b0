"""Ways of running, side by side on the prompts and seeds that all of them ran."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from dno.errors import ConfigError, RunFolderError
from dno.runs.ended import Ended, EndedItem, ended_ways
from dno.runs.intervals import Interval, over_prompts
from dno.wording import short

if TYPE_CHECKING:
    from dno.runs.pace import Pace

Key = tuple[str, int]
"""A prompt and a seed."""


class Kind(StrEnum):
    """What a measure tells of."""

    CLIMBED = "climbed"
    HELD_OUT = "held out"
    NOISE = "noise"
    COST = "cost"


@dataclass(frozen=True)
class Line:
    """One measure of one way of running."""

    measure: str
    kind: Kind
    way: str
    mean: Interval
    """Over the pairs."""
    less: Interval | None = None
    """This way less the first, pair by pair; None for the first."""
    better: int = 0
    """Pairs in which it is better than the first."""
    even: int = 0
    worse: int = 0


@dataclass(frozen=True)
class Paired:
    """Two ways of running or more, item by item."""

    ways: Sequence[str]
    keys: Sequence[Key]
    """What all of them ran."""
    items: Mapping[str, Mapping[Key, EndedItem]]
    """Of each way."""
    alone: int
    """Prompts and seeds that some way lacks."""
    climbed: Sequence[str]
    """Rewards that the first way optimised and all report."""
    lines: Sequence[Line]
    left_out: Mapping[str, Mapping[str, int]]
    """Of each way, how many of its items were passed over, by why."""

    def sentence(self) -> str:
        """What was compared, and what was left out."""
        prompts = len({prompt for prompt, _ in self.keys})
        pairs = f"{len(self.keys)} pairs of {prompts} prompts"
        if len(self.keys) == 1:
            pairs = "one pair"
        elif prompts == 1:
            pairs = f"{len(self.keys)} seeds of one prompt"
        missing = [
            f"{count} {why} in {way}"
            for way, counts in self.left_out.items()
            for why, count in counts.items()
        ]
        if self.alone:
            missing.append(f"{self.alone} that are not in all")
        told = f"{', '.join(self.ways)}: {pairs}"
        return f"{told}; left out: {', '.join(missing)}" if missing else told

    def paces(self) -> dict[str, Pace]:
        """How far each way gets in how many seconds, by the first of `climbed`.

        Pairs in `untimed` are left out.

        Raises:
            RunFolderError: no other pair is there.
        """
        from dno.runs.pace import Pace

        timed = [key for key in self.keys if key not in self.untimed]
        if not timed:
            raise RunFolderError(
                f"no pair has histories to read seconds and gains off ({self._untimed_why()}); "
                "copy each run's history.jsonl with its other files, or run them again; without "
                "--to none is needed"
            )
        return {
            way: Pace.of([items[key] for key in timed], self.climbed[0])
            for way, items in self.items.items()
        }

    @functools.cached_property
    def untimed(self) -> Mapping[Key, str]:
        """Pairs whose pace is not known, and why: a history is missing or damaged."""
        from dno.runs.pace import why_unknown

        found: dict[Key, str] = {}
        for way, items in self.items.items():
            for key in self.keys:
                why = why_unknown(items[key], self.climbed[0])
                if why is not None:
                    found.setdefault(key, f"{why} in {way}")
        return found

    def pace_sentence(self) -> str:
        """What paces are of, and what was left out."""
        told = f"gain of {self.climbed[0]}"
        if not self.untimed:
            return told
        count = f"{len(self.untimed)} of {len(self.keys)} pairs"
        return f"{told}; {count} left out: {self._untimed_why()}"

    def _untimed_why(self) -> str:
        counts = Counter(self.untimed.values())
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{count} {why}" for why, count in counts.items())


def compare_runs(*paths: str | Path) -> Paired:
    """Ended runs, studies or folders of runs, on the prompts and seeds that all of them ran.

        >>> found = dno.compare_runs("study-adam", "study-ascent")  # doctest: +SKIP
        >>> [(line.measure, line.less) for line in found.lines if line.less]  # doctest: +SKIP

    Args:
        paths: two or more; the first is what the others are compared with.

    Raises:
        ConfigError: one alone was named; see also `pair`.
        RunFolderError: one is no such folder, or no run in it has ended.
    """
    if len(paths) < 2:
        raise ConfigError(
            "needs two folders or more; what was run in several ways within one is ordered by "
            "`dno leaderboard`"
        )
    return pair(ended_ways(paths))


def pair(ways: Sequence[Ended]) -> Paired:
    """Set ways of running side by side; the first is what the others are compared with.

    Raises:
        ConfigError: one has a prompt and seed twice, no prompt and seed is in all, or no reward is.
    """
    by_way = {way.name: _by_key(way) for way in ways}
    if len(by_way) != len(ways):
        raise ConfigError(f"{short(ways[0].name)} is named twice; name different runs")
    all_keys = list(dict.fromkeys(key for items in by_way.values() for key in items))
    keys = [key for key in all_keys if all(key in items for items in by_way.values())]
    if not keys:
        raise ConfigError(
            "there is no prompt and seed that all of them ran, so that nothing can be paired; "
            "compare runs of the same prompts and seeds"
        )

    first = by_way[ways[0].name][keys[0]]
    reported = [items[key] for items in by_way.values() for key in keys]
    names = [name for name in first.best if all(name in item.best for item in reported)]
    if not names:
        raise ConfigError(
            "no reward is reported by all of them; climb the same, or add it with --monitor"
        )
    climbed = [name for name in names if name in first.climbed]
    measures = [*_score_measures(names, climbed), *_NOISE, *_COSTS]
    lines = [line for measure in measures for line in _lines(measure, by_way, keys)]
    return Paired(
        ways=list(by_way),
        keys=keys,
        items=by_way,
        alone=len(all_keys) - len(keys),
        climbed=climbed or names,
        lines=lines,
        left_out={way.name: way.left_out for way in ways},
    )


def _by_key(way: Ended) -> dict[Key, EndedItem]:
    found: dict[Key, EndedItem] = {}
    for item in way.items:
        if item.key in found:
            prompt, seed = item.key
            raise ConfigError(
                f"{short(way.name)} has {short(prompt)} with seed {seed} more than once; "
                f"`dno leaderboard` tells its settings apart, or name one of its runs"
            )
        found[item.key] = item
    return found


@dataclass(frozen=True)
class _Measure:
    name: str
    kind: Kind
    of: Callable[[EndedItem], float]
    sign: int = 1
    """Whether more is better, or less."""


def _score_measures(names: Sequence[str], climbed: Sequence[str]) -> list[_Measure]:
    measures = []
    for name in names:
        kind = Kind.CLIMBED if name in climbed else Kind.HELD_OUT
        measures.append(_Measure(name, kind, functools.partial(_best, name)))
        measures.append(_Measure(f"{name}, gain", kind, functools.partial(_gain, name)))
    return measures


def _best(reward: str, item: EndedItem) -> float:
    return item.best[reward]


def _gain(reward: str, item: EndedItem) -> float:
    return item.gain(reward)


_NOISE = (
    _Measure("log P", Kind.NOISE, lambda item: item.log_p),
    _Measure("free tests < 0.01", Kind.NOISE, lambda item: float(item.unlikely), sign=-1),
)
_COSTS = (
    _Measure("iterations", Kind.COST, lambda item: item.cost["iterations"], sign=-1),
    _Measure(
        "network evaluations", Kind.COST, lambda item: item.cost["network_evaluations"], sign=-1
    ),
    _Measure("seconds", Kind.COST, lambda item: item.cost["seconds"], sign=-1),
)


def _lines(
    measure: _Measure, by_way: Mapping[str, Mapping[Key, EndedItem]], keys: Sequence[Key]
) -> list[Line]:
    values = {way: {key: measure.of(items[key]) for key in keys} for way, items in by_way.items()}
    if not any(math.isfinite(value) for of_way in values.values() for value in of_way.values()):
        return []

    lines: list[Line] = []
    first: dict[Key, float] | None = None
    for way, of_way in values.items():
        mean = over_prompts(of_way)
        if first is None:
            first = of_way
            lines.append(Line(measure.name, measure.kind, way, mean))
            continue
        less = {key: of_way[key] - first[key] for key in keys}
        known = [value for value in less.values() if math.isfinite(value)]
        signs = [((value > 0) - (value < 0)) * measure.sign for value in known]
        lines.append(
            Line(
                measure.name,
                measure.kind,
                way,
                mean,
                over_prompts(less),
                better=signs.count(1),
                even=signs.count(0),
                worse=signs.count(-1),
            )
        )
    return lines
