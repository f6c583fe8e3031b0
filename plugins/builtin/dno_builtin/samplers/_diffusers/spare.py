"""What a bound pipeline keeps for its backward pass, and what that needs of a device."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dno.plugin import Beside, ConfigError, Footprint, Room, first_line, gib, out_of_memory

from .choice import Call, Choice, at_levels, choose, keep_all, uniform
from .ledger import Ledger
from .memory import Level, chooses, limit_of
from .parking import ParkingLot, Size
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
        lot: what can lie elsewhere.
        room: what there is of memory; None: not known.
        away: what lay elsewhere when that was found out, by part.
    """

    memory: str
    ledger: Ledger
    lot: ParkingLot
    room: Room | None = None
    away: Mapping[str, Size] = field(default_factory=dict)

    def within(self, room: Room) -> Spare:
        """The same policy with that much room."""
        return replace(self, room=room, away=self.lot.away())

    def idle(self, names: Collection[str]) -> Mapping[str, Size]:
        """What can lie elsewhere of the parts that a climb does not call.

        Args:
            names: theirs.
        """
        if self.room is None or not chooses(self.memory):
            return {}
        if self.ledger.weightless:
            weights = self.ledger.weights
            sizes = {name: Size(weights[name]) for name in weights if name in names}
        else:
            sizes = self.lot.sizes({*names, *self.lot.unused})

        found: dict[str, Size] = {}
        left = float("inf") if self.room.aside is None else self.room.aside
        for name, size in sizes.items():
            if sum(size) <= left:
                found[name] = size
                left -= sum(size)
        return found

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
        self.parked: Mapping[str, Size] = {}
        """Parts that lie elsewhere during a climb, by their names."""
        if spare.memory == "auto" and self._has_plenty():
            return
        if spare.memory in ("keep", "recompute"):
            return
        try:
            self.levels = self.choice.levels
            self.parked = self._idle if self._is_thinner else {}
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
        # It costs little, whatever the rest costs.
        self.parked = self._idle
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
        if self._spare.ledger.weightless:
            return room.free
        return room.free + self._weights() - sum(size.own for size in self._spare.away.values())

    @functools.cached_property
    def _idle(self) -> Mapping[str, Size]:
        return self._spare.idle(self._found.idle)

    def _besides_of(self, parts: Mapping[str, Size]) -> int:
        """Bytes that are neither the run's nor free, and that parking makes free."""
        if self._limit is not None:
            return 0
        away = self._spare.away
        return sum(size.besides - away.get(name, Size()).besides for name, size in parts.items())

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

    @property
    def choice(self) -> Choice:
        """The levels, and what comes of them. It may take a while to find out."""
        return self._chosen[0]

    @property
    def _is_thinner(self) -> bool:
        """Whether that is chosen for a device on which nothing idle is."""
        return self._chosen[1]

    @functools.cached_property
    def _chosen(self) -> tuple[Choice, bool]:
        calls = self._calls
        passing = self._beside.passing
        if self._spare.memory in ("keep", "recompute"):
            level: Level = "keep" if self._spare.memory == "keep" else "step"
            found = at_levels(calls, uniform(calls, level, level), passing)
            return found, False

        if self._room is None:
            return choose(calls, float("inf"), passing), False
        waste = 0.0 if self._spare.room is None else self._spare.room.waste
        usable = self._room * (1 - waste) - _SLACK - self._fixed()
        whole = choose(calls, usable, passing)
        fits = whole.peak <= usable
        is_whole = all(level == "keep" for level in whole.levels)
        if not self._idle or (fits and is_whole):
            return whole, False

        # A transfer for each binding is cheaper than anything that is computed once more.
        freed = _own(self._idle) + self._besides_of(self._idle)
        thin = choose(calls, usable + freed, passing)
        if not fits or thin.flop < whole.flop:
            return thin, True
        return whole, False

    def _fixed(self) -> int:
        """Bytes that are there all the time, but for what is parked."""
        return self._weights() + self._beside.held + self._beside.loaded

    @functools.cached_property
    def _binding(self) -> int:
        """Most bytes at once while prompts are bound: nothing is parked yet, and each network and
        decoder runs once without a gradient. What encodes prompts needs less than those."""
        ledger = self._spare.ledger
        passing = max((ledger.passing(form) for form, _ in self._found.calls), default=0)
        return self._weights() + self._beside.loaded + passing

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
        policy = choice.words()
        binding: int | None = None
        peak = choice.peak + self._fixed() - _own(self.parked)
        room = self._room
        if self.parked:
            policy += f", with {_listed(self.parked)} on the CPU once prompts are bound"
            binding = self._binding
            peak = max(peak, binding)
            room = None if room is None else room + self._besides_of(self.parked)
        return Footprint(
            policy=policy,
            weights=self._spare.ledger.weights,
            graphs={**graphs, "rewards": self._beside.passing},
            beside={"rewards": self._beside.loaded, "noise and optimizer": self._beside.held},
            peak=peak,
            passes=choice.passes,
            flop=choice.flop,
            room=room,
            parked={name: sum(size) for name, size in self.parked.items()},
            binding=binding,
        )

    def _too_little(self, missing: int) -> str:
        footprint = self._traced_footprint()
        return (
            f"allows {gib(self._limit or 0)}, {gib(missing)} less than the least that one "
            f"evaluation needs, {gib(footprint.peak)} ({footprint.policy}); fewer samples side by "
            "side, a smaller height and width, or dtype=bfloat16 free memory, fewer steps do not"
        )


def _own(parts: Mapping[str, Size]) -> int:
    return sum(size.own for size in parts.values())


def _listed(names: Collection[str]) -> str:
    *others, last = sorted(names)
    return f"{', '.join(others)} and {last}" if others else last
