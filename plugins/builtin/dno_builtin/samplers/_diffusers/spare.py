"""What a bound pipeline keeps for its backward pass, and what that needs of a device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dno.plugin import Beside, ConfigError, Footprint, Room, first_line, gib, out_of_memory

from .choice import Call, Choice, at_levels, choose, keep_all, uniform
from .ledger import Ledger
from .memory import Level, limit_of
from .rehearsal import Found

_LATENTS_A_STEP: Final = 3
"""Tensors of a latent's size that guidance and a scheduler keep at each step."""
_PLENTY: Final = 2
"""How many times what is kept must be free for all to be kept without a closer look."""
_SLACK: Final = 2**28
"""Bytes that a closer look leaves to what no trace sees: workspaces, fragments."""


@dataclass(frozen=True)
class Spare:
    """A memory policy, and what it decides by.

    Args:
        memory: the policy.
        ledger: what calls cost.
        room: what there is of memory; None: not known.
    """

    memory: str
    ledger: Ledger
    room: Room | None = None

    def within(self, room: Room) -> Spare:
        """The same policy with that much room."""
        return replace(self, room=room)

    def of(self, found: Found) -> Chosen:
        """A level for each call that a rehearsal found.

        Raises:
            ConfigError: nothing fits into the size that the policy allows.
        """
        return Chosen(self, found)


class Chosen:
    """The levels of one bound pipeline's calls.

    Args:
        spare: what decides them.
        found: what was rehearsed.
    """

    def __init__(self, spare: Spare, found: Found) -> None:
        self._spare = spare
        self._found = found
        self._limit = limit_of(spare.memory)
        self._is_known = True
        self.levels: Sequence[Level | None] = ()
        """Of each call, in the order made; empty where the policy is one level for all."""
        if spare.memory == "auto" and self._has_plenty():
            return
        if spare.memory in ("keep", "recompute"):
            return
        try:
            self.levels = self.choice.levels
        except Exception as error:
            if out_of_memory(error):
                raise
            self._do_without(error)
            return
        missing = self._traced_footprint().missing
        if missing and self._must_fit():
            raise ConfigError(self._too_little(missing), at="memory")

    def _do_without(self, error: Exception) -> None:
        """Compute each step once more, where nobody can tell what it costs.

        Raises:
            ConfigError: that was all that was asked for.
        """
        if self._limit is not None or self._spare.ledger.weightless:
            raise ConfigError(
                f"cannot be told, since the model cannot be followed by shapes alone "
                f"({first_line(error)}); choose memory=recompute or memory=keep",
                at="memory",
            ) from error
        self._is_known = False
        self.levels = ["step"] * len(self._found.calls)

    def _must_fit(self) -> bool:
        room = self._spare.room
        return self._limit is not None and room is not None and room.must_fit

    def _has_plenty(self) -> bool:
        """Whether all can be kept, by far; nothing is traced to find out."""
        room = self._spare.room
        if room is None or room.free is None:
            return True
        # Weights that are shapes are not in memory yet.
        needed = self._kept() + (self._weights() if self._spare.ledger.weightless else 0)
        return _PLENTY * needed + _SLACK < room.free

    def _kept(self) -> int:
        """Bytes that all calls keep together where they keep all."""
        return sum(
            self._spare.ledger.kept(form) + self._besides(form, decodes)
            for form, decodes in self._found.calls
        )

    def _besides(self, form: object, decodes: bool) -> int:
        return 0 if decodes else _LATENTS_A_STEP * self._spare.ledger.answered(form)

    def _weights(self) -> int:
        return sum(self._spare.ledger.weights.values())

    @functools.cached_property
    def _beside(self) -> Beside:
        room = self._spare.room
        return Beside() if room is None else room.beside(self._found.shape, self._found.entries)

    @functools.cached_property
    def _room(self) -> int | None:
        """Bytes that all may take, weights included."""
        if self._limit is not None:
            return self._limit
        room = self._there()
        if room is None or self._spare.ledger.weightless:
            return room
        return room + self._beside.loaded

    def _there(self) -> int | None:
        """Bytes that are free, and those of the sampler's own weights that are there already."""
        room = self._spare.room
        if room is None or room.free is None:
            return None
        return room.free + (0 if self._spare.ledger.weightless else self._weights())

    @functools.cached_property
    def _calls(self) -> Sequence[Call]:
        ledger = self._spare.ledger
        return [
            Call(
                decodes,
                functools.partial(ledger.cost, form, decodes=decodes),
                self._besides(form, decodes),
            )
            for form, decodes in self._found.calls
        ]

    @functools.cached_property
    def choice(self) -> Choice:
        """The levels, and what comes of them. It may take a while to find out."""
        calls = self._calls
        passing = self._beside.passing
        if self._spare.memory in ("keep", "recompute"):
            level: Level = "keep" if self._spare.memory == "keep" else "step"
            found = at_levels(calls, uniform(calls, level, level), passing)
            assert found is not None
            return found

        if self._room is None:
            return choose(calls, float("inf"), passing)
        waste = 0.0 if self._spare.room is None else self._spare.room.waste
        usable = self._room * (1 - waste) - _SLACK
        return choose(calls, usable - self._fixed(), passing)

    def _fixed(self) -> int:
        """Bytes that are there all the time."""
        return self._weights() + self._beside.held + self._beside.loaded

    def footprint(self) -> Footprint | None:
        """What an evaluation with gradient needs; None where that would take a while to find out
        and nothing depends on it."""
        if not self._is_known:
            return None
        if self.levels or self._spare.ledger.weightless:
            return self._traced_footprint()
        if self._spare.memory == "recompute":
            return None
        kept = self._kept()
        steps = sum(not decodes for _, decodes in self._found.calls)
        return Footprint(
            policy=keep_all(steps),
            weights=self._spare.ledger.weights,
            graphs={"network and decoder": kept},
            peak=kept + self._weights(),
            passes=2.0,
            room=None if self._spare.room is None else self._there(),
        )

    def _traced_footprint(self) -> Footprint:
        choice = self.choice
        graphs = {"network": choice.network, "decoder": choice.decoder}
        return Footprint(
            policy=choice.words(),
            weights=self._spare.ledger.weights,
            graphs={**graphs, "rewards": self._beside.passing},
            beside={"rewards": self._beside.loaded, "noise and optimizer": self._beside.held},
            peak=choice.peak + self._fixed(),
            passes=choice.passes,
            flop=choice.flop,
            room=self._room,
        )

    def _too_little(self, missing: int) -> str:
        footprint = self._traced_footprint()
        return (
            f"allows {gib(self._limit or 0)}, {gib(missing)} less than the least that one "
            f"evaluation needs, {gib(footprint.peak)} ({footprint.policy}); fewer samples side by "
            "side, a smaller height and width, or dtype=bfloat16 free memory, fewer steps do not"
        )
