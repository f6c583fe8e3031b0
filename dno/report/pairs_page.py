"""A comparison as one page that needs nothing else: the table, and the pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dno.report.pages import rendered
from dno.report.pictures import small_picture
from dno.report.tables import Table, pace_notes, pace_table, paired_table
from dno.runs.ended import EndedItem
from dno.runs.pairs import Key, Paired
from dno.wording import clean

_SIDE: Final = 160
"""Longest side of a picture, in pixels."""
_SHOWN: Final = 60
"""Pairs whose pictures are shown: those that differ most, either way."""


@dataclass(frozen=True)
class _Cell:
    """One sample of a row."""

    title: str
    reward: str
    picture: str
    """A data address; empty where there is none."""


@dataclass(frozen=True)
class _Row:
    prompt: str
    seed: int
    cells: Sequence[_Cell]


def pairs_page(paired: Paired, goals: Sequence[float] = ()) -> str:
    """The page, as HTML.

    Args:
        paired: what is compared.
        goals: gains whose seconds are told in a second table; none without.
    """
    reward = paired.climbed[0]
    tables = [("", paired_table(paired))]
    if goals:
        paces = paired.paces()
        caption = "; ".join([paired.pace_sentence(), *pace_notes(paces)])
        tables.append((caption, pace_table(paces, goals)))
    keys = _most_different(paired, reward)
    return rendered(
        "pairs.html",
        styles=["report.css", "pairs.css"],
        ways=[clean(way) for way in paired.ways],
        sentence=clean(paired.sentence()),
        tables=[(clean(caption), _cleaned(table)) for caption, table in tables],
        reward=clean(reward),
        rows=[_row(paired, key, reward) for key in keys],
        left_out=len(paired.keys) - len(keys),
    )


def _cleaned(table: Table) -> Table:
    rows = [[clean(cell) for cell in row] for row in table.rows]
    return Table([clean(title) for title in table.titles], rows)


def _most_different(paired: Paired, reward: str) -> list[Key]:
    """From where the last way is most ahead of the first to where it is most behind."""
    first = paired.items[paired.ways[0]]
    last = paired.items[paired.ways[-1]]

    def ahead(key: Key) -> float:
        less = last[key].best[reward] - first[key].best[reward]
        return less if math.isfinite(less) else 0.0

    ordered = sorted(paired.keys, key=ahead, reverse=True)
    if len(ordered) <= _SHOWN:
        return ordered
    return [*ordered[: _SHOWN // 2], *ordered[-_SHOWN // 2 :]]


def _row(paired: Paired, key: Key, reward: str) -> _Row:
    first = paired.items[paired.ways[0]][key]
    cells = [_cell("plain", first, "initial", reward)]
    cells += [_cell(way, paired.items[way][key], "best", reward) for way in paired.ways]
    return _Row(clean(key[0]), key[1], cells)


def _cell(title: str, item: EndedItem, name: str, reward: str) -> _Cell:
    values = item.best if name == "best" else item.initial
    picture = small_picture(item.run, name, len(item.run.items), item.sample, _SIDE)
    return _Cell(clean(title), f"{values[reward]:.4g}", "" if picture is None else picture.uri)
