"""A comparison as one page that needs nothing else: the table, and the pictures side by side."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from dno.files import read_file
from dno.report.tables import Table, paired_table
from dno.runs.ended import EndedItem
from dno.runs.pairs import Key, Paired

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


def pairs_page(paired: Paired) -> str:
    """The page, as HTML."""
    reward = paired.climbed[0]
    environment = Environment(
        loader=PackageLoader("dno.report", "."), autoescape=True, undefined=StrictUndefined
    )
    table: Table = paired_table(paired)
    keys = _most_different(paired, reward)
    return environment.get_template("pairs.html").render(
        sentence=paired.sentence(),
        table=table,
        reward=reward,
        rows=[_row(paired, key, reward) for key in keys],
        left_out=len(paired.keys) - len(keys),
    )


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
    return _Row(*key, cells)


def _cell(title: str, item: EndedItem, name: str, reward: str) -> _Cell:
    values = item.best if name == "best" else item.initial
    file = item.picture(name)
    return _Cell(title, f"{values[reward]:.4g}", "" if file is None else _thumbnail(file))


def _thumbnail(file: Path) -> str:
    """A small copy as a data address; empty where the file is no picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_file(file))) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    picture.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
