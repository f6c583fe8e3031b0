"""A run as a piece of HTML that needs nothing else: pictures, curves, verdict."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from dno.core.result import StepRecord
from dno.media import png
from dno.report.curves import curves_of, svg
from dno.report.facts import Facts
from dno.report.verdict import verdict

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 4
"""Samples whose pictures are shown; the curves show all."""


def html_of(
    facts: Facts, history: Sequence[StepRecord], strip: Mapping[str, Sequence[Image]]
) -> str:
    """The run, for a notebook or a page.

    Args:
        facts: what the verdict is made of.
        history: what the curves are made of.
        strip: pictures by title, such as `initial` and `best`; of each the first four are shown.
    """
    style = files("dno.report").joinpath("style.css").read_text(encoding="utf-8")
    figures = [
        _figure(title, picture)
        for title, pictures in strip.items()
        for picture in pictures[:_SHOWN]
    ]
    drawn = [svg(curve) for curve in curves_of(history)] if history else []
    return (
        f'<div class="dno-run"><style>{style}</style>'
        f"<div>{''.join(figures)}</div>"
        f"<div>{''.join(drawn)}</div>"
        f"<pre>{escape(verdict(facts))}</pre></div>"
    )


def _figure(title: str, picture: Image) -> str:
    data = base64.b64encode(png(picture)).decode()
    name = escape(title)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{name}">'
        f"<figcaption>{name}</figcaption></figure>"
    )
