"""Curves of a run: first the numbers, then a small SVG of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dno.core.result import StepRecord

_WIDTH = 240
_HEIGHT = 120
_EDGE = 18


@dataclass(frozen=True)
class Curve:
    """One figure by iteration, a line per sample."""

    name: str
    iterations: Sequence[int]
    lines: Sequence[Sequence[float]]


def curves_of(history: Sequence[StepRecord]) -> list[Curve]:
    """Rewards, then monitors, then the least log P."""
    first = history[0]
    iterations = [record.iteration for record in history]
    curves = [
        Curve(name, iterations, _by_sample([record.rewards[name] for record in history]))
        for name in first.rewards
    ]
    curves += [
        Curve(name, iterations, _by_sample([record.monitors[name] for record in history]))
        for name in first.monitors
    ]
    if first.log_p:
        least = [record.least_log_p or () for record in history]
        curves.append(Curve("log P(z)", iterations, _by_sample(least)))
    return curves


def _by_sample(rows: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    return list(zip(*rows, strict=True))


def svg(curve: Curve) -> str:
    """The curve as an inline SVG with its name, its range and its last iteration."""
    values = [value for line in curve.lines for value in line if math.isfinite(value)]
    low = min(values, default=0.0)
    high = max(values, default=1.0)
    span = (high - low) or 1.0
    last = max(curve.iterations[-1], 1)

    def place(iteration: int, value: float) -> str:
        x = _EDGE + iteration / last * (_WIDTH - 2 * _EDGE)
        y = _HEIGHT - _EDGE - (value - low) / span * (_HEIGHT - 2 * _EDGE)
        return f"{x:.1f},{y:.1f}"

    lines = []
    for line in curve.lines:
        points = [
            place(iteration, value)
            for iteration, value in zip(curve.iterations, line, strict=True)
            if math.isfinite(value)
        ]
        joined = " ".join(points)
        lines.append(f'<polyline fill="none" stroke="#0969da" points="{joined}"/>')
    title = f"{curve.name}: {low:.4g} to {high:.4g}"
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<text x="{_EDGE}" y="12">{escape(title)}</text>{"".join(lines)}'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 4}" text-anchor="end">iteration {last}</text>'
        "</svg>"
    )
