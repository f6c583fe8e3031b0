"""What a run will need of memory and arithmetic, before anything large is loaded."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from dno.core.costs import Room, gib
from dno.core.surroundings import alone, clean_room
from dno.errors import ConfigError
from dno.paths import current_folder
from dno.protocols import Footprint, NoiseMap
from dno.registry.configs import BuildContext
from dno.runs.check import check
from dno.runs.coarse import coarse_grids
from dno.runs.load import dtype_of, find_device
from dno.runs.parts import Parts, at, build
from dno.runs.room import Surroundings
from dno.runs.run_config import RunConfig

_MATRIX: Final = 1024
"""Side of the matrices that a device's speed is told by."""
_WHILE: Final = 0.2
"""Seconds that their product is repeated for."""


@dataclass(frozen=True)
class Plan:
    """What one iteration of a run needs."""

    footprint: Footprint
    """Of one evaluation with gradient on all of the run's steps, rewards and noise included."""
    coarse: Mapping[int, Footprint]
    """The same on each coarser grid that the run climbs on, by its steps."""
    device: torch.device
    dtype: str
    samples: int
    """Drawn side by side."""
    rewards_flop: float = 0.0
    unknown: Sequence[str] = field(default=())
    """Rewards that are not counted in, by name."""

    @property
    def fits(self) -> bool:
        """Whether the peak is no more than there is; True where that is not known."""
        return not self.footprint.missing

    @functools.cached_property
    def rate(self) -> float:
        """Floating-point operations a second of a matrix product on the device; measured when it is
        first asked for, which not everybody does.
        """
        return _rate(self.device, getattr(torch, self.dtype))

    def flop(self, footprint: Footprint | None = None) -> float:
        """Floating-point operations of an iteration, on all steps or on a coarser grid."""
        of_sampler = (footprint or self.footprint).flop or 0.0
        return of_sampler + self.rewards_flop

    def rows(self) -> Iterator[tuple[str, str]]:
        """What there is to tell, as names and values."""
        found = self.footprint
        yield "policy", found.policy
        yield "weights", _sum(found.weights)
        if found.parked:
            yield "parked on the CPU", f"{_sum(found.parked)}; from when prompts are bound"
        for name, size in found.beside.items():
            if size:
                yield name, gib(size)
        for name, size in found.graphs.items():
            if size:
                yield f"{name} graph", gib(size)
        if found.binding is not None:
            yield "while binding", gib(found.binding)
        yield "peak", f"{gib(found.peak)}{self._verdict()}"
        yield "an iteration", self._work(found)
        for steps, other in self.coarse.items():
            yield f"on {steps} steps", f"{self._work(other)}; peak {gib(other.peak)}"
        if self.unknown:
            yield "not known", f"{', '.join(self.unknown)}: 0.5 GiB each are counted for the graph"

    def _verdict(self) -> str:
        room = self.footprint.room
        if room is None:
            return ""
        if self.fits:
            return f" of {gib(room)}: it fits"
        return f" of {gib(room)}: {gib(self.footprint.missing)} are missing"

    def _work(self, footprint: Footprint) -> str:
        flop = self.flop(footprint)
        seconds = flop / self.rate
        return (
            f"{_tera(flop)} TFLOP, the network's of {footprint.passes:.3g} plain samples; "
            f"{_tera(seconds * 1e12)} s at the speed of a matrix product on this {self.device.type}"
        )

    def remedies(self) -> Iterator[tuple[str, str]]:
        """What would free how much, where it does not fit; nothing where it does."""
        if self.fits:
            return
        found = self.footprint
        fixed = sum(found.weights.values()) + sum(found.beside.values())
        if found.peak != found.binding:
            fixed -= sum(found.parked.values())
        graphs = max(0, found.peak - fixed)
        if self.samples > 1:
            yield "one sample at a time (--batch 1)", _about(graphs * (1 - 1 / self.samples))
        yield "half the height and width", _about(graphs * 3 / 4)
        if self.dtype in ("float32", "float64"):
            wide = sum(size for name, size in found.weights.items() if "vae" not in name)
            # A decoder computes in float32 whatever the networks do.
            of_network = found.graphs.get("network", 0)
            of_network = of_network if of_network >= found.graphs.get("decoder", 0) else 0
            yield "half precision (--dtype bfloat16)", _about((wide + of_network) / 2)
        yield "fewer steps", "nothing: their graphs are not in memory together"

    def text(self) -> str:
        """All of it as a table."""
        rows = list(self.rows())
        missing = list(self.remedies())
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        if missing:
            lines += ["", "what would free memory:"]
            wide = max(len(name) for name, _ in missing)
            lines += [f"  {name:<{wide}}  {value}" for name, value in missing]
        return "\n".join(lines)


def _sum(parts: Mapping[str, int]) -> str:
    largest_first = sorted(parts.items(), key=lambda part: -part[1])
    each = ", ".join(f"{name} {gib(size)}" for name, size in largest_first if size)
    return f"{gib(sum(parts.values()))}: {each}" if each else gib(0)


def _tera(count: float) -> str:
    """A count in units of a million millions, to three digits."""
    return f"{count / 1e12:,.0f}" if count >= 1e14 else f"{count / 1e12:.3g}"


def _about(size: float) -> str:
    return f"about {gib(size)}"


def said_shortly(footprint: Footprint | None) -> str:
    """A footprint in one line; empty where it is not known."""
    if footprint is None:
        return ""
    of_all = "" if footprint.room is None else f" of {gib(footprint.room)}"
    return f"memory: {footprint.policy}; about {gib(footprint.peak)}{of_all} at the peak"


@dataclass(frozen=True)
class Shaped:
    """A run's sampler and rewards, of shapes alone."""

    device: torch.device
    """Where the run itself would compute."""
    sampler: Any
    around: Surroundings
    """Of the configuration that it was made for."""

    @classmethod
    def of(cls, config: RunConfig) -> Shaped:
        """What a configuration names, without its weights.

        Raises:
            ConfigError: the sampler says nothing of its memory without weights, or there is no such
                device.
        """
        device = find_device(config.device)
        sampling = Parts.of(config).sampler
        if not sampling.config.weightless:
            raise ConfigError(
                f'"{sampling.name}" cannot be planned: it says nothing of its memory without its '
                "weights",
                at="sampler",
            )
        cpu = torch.device("cpu")
        context = BuildContext(device=cpu, dtype=dtype_of(config), weightless=True)
        return cls(device, build(sampling, context), Surroundings(config, context))

    def bound(self, around: Surroundings, room: Room) -> NoiseMap:
        """The sampler bound to the items of a configuration like the one it was made for.

        Args:
            around: of that configuration.
            room: what there is of memory; that it is too little is no error.
        """
        self.sampler.make_room(replace(room, must_fit=False))
        prompts, seeds = zip(*around.config.items(), strict=True)
        bound: NoiseMap = at("sampler", lambda: self.sampler.bind(prompts, seeds))
        return bound


@clean_room()
@alone()
@torch.random.fork_rng(devices=[])
def plan(config: RunConfig) -> Plan:
    """What a run will need. No weights are read, and none need be there.

    Args:
        config: what to run.

    Raises:
        ConfigError: the configuration is wrong, or has a sampler that cannot be planned.
    """
    config = config.located(current_folder())
    check(config, weights=False)
    shaped = Shaped.of(config)
    around, device = shaped.around, shaped.device
    sample = shaped.bound(around, around.room(device))

    prompts = [prompt for prompt, _ in config.items()]
    footprint: Footprint | None = getattr(sample, "footprint", None)
    assert footprint is not None
    rewards_flop = around.flop
    coarse: dict[int, Footprint] = {}
    for steps, coarse_map in coarse_grids(config, sample).items():
        other: Any = coarse_map.sample
        if other.footprint is not None:
            coarse[steps] = other.footprint
    return Plan(
        footprint=footprint,
        coarse=coarse,
        device=device,
        dtype=str(dtype_of(config)).removeprefix("torch."),
        samples=len(prompts),
        rewards_flop=rewards_flop,
        unknown=tuple(around.unknown),
    )


@clean_room()
@alone()
def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product: the most that a network comes
    near."""
    left = torch.ones(_MATRIX, _MATRIX, device=device, dtype=dtype)
    right = left.clone()
    _synchronised(left @ right)
    done = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < _WHILE:
        _synchronised(left @ right)
        done += 1
    return done * 2 * _MATRIX**3 / (time.perf_counter() - begun)


def _synchronised(product: torch.Tensor) -> None:
    """Wait until a device has computed it."""
    product[0, 0].item()
