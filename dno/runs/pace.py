"""How far a way of running gets in how many seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dno.core.result import StepRecord
from dno.errors import ConfigError, RunFolderError
from dno.runs.ended import EndedItem
from dno.runs.intervals import Interval, over_prompts
from dno.wording import named

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
"""Places of prompts among all of them, some of them several times."""

_RESAMPLED: Final = 2000
"""Bootstrap samples of the prompts."""
_ROUNDING: Final = 1e-9
"""A way's own end is a goal too, and may differ by rounding."""


@dataclass(frozen=True)
class Spread:
    """A value with its 95 % bootstrap interval over prompts; inf where it is never reached.

    Of one prompt alone the interval is nan.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.shown("{:.3g}")

    def shown(self, form: str) -> str:
        """With a format for its numbers, as in `0.79 (0.71–0.92)`."""
        if math.isinf(self.value):
            return "never"
        if math.isnan(self.low):
            return form.format(self.value)
        value, low, high = [
            form.format(one) if math.isfinite(one) else "never"
            for one in (self.value, self.low, self.high)
        ]
        return f"{value} ({low}–{high})"


@dataclass(frozen=True)
class Pace:
    """The mean gain of a way of running, for so many seconds an item.

    Between two points it is read off a straight line.
    """

    seconds: Sequence[float]
    """Of each point, the mean over items; the first is that of the plain sample."""
    gains: Mapping[str, Sequence[float]]
    """By prompt, of each point: the mean over its seeds of the best so far, less the start."""
    whole: bool = False
    """Whether the seconds are those of whole iterations, as no run tells what a look takes."""

    @classmethod
    def of(cls, items: Sequence[EndedItem], reward: str) -> Self:
        """The pace at which these items climbed a reward.

        An item that ended before others stays where it ended. Those that a budget or a target
        stopped may not tell what a look takes; then it is the median of those that do.

        Raises:
            RunFolderError: a run has no history, or one without that reward.
        """
        looks = [seconds for item in items if (seconds := look_seconds(item)) is not None]
        look = statistics.median(looks) if looks else None
        courses = [course(item, reward, look) for item in items]
        length = max(len(points) for points in courses)
        padded = [[*points, *[points[-1]] * (length - len(points))] for points in courses]
        seconds_IT = np.array([[seconds for seconds, _ in points] for points in padded])

        by_prompt: dict[str, list[list[float]]] = {}
        for item, points in zip(items, padded, strict=True):
            by_prompt.setdefault(item.prompt, []).append([gain for _, gain in points])
        gains = {prompt: np.mean(own, axis=0).tolist() for prompt, own in by_prompt.items()}
        return cls(seconds_IT.mean(axis=0).tolist(), gains, whole=look is None)

    @property
    def end(self) -> float:
        """Seconds an item of whole runs."""
        return self.seconds[-1]

    @property
    def mean(self) -> list[float]:
        """The mean gain over prompts, of each point."""
        means: list[float] = self._gains_TP.mean(axis=1).tolist()
        return means

    def seconds_to(self, gain: float) -> Spread:
        """When the mean gain of all prompts gets there."""
        return resampled(len(self.gains), lambda prompts: self._first(gain, prompts))

    def seconds_to_end_of(self, other: Pace) -> Spread:
        """When it has gained as much as another way had in the end, on the same prompts."""
        return resampled(len(self.gains), lambda prompts: self._to_end_of(other, prompts))

    def times_faster(self, other: Pace) -> Spread:
        """Another way's seconds to its own end, over the seconds to gain as much this way."""

        def ratio(prompts: Places) -> float:
            return other._to_end_of(other, prompts) / self._to_end_of(other, prompts)

        return resampled(len(self.gains), ratio)

    def gain_at(self, seconds: float) -> dict[tuple[str, int], float]:
        """Each prompt's gain for so many seconds an item, as `over_prompts` takes it."""
        return {
            (prompt, 0): float(np.interp(seconds, self.seconds, gains))
            for prompt, gains in self.gains.items()
        }

    def less(self, other: Pace) -> tuple[Interval, float]:
        """Its gains less another way's where both have spent as much, prompt by prompt.

        Returns:
            The mean difference, and at how many seconds: those of the way that ended first.
        """
        seconds = min(self.end, other.end)
        theirs = other.gain_at(seconds)
        less = {key: gain - theirs[key] for key, gain in self.gain_at(seconds).items()}
        return over_prompts(less), seconds

    def _to_end_of(self, other: Pace, prompts: Places) -> float:
        return self._first(float(other._gains_TP[-1, prompts].mean()), prompts)

    def _first(self, gain: float, prompts: Places) -> float:
        mean_T = np.maximum.accumulate(self._gains_TP[:, prompts].mean(axis=1))
        gain -= _ROUNDING
        if not mean_T[-1] >= gain:
            return math.inf
        after = int(np.argmax(mean_T >= gain))
        if after == 0:
            return self.seconds[0]
        part = (gain - mean_T[after - 1]) / (mean_T[after] - mean_T[after - 1])
        between = self.seconds[after] - self.seconds[after - 1]
        return float(self.seconds[after - 1] + part * between)

    @cached_property
    def _gains_TP(self) -> Floats:
        # Prompts in one order, so that ways are resampled alike.
        return np.array([self.gains[prompt] for prompt in sorted(self.gains)]).T


def course(item: EndedItem, reward: str, look: float | None = None) -> list[tuple[float, float]]:
    """What a run of any length would have taken and gained: seconds, and the best less the start.

    A run to the end closes with a look, which asks for no gradient; so one that had ended at a
    record would have taken the seconds before that record and those of a look. A run that began on
    a coarser grid has nothing to hand back before its end, so that it has two points: the plain
    sample, and its end.

    Args:
        item: whose run it is.
        reward: what is gained.
        look: seconds of a look, an item, where the run itself does not tell; without either the
            points are at the ends of whole iterations, where a budget would have stopped it.

    Raises:
        RunFolderError: the run has no history, or one without that reward.
    """
    why = why_unknown(item, reward)
    if why is not None:
        file = named(item.run.path / "history.jsonl")
        raise RunFolderError(f"{file} does not tell the pace of {reward}: {why}")

    history = item.run.history
    share = len(item.run.items)
    own = look_seconds(item)
    if own is not None:
        look = own
    if look is None:
        seconds = [record.seconds / share for record in history]
    else:
        seconds = [before / share + look for before in _seconds_before(history)]

    start = history[0].rewards[reward][item.sample]
    best = history[0].reward[item.sample]
    gain = 0.0
    points: list[tuple[float, float]] = []
    for record, at in zip(history, seconds, strict=True):
        counts = record.grid is None and record.healthy[item.sample]
        if counts and record.reward[item.sample] > best:
            best = record.reward[item.sample]
            gain = record.rewards[reward][item.sample] - start
        points.append((at, gain))
    if any(record.grid is not None for record in history):
        return [points[0], points[-1]]
    return points


def why_unknown(item: EndedItem, reward: str) -> str | None:
    """Why the pace at which an item climbed a reward is not known; None where it is."""
    try:
        history = item.run.history
    except RunFolderError:
        return "damaged history"
    if not history:
        return "no history"
    if any(reward not in record.rewards for record in history):
        return f"no {reward} in the history"
    sizes = {len(values) for r in history for values in (r.reward, r.rewards[reward], r.healthy)}
    if sizes != {len(item.run.items)}:
        return "damaged history"
    return None


def look_seconds(item: EndedItem) -> float | None:
    """An item's part of the seconds of the look that its run ended with; None where it had none.

    A run that went to its end looked at the noise once more. One that a budget or a target stopped
    did so only where it had to hand over: else its last record is a whole iteration. Nor is it a
    look where other samples of a run were moved meanwhile.

    Raises:
        RunFolderError: the history is damaged.
    """
    history = item.run.history
    if not history or _asked_gradient(history[-1]):
        return None
    if item.run.result.get("reason") and not _asked_less_at_last(history):
        return None
    return (history[-1].seconds - _seconds_before(history)[-1]) / len(item.run.items)


def _asked_less_at_last(history: Sequence[StepRecord]) -> bool:
    """Whether the last record, which asked for no gradient, asked for less than all before it."""
    calls = [record.reward_calls for record in history]
    asked = [after - before for before, after in pairwise([0, *calls])]
    *iterations, last = asked
    if any(last > count for count in iterations):
        return False
    if any(_asked_gradient(record) for record in history[:-1]):
        return True
    return bool(iterations) and last < min(iterations)


def _asked_gradient(record: StepRecord) -> bool:
    return not all(math.isnan(norm) for norm in record.grad_norm)


def _seconds_before(history: Sequence[StepRecord]) -> list[float]:
    """The seconds at which each record's iteration began."""
    return [0.0, *(record.seconds for record in history[:-1])]


def check_goals(goals: Sequence[float]) -> None:
    """Raise `ConfigError` for a gain that no climb is asked for."""
    for goal in goals:
        if not (math.isfinite(goal) and goal > 0):
            raise ConfigError(f"should be a gain above 0, got {goal:g}", source="--to")


def resampled(count: int, value: Callable[[Places], float]) -> Spread:
    """A value of all of `count` prompts, with its bootstrap interval over them."""
    whole = value(np.arange(count))
    if count == 1:
        return Spread(whole, math.nan, math.nan)
    drawn = np.random.default_rng(0).integers(0, count, (_RESAMPLED, count))
    values = np.sort([value(prompts) for prompts in drawn])
    low = values[round(0.025 * _RESAMPLED)]
    high = values[round(0.975 * _RESAMPLED) - 1]
    return Spread(whole, float(low), float(high))
