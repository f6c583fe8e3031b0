"""Comparisons and leaderboards as tables: for a terminal, as CSV, and as a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dno.runs.intervals import Interval
from dno.runs.leaderboard import Leaderboard
from dno.runs.pairs import Paired
from dno.wording import clean, cut

if TYPE_CHECKING:
    from dno.runs.pace import Pace

_WIDEST: Final = 60
"""Characters of a cell in a terminal."""


@dataclass(frozen=True)
class Table:
    """Titles and rows, both as text."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """In columns that hold their widest cell; the first is aligned left, numbers right."""
        lines = [[_shown(cell) for cell in row] for row in (self.titles, *self.rows)]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        return "\n".join(_aligned(line, widths) for line in lines)

    def csv(self) -> bytes:
        """With a line of titles."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.titles)
        writer.writerows(self.rows)
        return text.getvalue().encode()


def _shown(cell: str) -> str:
    return cut(clean(cell), _WIDEST)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join([first, *others]).rstrip()


def paired_table(paired: Paired) -> Table:
    """For people: a row for each measure and way, with how it differs from the first way."""
    first = paired.ways[0]
    rows = []
    for line in paired.lines:
        less = "" if line.less is None else str(line.less)
        wins = f"{line.better}/{line.even}/{line.worse}" if line.less is not None else ""
        leads = line.way == first
        title = f"{line.measure} ({line.kind})" if leads else ""
        rows.append([title, line.way, _number(line.mean.mean), less, wins])
    titles = ["", "", "mean", f"less {first}", "better/even/worse"]
    return Table(titles, rows)


def paired_csv(
    paired: Paired, paces: Mapping[str, Pace] | None = None, goals: Sequence[float] = ()
) -> bytes:
    """For programs: the same with a column a number; what is not known is left empty.

    With goals, what `pace_table` tells too, in rows of kind `pace` and three more columns.
    """
    titles = ["measure", "kind", "way", "pairs", "mean", "mean_half", "less_first", "less_half"]
    rows = []
    for line in paired.lines:
        less = line.less or Interval(math.nan, math.nan)
        numbers = [line.mean.mean, line.mean.half, less.mean, less.half]
        counts = ["", "", ""]
        if line.less is not None:
            counts = [str(line.better), str(line.even), str(line.worse)]
        rows.append(
            [
                line.measure,
                str(line.kind),
                line.way,
                str(len(paired.keys)),
                *(_exact(number) for number in numbers),
                *counts,
            ]
        )
    titles += ["better", "even", "worse"]
    if paces and goals:
        more = ["mean_low", "mean_high", "at_seconds"]
        timed = len(paired.keys) - len(paired.untimed)
        told = _pace_rows(paces, goals, paired.climbed[0], timed)
        rows = [[*row, *[""] * len(more)] for row in rows]
        titles += more
        rows += [[line.get(title, "") for title in titles] for line in told]
    return Table(titles, rows).csv()


def items_csv(paired: Paired) -> bytes:
    """A row for each prompt, seed and way."""
    names = list(dict.fromkeys(name for line in _items(paired) for name in line))
    rows = [[line.get(name, "") for name in names] for line in _items(paired)]
    return Table(names, rows).csv()


def _items(paired: Paired) -> Iterator[Mapping[str, str]]:
    for key in paired.keys:
        for way in paired.ways:
            item = paired.items[way][key]
            line = {"prompt": item.prompt, "seed": str(item.seed), "way": way}
            for name in item.best:
                line[f"{name}.initial"] = _exact(item.initial[name])
                line[f"{name}.best"] = _exact(item.best[name])
            line["log_p"] = _exact(item.log_p)
            line["free_tests_under_0.01"] = str(item.unlikely)
            yield line | {name: _exact(value) for name, value in item.cost.items()}


def pace_table(paces: Mapping[str, Pace], goals: Sequence[float]) -> Table:
    """For people: each way's seconds to gains, and its gain at equal seconds less the first's."""
    (first, leader), *_ = paces.items()
    titles = ["", *(f"s to {goal:+.4g}" for goal in goals), f"at equal seconds, less {first}"]
    rows = []
    for way, pace in paces.items():
        less = ""
        if way != first:
            difference, seconds = pace.less(leader)
            less = f"{difference} (at {seconds:.3g} s)"
        rows.append([way, *(str(pace.seconds_to(goal)) for goal in goals), less])
    return Table(titles, rows)


def pace_notes(paces: Mapping[str, Pace]) -> list[str]:
    """What a reader of that table has to know: a sentence for each way, where there is anything."""
    return [
        f"{way}: none of its runs ended with a look without a gradient, as a budget or a target "
        "stopped them, so that what a look takes cannot be told; its seconds are those of whole "
        "iterations, each up to one gradient more than those of runs that went to their end"
        for way, pace in paces.items()
        if pace.whole
    ]


def _pace_rows(
    paces: Mapping[str, Pace], goals: Sequence[float], reward: str, pairs: int
) -> Iterator[Mapping[str, str]]:
    """What `pace_table` tells, with a column a number; inf seconds are those of never."""
    for goal in goals:
        for way, pace in paces.items():
            found = pace.seconds_to(goal)
            yield {
                "measure": f"seconds to {goal:+.4g} of {reward}",
                "kind": "pace",
                "way": way,
                "pairs": str(pairs),
                "mean": repr(found.value),
                "mean_low": "" if math.isnan(found.low) else repr(found.low),
                "mean_high": "" if math.isnan(found.high) else repr(found.high),
            }

    (_, leader), *others = paces.items()
    for way, pace in others:
        less, seconds = pace.less(leader)
        yield {
            "measure": f"{reward}, gain at equal seconds",
            "kind": "pace",
            "way": way,
            "pairs": str(pairs),
            "less_first": _exact(less.mean),
            "less_half": _exact(less.half),
            "at_seconds": _exact(seconds),
        }


def leaderboard_table(found: Leaderboard, top: int | None = None) -> Table:
    """For people: an entry a row, the best first."""
    several = len(found.climbed) > 1
    rows = []
    for place, entry in enumerate(found.entries[:top], start=1):
        cells = [f"{place}. {entry.name}", str(len(entry.items))]
        for name in found.climbed:
            cells += [_number(entry.best[name].mean), str(entry.gain[name])]
        cells += [str(entry.gain[name]) for name in found.monitors]
        cells.append(f"{entry.seconds:.1f}")
        rows.append([*cells, *(["*" if entry.on_front else ""] if several else [])])
    titles = ["", "items"]
    for name in found.climbed:
        titles += [name, "gain"]
    titles += [f"{name} (held out)" for name in found.monitors]
    titles.append("s an item")
    return Table([*titles, *(["front"] if several else [])], rows)


def leaderboard_csv(found: Leaderboard) -> bytes:
    """For programs: the same with a column a number."""
    names = [*found.climbed, *found.monitors]
    titles = ["entry", "items", "seconds", "on_front"]
    titles += [f"{name}.{part}" for name in names for part in ("best", "gain", "gain_half")]
    rows = []
    for entry in found.entries:
        numbers = _flat(
            (entry.best[name].mean, entry.gain[name].mean, entry.gain[name].half) for name in names
        )
        head = [entry.name, str(len(entry.items)), _exact(entry.seconds), str(entry.on_front)]
        rows.append([*head, *map(_exact, numbers)])
    return Table(titles, rows).csv()


def _flat(groups: Iterable[Sequence[float]]) -> list[float]:
    return [value for group in groups for value in group]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _exact(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""
