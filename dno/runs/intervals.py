"""Means with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_LEVEL: Final = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and half the width of its 95 % t interval; nan where there is one value alone."""

    mean: float
    half: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return ""
        if math.isnan(self.half):
            return f"{self.mean:+.4g}"
        return f"{self.mean:+.4g} ± {self.half:.2g}"


def over_prompts(values: Mapping[tuple[str, int], float]) -> Interval:
    """Mean and interval of one value for each (prompt, seed); what is not finite is left out.

    Seeds of a prompt share much, so they are averaged first and the interval is over the prompts.
    Where there is one prompt, it is over its seeds.
    """
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        if math.isfinite(value):
            by_prompt.setdefault(prompt, []).append(value)
    groups = list(by_prompt.values())
    if len(groups) == 1:
        return interval(groups[0])
    return interval([math.fsum(seeds) / len(seeds) for seeds in groups])


def interval(values: list[float]) -> Interval:
    """Student's interval of the mean of independent values."""
    count = len(values)
    if not count:
        return Interval(math.nan, math.nan)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t_quantile(count - 1) * math.sqrt(variance / count))


def t_quantile(freedom: int) -> float:
    """The t that |T| stays under in 95 % of cases, for whole degrees of freedom."""
    low = 1.9
    high = 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _within(middle, freedom) < _LEVEL:
            low = middle
        else:
            high = middle
    return low


def _within(t: float, freedom: int) -> float:
    """P(|T| < t), a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine = math.sin(angle)
    cosine = math.cos(angle)
    odd = freedom % 2 == 1

    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
