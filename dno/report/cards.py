"""The items of a study as cards: a picture at the start and at the best, and what was gained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dno.report.pictures import Picture, small_picture
from dno.report.private import shown
from dno.report.spreads import Spread
from dno.report.study_read import Member, evenly
from dno.report.view import number, shown_prompt
from dno.runs.ended import EndedItem

SHOWN: Final = 200
"""Cards, at most: a quarter that gained most, a quarter that gained least, and an even choice of
the others."""
_EDGE: Final = 224
"""Pixels of a picture's longer side, at most."""
_SECONDS: Final = 30.0
"""Spent on pictures, at most."""

Done = tuple[Member, EndedItem]
"""An item that is done, and one sample of it: most have one alone."""


@dataclass(frozen=True)
class Told:
    """What became of one reward of an item."""

    name: str
    gain: str
    values: str
    """At the start and at the best."""
    tone: str
    """`rose`, `fell`, or empty where it did neither."""


@dataclass(frozen=True)
class Card:
    """One item with its pictures."""

    prompt: str
    seed: str
    way: str
    """Its settings, where the study has several."""
    link: str
    """To its own report, relative; empty where it has none."""
    plain: Picture | None
    best: Picture | None
    told: Sequence[Told]
    """By reward."""


@dataclass(frozen=True)
class Order:
    """One way of ordering the cards."""

    key: str
    title: str
    places: Sequence[int]
    """Of the cards, from the first to the last."""
    known: int
    """The first so many have what they are ordered by; the others stay last."""
    ways: tuple[str, str]
    """What it is called as it is, and turned round."""
    reward: int | None = None
    """Which reward the cards tell of in it; None: the one that they told of before."""


@dataclass(frozen=True)
class Cards:
    """All cards, and how they may be ordered; as they are, they are in the first order."""

    cards: Sequence[Card]
    orders: Sequence[Order]
    left_out: int
    """Items that have no card."""
    note: str
    """What is missing of their pictures."""


def cards_of(
    done: Sequence[Done],
    spreads: Sequence[Spread],
    ways: Mapping[int, str],
    link: Callable[[Member], str],
    *,
    seconds: float = _SECONDS,
) -> Cards:
    """Cards of the items of a study that are done.

    Args:
        done: the items.
        spreads: the rewards, of which the first decides what was gained.
        ways: names of settings by the `id` of an item; empty where all were run in one way.
        link: where a member's own report is.
        seconds: spent on pictures, at most.
    """
    chosen = _most_and_least(done, spreads)
    until = time.monotonic() + seconds
    cards = []
    late = 0
    for member, item in chosen:
        in_time = time.monotonic() < until
        late += not in_time
        way = ways.get(id(item), "")
        cards.append(_card(member, item, spreads, way, link(member), pictured=in_time))
    note = f"Pictures of {late} items are left out, since they took too long." if late else ""
    return Cards(cards, _orders(chosen, spreads), len(done) - len(cards), note)


def _most_and_least(done: Sequence[Done], spreads: Sequence[Spread]) -> list[Done]:
    """The items with cards, from the one that gained most to the one that gained least."""
    if not spreads:
        return list(done[:SHOWN])
    ranked = sorted(done, key=lambda one: _rank(one[1], spreads[0].name))
    if len(ranked) <= SHOWN:
        return ranked
    quarter = SHOWN // 4
    between = evenly(ranked[quarter:-quarter], SHOWN - 2 * quarter)
    return [*ranked[:quarter], *between, *ranked[-quarter:]]


def _rank(item: EndedItem, reward: str) -> tuple[bool, float]:
    """What sorts items by their gain, the most first and those without one last."""
    gain = _gain(item, reward)
    return (math.isnan(gain), -gain)


def _gain(item: EndedItem, reward: str) -> float:
    gain = item.best.get(reward, math.nan) - item.initial.get(reward, math.nan)
    return gain if math.isfinite(gain) else math.nan


def _card(
    member: Member,
    item: EndedItem,
    spreads: Sequence[Spread],
    way: str,
    link: str,
    *,
    pictured: bool,
) -> Card:
    samples = len(item.run.items)
    plain, best = [
        small_picture(item.run, name, samples, item.sample, _EDGE) if pictured else None
        for name in ("initial", "best")
    ]
    return Card(
        prompt=shown_prompt(item.prompt),
        seed=shown(str(item.seed), limit=40),
        way=way,
        link=link,
        plain=plain,
        best=best,
        told=[_told(item, spread.name) for spread in spreads],
    )


def _told(item: EndedItem, name: str) -> Told:
    gain = _gain(item, name)
    tone = ""
    if gain > 0:
        tone = "rose"
    elif gain < 0:
        tone = "fell"
    values = [_brief(reached.get(name, math.nan)) for reached in (item.initial, item.best)]
    return Told(shown(name, limit=80), _signed(gain), " → ".join(values), tone)


def _brief(value: float) -> str:
    """A number to three digits, zeros too, so that those beside each other are as long."""
    text = f"{value:#.3g}".rstrip(".")
    if not math.isfinite(value) or not value or "e" in text:
        return number(float(f"{value:.3g}"))
    return text.replace("-", "−")


def _signed(gain: float) -> str:
    return f"+{_brief(gain)}" if gain > 0 else _brief(gain)


def _orders(chosen: Sequence[Done], spreads: Sequence[Spread]) -> list[Order]:
    items = [item for _, item in chosen]
    orders = [_order_by_gain(items, i, spread.name) for i, spread in enumerate(spreads)]
    places = range(len(items))
    by_prompt = sorted(places, key=lambda at: (items[at].prompt, items[at].seed))
    by_seed = sorted(places, key=lambda at: (items[at].seed, items[at].prompt))
    orders.append(Order("prompt", "prompt", by_prompt, len(items), ("a first", "z first")))
    orders.append(Order("seed", "seed", by_seed, len(items), ("least first", "highest first")))
    return orders


def _order_by_gain(items: Sequence[EndedItem], reward: int, name: str) -> Order:
    places = sorted(range(len(items)), key=lambda at: _rank(items[at], name))
    known = sum(math.isfinite(_gain(item, name)) for item in items)
    title = f"gain in {shown(name, limit=80)}"
    return Order(f"gain-{reward}", title, places, known, ("most first", "least first"), reward)
