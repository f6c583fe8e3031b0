"""What a device has of memory, and what a run's rewards and noise take of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from dno.core.costs import Beside, Room
from dno.core.shapes import traced
from dno.protocols import Reward
from dno.registry.configs import BuildContext, RewardConfig
from dno.runs.frames import on_frames
from dno.runs.parts import Part, Parts, build
from dno.runs.run_config import RunConfig

NOISE_COPIES: Final = 12
"""Tensors of the noise's size that an iteration has at its most: the noise, its gradient, the
optimizer's moments, the start, the best, and what regularizers work on."""

CPU_WASTE: Final = 0.25
"""Part of a machine's memory that its allocator holds and nobody uses: a process of Stable
Diffusion 1.5's size had 29 % more than what was predicted for its tensors, see
`tests/benchmarks/parts/full_size.py`."""

_UNKNOWN: Final = 2**29
"""Bytes that are left to the graph of a reward that cannot be traced."""

_CGROUPS: Final = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still take on a device; None where that cannot be told."""
    match device.type:
        case "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            # What torch holds without using it is free for torch.
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return int(free + cached)
        case "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        case "cpu":
            return _free_ram()
        case _:
            return None


def _free_ram(
    system: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes of memory that are available, by Linux's own account and its control groups'."""
    found: list[int] = []
    try:
        for line in system.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    for most, now in _CGROUPS:
        try:
            found.append(int((groups / most).read_text()) - int((groups / now).read_text()))
        # Not limited, or no such file.
        except (OSError, ValueError):
            continue
    return max(0, min(found)) if found else None


def aside_bytes(device: torch.device) -> int | None:
    """Bytes of memory that a device does not compute in, where weights may lie meanwhile; None
    where that cannot be told.

    None are beside a CPU, and none beside a GPU that has its memory in common with one.
    """
    if device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated:
        found = _free_ram()
        return None if found is None else int(found * (1 - CPU_WASTE))
    return 0


@dataclass
class Surroundings:
    """What of a run is not its sampler, as a sampler's room is reckoned with it.

    Args:
        config: the run's.
        context: what rewards are built with; they are built as shapes.
        loaded: rewards whose weights are on the device already.
    """

    config: RunConfig
    context: BuildContext
    loaded: Sequence[Reward] = ()

    def __post_init__(self) -> None:
        self.unknown: list[str] = []
        """Rewards whose weights and graphs could not be found out, by name."""
        self.flop = 0.0
        """Floating-point operations of the rewards that were traced last."""
        self._known: dict[str, Any] = {}
        self._device = self.context.device

    def like(self, config: RunConfig) -> Surroundings:
        """The same around a configuration with the same rewards, which are not built again."""
        other = replace(self, config=config)
        other._known = self._known
        return other

    def room(self, device: torch.device) -> Room:
        """The room that a sampler has on a device."""
        waste = CPU_WASTE if device.type == "cpu" else 0.0
        self._device = device
        return Room(free_bytes(device), self.beside, waste=waste, aside=aside_bytes(device))

    def beside(self, shape: Sequence[int], entries: int) -> Beside:
        """What rewards, noise and optimizer need, in bytes; see `dno.plugin.Room`."""
        parts = Parts.of(self.config)
        prompts = [prompt for prompt, _ in self.config.items()]
        self.unknown = []
        self.flop = 0.0
        weights = 0
        passing = 0
        for part in (*parts.rewards, *parts.monitors):
            climbed = bool(part.config.weight) and part in parts.rewards
            own, graph = self._of(part, shape, prompts, climbed=climbed)
            weights += own
            passing += graph
        if self.loaded:
            weights = sum(bytes_of(reward, self._device) for reward in self.loaded)
        return Beside(held=4 * entries * NOISE_COPIES, passing=passing, loaded=weights)

    def _of(
        self,
        part: Part[RewardConfig],
        shape: Sequence[int],
        prompts: Sequence[str],
        *,
        climbed: bool,
    ) -> tuple[int, int]:
        """Bytes of a reward's weights, and of its graph."""
        if not part.config.weightless:
            self.unknown.append(part.name)
            return 0, _UNKNOWN
        reward = self._built(part)
        exact = climbed and part.config.differentiable
        if not part.config.differentiable and not bytes_of(reward):
            # It reads the pictures' numbers, and has no graph.
            return 0, 0
        # One number, seen from everywhere: only the shape is asked for.
        samples = torch.zeros(()).expand(tuple(shape)).requires_grad_(exact)
        try:
            cost, _ = traced(reward, (samples, prompts))
        except Exception:
            # It reads numbers, which a shape has none of.
            self.unknown.append(part.name)
            return self._to_load(reward), _UNKNOWN
        self.flop += cost.forward + cost.backward
        return self._to_load(reward), cost.peak

    def _to_load(self, reward: Any) -> int:
        """Bytes that the weights of a reward that is built of shapes will take on the device."""
        if self._device.type == "cpu":
            return bytes_of(reward)
        return bytes_of(reward) - bytes_of(getattr(reward, "on_cpu", ()))

    def _built(self, part: Part[RewardConfig]) -> Any:
        if part.place not in self._known:
            context = replace(self.context, device=torch.device("cpu"), weightless=True)
            self._known[part.place] = on_frames(build(part, context), part.config)
        return self._known[part.place]


def bytes_of(part: object, device: torch.device | None = None) -> int:
    """Bytes of the weights of the modules that a plugin's object holds.

    Args:
        part: the object.
        device: count what is on a device of that kind alone; None: all.
    """
    found: dict[int, int] = {}
    for module in _modules(part, depth=3):
        for weight in (*module.parameters(), *module.buffers()):
            if device is None or weight.device.type == device.type:
                found[id(weight)] = weight.nbytes
    return sum(found.values())


def _modules(part: object, depth: int) -> Iterator[nn.Module]:
    if isinstance(part, nn.Module):
        yield part
        return
    if depth == 0:
        return
    inside: list[object] = list(getattr(part, "__dict__", {}).values())
    if isinstance(part, dict):
        inside += part.values()
    elif isinstance(part, (list, tuple)):
        inside += part
    elif isinstance(part, functools.partial):
        inside += (part.func, *part.args, *part.keywords.values())
    cells = getattr(part, "__closure__", None) or ()
    for cell in cells:
        try:
            inside.append(cell.cell_contents)
        # It is still to be filled.
        except ValueError:
            continue
    for one in inside:
        yield from _modules(one, depth - 1)
