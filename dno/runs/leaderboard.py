"""The settings of a study by what they reached, and which of them no other one beats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dno.errors import ConfigError
from dno.runs.ended import EndedItem, ended_ways
from dno.runs.intervals import Interval, over_prompts
from dno.runs.pairs import Key
from dno.wording import short


@dataclass(frozen=True)
class Entry:
    """One way of running, or one item where all were run in one way."""

    name: str
    items: Sequence[EndedItem]
    best: Mapping[str, Interval]
    """Mean of each reward and monitor at the best sample."""
    gain: Mapping[str, Interval]
    seconds: float
    """Mean of an item."""
    on_front: bool
    """Whether no other entry is at least as good in every optimised reward and better in one."""


@dataclass(frozen=True)
class Leaderboard:
    """Entries, the best first."""

    by: str
    """The reward whose mean at the best sample they are ordered by."""
    climbed: Sequence[str]
    monitors: Sequence[str]
    entries: Sequence[Entry]
    left_out: Mapping[str, int]
    """How many items were passed over, by why."""

    def sentence(self) -> str:
        """What was ordered, and what was left out."""
        told = f"{len(self.entries)} by {self.by} at the best sample"
        missing = [f"{count} {why}" for why, count in self.left_out.items()]
        return f"{told}; left out: {', '.join(missing)}" if missing else told


def leaderboard(
    *paths: str | Path, by: str | None = None, prompt: str | None = None
) -> Leaderboard:
    """The settings of studies by what they reached on the prompts and seeds that all ran.

    Of a study that was run in one way, its items are ordered.

        >>> [entry.name for entry in dno.leaderboard("study").entries]  # doctest: +SKIP

    Args:
        paths: studies, run folders, or folders of runs.
        by: a reward or monitor; the first optimised one if not given.
        prompt: the one to look at; all if not given.

    Raises:
        ConfigError: the prompt was not run; see also `ordered`.
        RunFolderError: one is no such folder, or no run in it has ended.
    """
    if not paths:
        raise ConfigError("needs a study, a run folder, or a folder of runs")
    ways = ended_ways(paths)
    items = [item for way in ways for item in way.items]
    if prompt is not None:
        items = [item for item in items if item.prompt == prompt]
        if not items:
            raise ConfigError(f"{short(prompt)} was not run; write it as it was", source="--prompt")
    found = ordered(items, by)
    left_out = Counter(found.left_out)
    for way in ways:
        left_out.update(way.left_out)
    return replace(found, left_out=dict(left_out))


def ordered(items: Sequence[EndedItem], by: str | None = None) -> Leaderboard:
    """Order the settings of items by what they reached on the prompts and seeds that all ran.

    Of items that were run in one way, each is an entry.

    Args:
        items: at least one.
        by: a reward or monitor; the first optimised one if not given.

    Raises:
        ConfigError: settings share no prompt and seed, or `by` is reported by none.
    """
    groups = by_settings(items)
    repeated = _repeated(groups)
    if repeated and len(groups) > 1:
        first = repeated[0]
        raise ConfigError(
            f"{short(first.prompt)} with seed {first.seed} was run more than once in one way, as "
            f"in {first.run.path}; name folders without repeats"
        )
    if len(groups) > 1:
        keys = _common(list(groups.values()))
        groups = {
            name: [item for item in group if item.key in keys] for name, group in groups.items()
        }
    else:
        places = {id(item) for item in repeated}
        groups = {
            f"{item.prompt}, seed {item.seed}"
            + (f", {item.run.path.name}" if id(item) in places else ""): [item]
            for item in items
        }
    kept = [item for group in groups.values() for item in group]
    lacking = len(items) - len(kept)

    names = [name for name in kept[0].best if all(name in item.best for item in kept)]
    climbed = [name for name in names if any(name in item.climbed for item in kept)]
    if not climbed:
        raise ConfigError("no reward is reported by all of them, so that there is no order")
    by = by or climbed[0]
    if by not in names:
        known = ", ".join(names)
        raise ConfigError(f"{short(by)} is not reported by all; choose from {known}", source="--by")

    means = {
        name: {reward: _mean(group, reward).mean for reward in climbed}
        for name, group in groups.items()
    }
    entries = [
        Entry(
            name=name,
            items=group,
            best={reward: _mean(group, reward) for reward in names},
            gain={reward: _gain(group, reward) for reward in names},
            seconds=sum(item.cost["seconds"] for item in group) / len(group),
            on_front=not any(_beats(other, means[name]) for other in means.values()),
        )
        for name, group in groups.items()
    ]
    entries.sort(key=lambda entry: -entry.best[by].mean)
    return Leaderboard(
        by=by,
        climbed=climbed,
        monitors=[name for name in names if name not in climbed],
        entries=entries,
        left_out={"that some setting lacks": lacking} if lacking else {},
    )


def _repeated(groups: Mapping[str, Sequence[EndedItem]]) -> list[EndedItem]:
    """Items whose prompt and seed were run more than once in one way."""
    found: list[EndedItem] = []
    for group in groups.values():
        counts = Counter(item.key for item in group)
        found += [item for item in group if counts[item.key] > 1]
    return found


def _mean(items: Sequence[EndedItem], reward: str) -> Interval:
    return over_prompts({item.key: item.best[reward] for item in items})


def _gain(items: Sequence[EndedItem], reward: str) -> Interval:
    return over_prompts({item.key: item.gain(reward) for item in items})


def _beats(other: Mapping[str, float], one: Mapping[str, float]) -> bool:
    """Whether the other is nowhere worse and somewhere better (Pareto)."""
    return all(other[name] >= one[name] for name in one) and any(
        other[name] > one[name] for name in one
    )


def _common(groups: Sequence[Sequence[EndedItem]]) -> set[Key]:
    common = set.intersection(*({item.key for item in group} for group in groups))
    if not common:
        raise ConfigError(
            "there is no prompt and seed that all settings ran, so that they cannot be compared"
        )
    return common


def by_settings(items: Sequence[EndedItem]) -> dict[str, list[EndedItem]]:
    """Items by their settings, each group named by what tells it from the others."""
    found: dict[str, list[EndedItem]] = {}
    for item in items:
        digest = json.dumps(item.settings, sort_keys=True, default=str)
        found.setdefault(digest, []).append(item)
    groups = list(found.values())
    names = names_of([group[0].settings for group in groups])
    return dict(zip(names, groups, strict=True))


def names_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each of several configurations: the values that tell it from the others.

    Options of a plugin are named only where configurations with the same plugin differ in them.
    """
    places = list(dict.fromkeys(place for one in settings for place in one))
    telling = [place for place in places if _tells(place, settings)]
    return [
        ", ".join(f"{_shown(place)}={_value(one[place])}" for place in telling if place in one)
        or "as is"
        for one in settings
    ]


def _tells(place: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    plugin = f"{place.rpartition('.')[0]}.use"
    by_plugin: dict[str, set[str]] = {}
    for one in settings:
        value = json.dumps(one.get(place), sort_keys=True, default=str)
        by_plugin.setdefault(str(one.get(plugin)), set()).add(value)
    if place == plugin:
        return len(by_plugin) > 1
    return any(len(values) > 1 for values in by_plugin.values())


def _shown(place: str) -> str:
    return place.removesuffix(".use")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
