"""How many items of a study are run side by side, where that is left to the planner.

As many as fit into the memory that there is when the study begins; the number is kept in the
study's folder, so that whoever goes on with it, with other memory, makes the same groups.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import tomli_w
import torch

from dno.core.costs import gib
from dno.core.surroundings import alone, clean_room
from dno.errors import ConfigError
from dno.files import write_file
from dno.paths import current_folder
from dno.protocols import Footprint
from dno.runs.batch import Item, groups_among
from dno.runs.check import check
from dno.runs.lock import in_turn
from dno.runs.plan import Shaped
from dno.runs.run_config import RunConfig

GAINS: Final = (1.0, 1.6, 2.1, 2.7, 3.2)
"""Times the samples a second of one alone that 1, 2, 4, 8 and 16 side by side make, as measured on
the embedded model."""
MOST: Final = 2 ** (len(GAINS) - 1)
"""Items side by side at most: each further one gains less."""
DEARER: Final = 1.5
"""How many times dearer an item may be for its neighbours, in network passes that are computed once
more: where one sample fills a device by itself, they gain nothing for that."""
MARGIN: Final = 0.1
"""Part of the memory that stays free, at least: predictions are as good as that."""
RECORD: Final = "side_by_side.toml"
"""The file in a study's folder that tells what was decided."""

_HEAD: Final = (
    "# How many items are run side by side, as it was decided when the study began.\n"
    "# Whoever goes on with the study does so too; remove this file to have it decided anew.\n\n"
)


@dataclass(frozen=True)
class BatchSize:
    """How many items are run side by side."""

    items: int
    peak: int | None = None
    """Bytes that they are predicted to take at their most; None: not known."""
    room: int | None = None
    """Bytes that they might take; None: not known."""
    most: int = MOST
    """More were not tried: no more could be together."""

    def sentence(self) -> str:
        """For whoever watches."""
        if self.room is None:
            return (
                "items one by one: how much memory is free is not known here; give a number, or "
                "say by --memory how much they may take"
            )
        how = "items one by one" if self.items == 1 else f"{self.items} items side by side"
        return f"{how}: {gib(self.peak or 0)} of {gib(self.room)}"


def batch_sizes(
    items: Sequence[Item], folder: Path, say: Callable[[str], None]
) -> Callable[[RunConfig], int]:
    """How many items like one are run side by side.

    Args:
        items: all of the study's, whatever part of them is run.
        folder: the study's.
        say: hears what is decided.

    Raises:
        ConfigError: it cannot be told what a run takes of memory, or the record is broken.
    """
    kinds = _kinds(items)
    # One process decides, and others wait for it: they are to make the same groups.
    with in_turn(folder):
        known = _read(folder / RECORD)
        new = {
            kind: how_many(config, most)
            for kind, (config, most) in kinds.items()
            if kind not in known or known[kind].items == known[kind].most < most
        }
        if new:
            _write(folder / RECORD, known | new)
    _tell({kind: (known | new)[kind] for kind in kinds}, known, say)
    found = {kind: decided.items for kind, decided in (known | new).items()}
    return lambda config: found.get(_kind(config), 1)


def how_many(config: RunConfig, most: int = MOST) -> BatchSize:
    """As many samples side by side as fit, where that makes more of them a second.

    More samples leave less to keep for each, so that their steps may have to be computed once more.
    The greatest number that fits is weighed against the greatest for which nothing more is computed
    than for one alone, by `GAINS`.

    No weights are read. Each number that is tried has its networks followed once by shapes alone,
    which takes seconds; it is two where the most fit.

    Args:
        config: of one sample, or more: what differs between samples decides nothing.
        most: more are not tried.

    Raises:
        ConfigError: it cannot be told what a run takes of memory.
    """
    try:
        return _how_many(config, most)
    except ConfigError as error:
        raise ConfigError(
            f"how many samples fit side by side cannot be told ({error}); give a number in "
            "place of auto"
        ) from None


@clean_room()
@alone()
@torch.random.fork_rng(devices=[])
def _how_many(config: RunConfig, most: int) -> BatchSize:
    config = config.located(current_folder())
    check(config, weights=False)
    shaped = Shaped.of(config)
    room = shaped.around.room(shaped.device)
    room = replace(room, waste=max(room.waste, MARGIN))

    @functools.cache
    def footprint(count: int) -> Footprint:
        several = config.model_copy(
            update={"prompts": config.prompts[:1], "seeds": tuple(range(count))}
        )
        bound: Any = shaped.bound(shaped.around.like(several), room)
        found: Footprint | None = bound.footprint
        assert found is not None
        return found

    one = footprint(1)
    if one.room is None:
        return BatchSize(1, one.peak, most=most)

    def fits(count: int, dearer: float) -> bool:
        found = footprint(count)
        usable = (found.room or 0) * (1 - room.waste)
        return found.peak <= usable and found.passes <= dearer * one.passes

    as_cheap = _greatest(lambda count: fits(count, 1.0), most)
    dearest = _greatest(lambda count: fits(count, DEARER), most)
    best = max(as_cheap, dearest, key=lambda count: gain(count) / footprint(count).passes)
    return BatchSize(best, footprint(best).peak, footprint(best).room, most)


def gain(count: int) -> float:
    """Times the samples a second that so many side by side make, where each costs the same."""
    octave = math.log2(count)
    below = min(int(octave), len(GAINS) - 2)
    return GAINS[below] + (octave - below) * (GAINS[below + 1] - GAINS[below])


def _greatest(fits: Callable[[int], bool], most: int) -> int:
    """The greatest number that fits, of those to `most`; 1 where none does.

    The most are tried first, since with a small model they fit.
    """
    low, high = 1, most
    trial = most
    while low < high:
        if fits(trial):
            low = trial
        else:
            high = trial - 1
        trial = (low + high + 1) // 2
    return low


def _kinds(items: Sequence[Item]) -> dict[str, tuple[RunConfig, int]]:
    """Kinds of items that need the same memory: one of each, and how many can be together."""
    kinds: dict[str, tuple[RunConfig, int]] = {}
    for group in groups_among(items, lambda config: MOST):
        kind = _kind(group.configs[0])
        before = kinds.get(kind, (group.configs[0], 1))
        kinds[kind] = before[0], max(before[1], len(group.names))
    return kinds


def _kind(config: RunConfig) -> str:
    """What decides how much memory an item takes, in short."""
    values = config.dump()
    told = {name: values.get(name) for name in ("sampler", "rewards", "monitors", "dtype")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _tell(
    decided: Mapping[str, BatchSize], known: Mapping[str, BatchSize], say: Callable[[str], None]
) -> None:
    """One line: what was decided, for most items where there are several kinds."""
    if not decided:
        say("items one by one: no two of them can be side by side")
        return
    (first, _), *others = Counter(decided.values()).most_common()
    line = first.sentence()
    if others:
        numbers = sorted({one.items for one in decided.values()})
        line += f"; by their settings {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else ""
    if all(known.get(kind) == one for kind, one in decided.items()):
        line += f" when the study began ({RECORD})"
    say(line)


def _read(file: Path) -> dict[str, BatchSize]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return {kind: _checked(entry) for kind, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"does not tell how many items are run side by side ({error}); remove it to have that "
            "decided anew",
            source=str(file),
        ) from None


def _checked(entry: Any) -> BatchSize:
    found = BatchSize(**entry)
    for name, value in asdict(found).items():
        if value is not None and (type(value) is not int or value < (name in ("items", "most"))):
            raise ValueError(f"{name} = {value!r}")
    return found


def _write(file: Path, decided: Mapping[str, BatchSize]) -> None:
    content = {}
    for kind, one in decided.items():
        content[kind] = {name: value for name, value in asdict(one).items() if value is not None}
    write_file(file, (_HEAD + tomli_w.dumps(content)).encode())
