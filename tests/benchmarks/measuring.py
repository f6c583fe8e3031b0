"""Figures with their noise: measured in turns, written as JSON, compared with earlier ones."""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int
    """Of denoising."""
    rounds: int
    """Turns that each job gets."""
    memory_steps: tuple[int, ...]
    """Numbers of steps whose memory is counted."""
    batches: tuple[int, ...]
    """Samples side by side, 1 first."""
    entries: int
    """Of the noise that the regularizer looks at."""
    iterations: int
    """Of the run whose engine is watched."""
    checkpoints: int
    """Iterations of the run whose folder is watched."""
    runs: int
    """Of the process that is watched over many of them."""
    starts: int
    """Processes that are started."""
    starts_before: int
    """As many of each first, which do not count."""
    prompts: int
    """That each rule climbs on."""
    block: int
    """So many of them side by side."""
    climb: float
    """Share of the iterations that the rules get in `docs/explanation/results.md`."""


FULL = Size(
    steps=50,
    rounds=5,
    memory_steps=(10, 50),
    batches=(1, 4, 8),
    entries=835_584,
    iterations=12,
    checkpoints=2000,
    runs=500,
    starts=3,
    starts_before=1,
    prompts=4,
    block=2,
    climb=0.5,
)
QUICK = Size(
    steps=50,
    rounds=3,
    memory_steps=(10, 50),
    batches=(1, 4),
    entries=208_896,
    iterations=8,
    checkpoints=500,
    runs=100,
    starts=2,
    starts_before=1,
    prompts=4,
    block=2,
    climb=0.3,
)
TINY = Size(
    steps=4,
    rounds=1,
    memory_steps=(2, 4),
    batches=(1, 2),
    entries=4096,
    iterations=3,
    checkpoints=60,
    runs=10,
    starts=1,
    starts_before=0,
    prompts=2,
    block=1,
    climb=0.1,
)
SIZES: Mapping[str, Size] = {"full": FULL, "quick": QUICK, "tiny": TINY}


@dataclass(frozen=True)
class Figure:
    """What was measured, with the interval in which it lies in 19 of 20 cases."""

    name: str
    """By which it is found again, `part.what`."""
    text: str
    """In words, for a table."""
    value: float
    low: float
    high: float
    unit: str

    @property
    def noise(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def exact(name: str, text: str, value: float, unit: str) -> Figure:
    """A figure that is the same at each measurement."""
    return Figure(name, text, value, value, value, unit)


def once(name: str, text: str, value: float, unit: str) -> Figure:
    """A figure that was measured once, so that nobody knows its noise: without an interval."""
    return Figure(name, text, value, math.nan, math.nan, unit)


def middle(name: str, text: str, values: Sequence[float], unit: str) -> Figure:
    """The median, with its interval from the order of the values: no law of theirs is assumed.

    Of fewer than six values even all of them hold the median in less than 19 of 20 cases; then the
    interval is from the least to the greatest.
    """
    ordered = sorted(values)
    cut = _cut(len(ordered))
    low = ordered[cut]
    high = ordered[len(ordered) - 1 - cut]
    return Figure(name, text, statistics.median(ordered), low, high, unit)


def _cut(count: int) -> int:
    """How many of the lowest and of the highest values an interval of the median leaves out."""
    left_out = 0
    tail = 0.0
    for rank in range(count // 2):
        tail += math.comb(count, rank) / 2**count
        if tail > 0.025:
            break
        left_out = rank
    return left_out


def average(name: str, text: str, values: Sequence[float], unit: str) -> Figure:
    """The mean, with its interval by the normal law; for what happens at some times and not at
    others."""
    mean = statistics.fmean(values)
    half = 0.0
    if len(values) > 1:
        half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return Figure(name, text, mean, mean - half, mean + half, unit)


def resampled(
    name: str,
    text: str,
    count: int,
    statistic: Callable[[Sequence[int]], float],
    unit: str,
    draws: int = 2000,
) -> Figure:
    """A statistic of `count` cases, with its bootstrap interval over the cases.

    Args:
        name, text, unit: as in `Figure`.
        count: how many cases there are.
        statistic: of the cases with these indices, some of them several times.
        draws: resamples.
    """
    generator = random.Random(0)
    found = sorted(statistic(generator.choices(range(count), k=count)) for _ in range(draws))
    low = found[round(0.025 * (draws - 1))]
    high = found[round(0.975 * (draws - 1))]
    return Figure(name, text, statistic(range(count)), low, high, unit)


def in_turns(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each job, one turn each a round, after one that does not count.

    In turns, and CPU seconds, because what else the machine does then falls on all jobs alike:
    ratios within a round hold where times do not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds


def ratios(first: Iterable[float], second: Iterable[float]) -> list[float]:
    """Of what was measured in the same round."""
    return [a / b for a, b in zip(first, second, strict=True)]


def write_figures(path: Path, figures: Sequence[Figure], about: Mapping[str, Any]) -> None:
    """Write figures as JSON, each on a line of its own."""
    lines = ",\n".join(f"  {json.dumps(_rounded(figure))}" for figure in figures)
    path.write_text(f'{{"about": {json.dumps(dict(about))},\n "figures": [\n{lines}\n]}}\n')


def _rounded(figure: Figure) -> dict[str, Any]:
    values = asdict(figure)
    for name in ("value", "low", "high"):
        rounded = float(f"{values[name]:.5g}")
        # JSON has no nan.
        values[name] = None if math.isnan(rounded) else rounded
    return values


def read_figures(path: Path) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of a file, and what they are of."""
    content = json.loads(path.read_text())
    return [_read(values) for values in content["figures"]], content["about"]


def _read(values: Mapping[str, Any]) -> Figure:
    known = {name: math.nan if value is None else value for name, value in values.items()}
    return Figure(**known)


def compare(before: Sequence[Figure], after: Sequence[Figure]) -> list[str]:
    """A line for each figure that moved by more than its noise, and for each that came or went.

    Noise is what both measurements have, at right angles: they were made apart. A figure without
    noise moved if it is not what it was, to the digits that are written. Of one without an interval
    nobody knows whether it moved, and its line says so.
    """
    known = {figure.name: figure for figure in before}
    found = {figure.name: figure for figure in after}
    lines = []
    for name, figure in found.items():
        earlier = known.get(name)
        if earlier is None:
            lines.append(f"{name}: new, {short(figure.value)} {figure.unit}")
        elif moved(earlier, figure) or _may_have_moved(earlier, figure):
            noise = "no interval, so this may be noise"
            if not has_no_interval(earlier, figure):
                noise = f"noise {short(_noise(earlier, figure))}"
            change = figure.value / earlier.value - 1 if earlier.value else math.inf
            lines.append(
                f"{name}: {short(earlier.value)} -> {short(figure.value)} {figure.unit} "
                f"({change:+.0%}; {noise})"
            )
    lines += [f"{name}: not measured any more" for name in known if name not in found]
    return lines


def has_no_interval(before: Figure, after: Figure) -> bool:
    """Whether one of the two was measured once, so that nothing tells a change from noise."""
    return math.isnan(_noise(before, after))


def moved(before: Figure, after: Figure) -> bool:
    """Whether a figure is another one than before, by more than the noise of both; never where that
    is not known."""
    if has_no_interval(before, after):
        return False
    return abs(after.value - before.value) > max(_noise(before, after), _rounding(before))


def _may_have_moved(before: Figure, after: Figure) -> bool:
    changed = abs(after.value - before.value) > _rounding(before)
    return changed and has_no_interval(before, after)


def _rounding(figure: Figure) -> float:
    return 1e-4 * abs(figure.value)


def _noise(before: Figure, after: Figure) -> float:
    return math.hypot(before.noise, after.noise)


def table(figures: Sequence[Figure]) -> str:
    """Figures as a table in Markdown."""
    rows = ["| | | in 19 of 20 cases |", "|---|---|---|"]
    for figure in figures:
        interval = "–"
        if figure.high > figure.low:
            interval = f"{short(figure.low)} to {short(figure.high)}"
        rows.append(f"| {figure.text} | {short(figure.value)} {figure.unit} | {interval} |")
    return "\n".join(rows)


def short(value: float) -> str:
    """Three digits, and no more."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 5)}f}"
