"""Which calls of a bound pipeline keep what they computed, so that all fits.

One evaluation with gradient goes forward through the calls of the networks and decoders, asks the
rewards, and goes back through the calls. Before the backward pass of call i there is in memory what
calls 1 to i - 1 kept and the most that call i needs; the graphs of later calls are gone by then, so
that those of calls that are computed once more do not add up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dno.plugin import Cost

from .memory import Level

AGAIN: Final[dict[Level, int]] = {"keep": 0, "step": 1, "blocks": 2}
"""How often a network computes its forward pass once more at each level."""

_FRUGAL: Final[Sequence[Level]] = ("step", "blocks")
"""What steps that cannot keep all fall back to, the dearest last."""


@dataclass(frozen=True)
class Call:
    """A call of a network or decoder in one evaluation, whose answer depends on moving noise."""

    decodes: bool
    cost: Callable[[Level], Cost]
    """What it costs at a level."""
    besides: int = 0
    """Bytes that the scheduler keeps for its step."""


@dataclass(frozen=True)
class Choice:
    """A level for each call, and what comes of it."""

    levels: Sequence[Level]
    peak: int
    """Most bytes at once, weights left out."""
    network: int
    """Most bytes of the networks' graphs at once."""
    decoder: int
    """The same of the decoders'."""
    passes: float
    """Passes of the network for each that a plain sample takes: 2 where all is kept."""
    flop: float
    """Floating-point operations of one evaluation with its gradient."""
    kept: int
    """How many of the networks' calls keep all."""
    steps: int
    """Calls of the networks."""

    decodes: Sequence[bool]
    """Whether each call decodes."""

    def words(self) -> str:
        """The levels, as a person says them."""
        decoders: list[Level] = []
        networks: list[Level] = []
        for level, decodes in zip(self.levels, self.decodes, strict=True):
            (decoders if decodes else networks).append(level)

        words = _of_networks(networks)
        if any(level != "keep" for level in decoders):
            words += ", and the decoder block by block"
        return words


def keep_all(steps: int) -> str:
    """What is said of keeping all of so many calls."""
    return f"keep all of {_calls(steps)}"


def _calls(count: int) -> str:
    return "1 network call" if count == 1 else f"{count} network calls"


def _of_networks(levels: Sequence[Level]) -> str:
    kept = levels.count("keep")
    count = _calls(len(levels))
    if kept == len(levels):
        return keep_all(kept)
    how = "recompute block by block" if "blocks" in levels else "recompute"
    if not kept:
        return f"{how} all of {count}"
    return f"keep the last {kept} of {count}, {how} the others"


def at_levels(calls: Sequence[Call], levels: Sequence[Level], passing: int) -> Choice:
    """What comes of these levels.

    Args:
        calls: in the order made.
        levels: of each.
        passing: bytes that rewards need between the forward and the backward pass.
    """
    held = 0
    most = 0
    flop = 0.0
    again = 0
    networks: list[int] = []
    decoders: list[int] = []
    held_by_networks = 0
    for call, level in zip(calls, levels, strict=True):
        cost = call.cost(level)
        most = max(most, held + cost.peak)
        of_its_kind = decoders if call.decodes else networks
        before = 0 if call.decodes else held_by_networks
        of_its_kind.append(before + cost.peak)
        held += cost.kept + call.besides
        if not call.decodes:
            held_by_networks += cost.kept + call.besides
            again += AGAIN[level]
        flop += cost.forward + cost.backward

    steps = sum(not call.decodes for call in calls)
    return Choice(
        levels=tuple(levels),
        peak=max(most, held + passing),
        network=max([held_by_networks, *networks]),
        decoder=max([0, *decoders]),
        passes=2 + again / max(steps, 1),
        flop=flop,
        kept=sum(
            level == "keep" and not call.decodes for call, level in zip(calls, levels, strict=True)
        ),
        steps=steps,
        decodes=tuple(call.decodes for call in calls),
    )


def uniform(calls: Sequence[Call], network: Level, decoder: Level, keep: int = 0) -> list[Level]:
    """One level for networks and one for decoders, but for the last network calls, which keep
    all."""
    first = sum(not call.decodes for call in calls) - keep
    levels: list[Level] = []
    seen = 0
    for call in calls:
        if call.decodes:
            levels.append(decoder)
            continue
        levels.append(network if seen < first else "keep")
        seen += 1
    return levels


def choose(calls: Sequence[Call], room: float, passing: int) -> Choice:
    """The least work that fits; the least memory where nothing does.

    Args:
        calls: in the order made.
        room: bytes for the peak.
        passing: see `at_levels`.
    """
    steps = sum(not call.decodes for call in calls)

    def made(network: Level, decoder: Level, keep: int) -> Choice:
        return at_levels(calls, uniform(calls, network, decoder, keep), passing)

    least = made("keep", "keep", steps)
    if least.peak <= room:
        return least
    for level in _FRUGAL:
        found = made(level, "step", 0)
        if found.peak <= room:
            return _most_kept(functools.partial(made, level, "step"), steps, room, found)
        least = min(least, found, key=lambda choice: choice.peak)
    return least


def _most_kept(made: Callable[[int], Choice], steps: int, room: float, least: Choice) -> Choice:
    """The most steps that keep all and still fit; each more takes more.

    Args:
        made: the choice that keeps so many.
        steps: in all.
        room: bytes for the peak.
        least: the choice that keeps none, which fits.
    """
    low, high, best = 0, steps, least
    while low < high:
        middle = (low + high + 1) // 2
        tried = made(middle)
        if tried.peak <= room:
            low, best = middle, tried
        else:
            high = middle - 1
    return best
