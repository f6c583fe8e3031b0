"""How a reward is distributed over the items of a study, at the start and at the best.

Two histograms on one axis, the best above the start, in a box that is 1000 wide and 300 high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dno.report.charts import HEIGHT, WIDTH, nice
from dno.report.view import number
from dno.runs.ended import EndedItem
from dno.runs.intervals import Interval, over_prompts

_HALF: Final = 146
"""Height of one histogram and the words in it."""
_TALLEST: Final = 112
"""Of a bar."""
_FEWEST: Final = 10
_MOST: Final = 40
"""Bars over the whole axis."""
_LARGEST: Final = 1e100


@dataclass(frozen=True)
class Bar:
    """How many items have a value in one stretch of the axis."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Half:
    """One histogram."""

    name: str
    """`start` or `best`."""
    mean: float
    x: float
    """Of the mean."""
    floor: float
    """y of its ground."""
    top: float
    """y of its tallest bar, or of what could be one."""
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Spread:
    """One reward over a study."""

    name: str
    climbed: bool
    """Or held out."""
    count: int
    """Items with a number at both."""
    prompts: int
    rose: int
    gain: Interval
    """Its mean, over prompts."""
    halves: Sequence[Half]
    """The best, then the start."""
    ticks: Sequence[str]
    """At equal distances, from the left."""

    @property
    def told(self) -> tuple[str, str]:
        """The mean of the gain, and half of its interval, which may be empty."""
        return told_interval(self.gain)


def spread_of(name: str, items: Sequence[EndedItem]) -> Spread | None:
    """How one reward or held-out one is distributed; None where no item has it at both."""
    known = [item for item in items if _is_shown(item.initial, name) and _is_shown(item.best, name)]
    if not known:
        return None
    start = [item.initial[name] for item in known]
    best = [item.best[name] for item in known]
    low, high, ticks = nice(min(*start, *best), max(*start, *best))
    count = min(max(round(3 * math.sqrt(len(known))), _FEWEST), _MOST)
    both = [_counts(values, low, high, count) for values in (best, start)]
    tallest = max(max(counts) for counts in both)
    halves = [
        _half("best", best, both[0], _HALF, tallest, low, high),
        _half("start", start, both[1], HEIGHT, tallest, low, high),
    ]
    return Spread(
        name=name,
        climbed=any(name in item.climbed for item in known),
        count=len(known),
        prompts=len({item.prompt for item in known}),
        rose=sum(item.gain(name) > 0 for item in known),
        gain=gain_of(name, known),
        halves=halves,
        ticks=ticks[::-1],
    )


def gain_of(name: str, items: Sequence[EndedItem]) -> Interval:
    """Mean and 95 % interval of a gain over prompts; settings are averaged like seeds."""
    # What tells items of one prompt apart does not matter here, so that they are numbered.
    return over_prompts({(item.prompt, i): item.gain(name) for i, item in enumerate(items)})


def _is_shown(values: Mapping[str, float], name: str) -> bool:
    # What overflows in a mean was written by nobody's reward.
    return abs(values.get(name, math.nan)) < _LARGEST


def told_interval(interval: Interval) -> tuple[str, str]:
    """A mean difference with as many digits as half of its interval has, and that half."""
    if not interval.half > 0:
        return signed(interval.mean), ""
    digits = max(1 - math.floor(math.log10(interval.half)), 0)
    if digits > 8 or interval.half >= 1000:
        return signed(interval.mean), number(interval.half)
    mean = f"{interval.mean:+.{digits}f}".replace("-", "−")
    return mean, f"{interval.half:.{digits}f}"


def signed(value: float) -> str:
    """A difference, for people; a dash for none."""
    return f"+{number(value)}" if value > 0 and math.isfinite(value) else number(value)


def _counts(values: Sequence[float], low: float, high: float, bars: int) -> list[int]:
    found = [0] * bars
    for value in values:
        share = (value - low) / (high - low)
        found[min(max(int(share * bars), 0), bars - 1)] += 1
    return found


def _half(
    name: str,
    values: Sequence[float],
    counts: Sequence[int],
    floor: float,
    tallest: int,
    low: float,
    high: float,
) -> Half:
    width = WIDTH / len(counts)
    step = (high - low) / len(counts)
    bars = []
    for i, count in enumerate(counts):
        if not count:
            continue
        height = count / tallest * _TALLEST
        title = f"{name}: {count} from {low + i * step:.4g} to {low + (i + 1) * step:.4g}"
        bars.append(Bar(i * width + 1, floor - height, width - 2, height, title))
    mean = math.fsum(values) / len(values)
    return Half(name, mean, (mean - low) / (high - low) * WIDTH, floor, floor - _TALLEST, bars)
