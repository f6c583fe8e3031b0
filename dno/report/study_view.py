"""Everything that the page of a study shows, as plain values: a template only draws it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from dno.errors import ConfigError
from dno.report.cards import Cards, cards_of
from dno.report.private import shown, shown_value
from dno.report.settings import Setting, settings_of_places, text_of
from dno.report.spreads import Spread, spread_of
from dno.report.study_read import ITEMS, Member, Stage, StudyRead
from dno.report.tables import Table, leaderboard_table
from dno.report.view import number, shown_prompt
from dno.runs.ended import UNLIKELY, EndedItem
from dno.runs.leaderboard import by_settings, names_of, ordered

_REWARDS: Final = 24
"""Rewards that are shown, at most."""
_FAILURES: Final = 60
"""Failures that are listed, at most."""
_WAYS: Final = 30
"""Settings that are listed, at most."""
_VALUES: Final = 8
"""Values of a setting that are listed, at most."""
_PLACES: Final = 40
"""Settings that differ and are listed, at most."""


@dataclass(frozen=True)
class Failure:
    """An item that failed."""

    name: str
    prompt: str
    seed: str
    link: str
    why: str


@dataclass(frozen=True)
class Difference:
    """A setting in which items differ, with how many have which value."""

    place: str
    values: Sequence[tuple[str, int]]
    more: int
    """Values that are not listed."""


@dataclass(frozen=True)
class Noise:
    """P-values of tests of N(0, I) that no constraint keeps, over all items."""

    tests: int
    before: int
    """Those below `below` at the start."""
    after: int
    """At the best."""
    below: float = UNLIKELY

    @property
    def expected(self) -> float:
        """How many true draws give."""
        return self.tests * self.below


@dataclass(frozen=True)
class Cost:
    """What all items took together, and one in the mean."""

    seconds: float
    network_evaluations: float
    items: int
    iterations_each: float

    @property
    def time(self) -> str:
        """Of all."""
        return duration(self.seconds)

    @property
    def time_each(self) -> str:
        """In the mean."""
        return duration(self.seconds / self.items)

    @property
    def network_evaluations_each(self) -> float:
        """In the mean."""
        return self.network_evaluations / self.items


@dataclass(frozen=True)
class StudyView:
    """A study on a page."""

    name: str
    total: int
    read: int
    stages: Mapping[str, int]
    """How many items are how far."""
    prompts: int
    seeds: int
    spreads: Sequence[Spread]
    """Those of climbed rewards first."""
    noise: Noise | None
    cost: Cost | None
    warnings: Sequence[str]
    notes: Sequence[str]
    cards: Cards
    board: Table | None
    """Its settings, where it has several that can be compared."""
    board_note: str
    failures: Sequence[Failure]
    more_failures: int
    differences: Sequence[Difference]
    settings: Mapping[str, Sequence[Setting]]
    """Those that all share, by heading."""
    data: Mapping[str, Any]
    """What the page's script reads."""


def study_view(read: StudyRead, page: Path) -> StudyView:
    """What the page of a study shows.

    Args:
        read: the study.
        page: where the page will be, which its links start from.
    """
    done = [(member, item) for member in read.members for item in member.ended]
    items = [item for _, item in done]
    spreads = _spreads(items)
    groups = by_settings(items)
    names = _names(groups)
    ways = {id(item): names[way] for way, group in groups.items() for item in group}
    link = _linker(read.folder, page)
    cards = cards_of(done, spreads, ways if len(groups) > 1 else {}, link)
    board, board_note = _board(items, names) if len(groups) > 1 else (None, "")
    failed = [member for member in read.members if member.stage is Stage.FAILED]
    counts = Counter(member.stage for member in read.members)
    settings, differences = _settings([item.settings for item in items])

    return StudyView(
        name=shown(read.name, limit=200),
        total=read.total,
        read=len(read.members),
        stages={stage.value: counts[stage] for stage in Stage if counts[stage]},
        prompts=len({member.prompt for member in read.members if member.prompt}),
        seeds=len({member.seed for member in read.members if member.seed}),
        spreads=[replace(spread, name=shown(spread.name, limit=80)) for spread in spreads],
        noise=_noise(items),
        cost=_cost(items),
        warnings=_warnings(spreads),
        notes=list(_notes(read, cards)),
        cards=cards,
        board=board,
        board_note=board_note,
        failures=[_failure(member, link(member), read) for member in failed[:_FAILURES]],
        more_failures=max(len(failed) - _FAILURES, 0),
        differences=differences,
        settings=settings,
        data={
            order.key: {
                "places": list(order.places),
                "known": order.known,
                "ways": order.ways,
                "reward": order.reward,
            }
            for order in cards.orders
        },
    )


def _spreads(items: Sequence[EndedItem]) -> list[Spread]:
    """Those of climbed rewards first, of these the one that most items climbed."""
    climbed = Counter(name for item in items for name in item.climbed)
    names = dict.fromkeys(name for item in items for name in item.best)
    first = sorted(names, key=lambda name: -climbed[name])
    found = [spread_of(name, items) for name in first[:_REWARDS]]
    return [spread for spread in found if spread is not None]


def _names(groups: Mapping[str, Sequence[EndedItem]]) -> dict[str, str]:
    """The names of settings as a page shows them, without folders."""
    settings = [
        {place: shown_value(value) for place, value in group[0].settings.items()}
        for group in groups.values()
    ]
    told = [shown(name, limit=200) for name in names_of(settings)]
    return dict(zip(groups, told, strict=True))


def _board(items: Sequence[EndedItem], names: Mapping[str, str]) -> tuple[Table | None, str]:
    """The settings of a study in order, or why there is no order."""
    try:
        found = ordered(items)
    except ConfigError as error:
        return None, f"Its settings are not ordered: {shown(str(error))}."
    entries = [replace(entry, name=names[entry.name]) for entry in found.entries]
    table = leaderboard_table(replace(found, entries=entries), _WAYS)
    rows = [[shown(cell, limit=200) for cell in row] for row in table.rows]
    titles = [shown(title, limit=80) for title in table.titles]
    told = f"By {shown(found.by, limit=80)} at the best, on the prompts and seeds that all ran."
    if len(found.climbed) > 1:
        told += " * marks those that no other beats in all climbed rewards."
    more = len(found.entries) - len(rows)
    if more > 0:
        told += f" {more} more are not listed: dno leaderboard."
    return Table(titles, rows), told


def _linker(folder: Path, page: Path) -> Callable[[Member], str]:
    """What gives the address of an item's own report, relative to the page.

    A page that lies elsewhere has no links, which would name folders on the way.
    """
    try:
        way = Path(os.path.relpath(folder.resolve(), page.parent.resolve()))
    except (OSError, ValueError):
        return lambda member: ""
    if ".." in way.parts:
        return lambda member: ""
    inside = way / ITEMS

    def link(member: Member) -> str:
        file = member.run.path / "report.html"
        if not file.is_file() or file.is_symlink():
            return ""
        return quote((inside / member.name / "report.html").as_posix())

    return link


def _noise(items: Sequence[EndedItem]) -> Noise | None:
    tests = sum(item.tests for item in items)
    if not tests:
        return None
    before = sum(item.unlikely_before for item in items)
    return Noise(tests, before, sum(item.unlikely for item in items))


def _cost(items: Sequence[EndedItem]) -> Cost | None:
    if not items:
        return None
    return Cost(
        seconds=_sum(item.cost["seconds"] for item in items),
        network_evaluations=_sum(item.cost["network_evaluations"] for item in items),
        items=len(items),
        iterations_each=_sum(item.cost["iterations"] for item in items) / len(items),
    )


def _sum(values: Iterable[float]) -> float:
    return sum(value for value in values if math.isfinite(value))


def duration(seconds: float) -> str:
    """A time, for people."""
    for length, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length:
            return f"{_two_digits(seconds / length)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _warnings(spreads: Sequence[Spread]) -> list[str]:
    """Where what was climbed rose and what was held out fell, both beyond their intervals."""
    rose = [one.name for one in spreads if one.climbed and one.gain.mean > one.gain.half]
    fell = [one for one in spreads if not one.climbed and one.gain.mean < -one.gain.half]
    if not rose:
        return []
    return [
        f"careful: {shown(' and '.join(rose), limit=200)} rose while {shown(one.name, limit=80)}, "
        f"held out, fell by {number(-one.gain.mean)} in the mean; look at the pictures"
        for one in fell
    ]


def _notes(read: StudyRead, cards: Cards) -> Iterable[str]:
    if read.total > len(read.members):
        yield (
            f"Of {read.total:,} items, {len(read.members):,} were read, evenly chosen; all numbers "
            "are of these."
        )
    if cards.note:
        yield cards.note
    if cards.cards and not any(card.link for card in cards.cards):
        yield "Cards lead nowhere: the items have no reports, or lie in another place."


def _failure(member: Member, link: str, read: StudyRead) -> Failure:
    return Failure(
        name=shown(member.name, limit=200),
        prompt=shown_prompt(member.prompt),
        seed=shown(member.seed, limit=40),
        link=link,
        why=shown(member.why, read.private),
    )


def _settings(
    all_settings: Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Sequence[Setting]], list[Difference]]:
    """The settings that all items share, and those in which they differ."""
    values: dict[str, Counter[str]] = {}
    first: dict[str, Any] = {}
    for settings in all_settings:
        for place, value in settings.items():
            first.setdefault(place, value)
            digest = json.dumps(value, sort_keys=True, default=str)
            values.setdefault(place, Counter())[digest] += 1

    shared = {
        place: first[place]
        for place, counts in values.items()
        if len(counts) == 1 and counts.total() == len(all_settings)
    }
    differing = [place for place in values if place not in shared]
    differences = [_difference(place, values[place]) for place in differing[:_PLACES]]
    return settings_of_places(shared), differences


def _difference(place: str, counts: Counter[str]) -> Difference:
    # In the order in which they were met, as a list of prompts has them.
    listed = list(counts.items())
    told = [(text_of(json.loads(value)), count) for value, count in listed[:_VALUES]]
    return Difference(shown(place, limit=200), told, len(listed) - len(told))
