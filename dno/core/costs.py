"""What calls cost in memory and arithmetic, and what there is, as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

GIB: Final = 2**30


@dataclass(frozen=True)
class Cost:
    """What a differentiable call costs, its weights and arguments left out."""

    kept: int
    """Bytes that wait for the backward pass once the call has answered, its answer among them."""
    peak: int
    """Most bytes at once, in the forward or the backward pass."""
    forward: float = 0.0
    """Floating-point operations of the forward pass, those of matrix products, convolutions and
    attention."""
    backward: float = 0.0
    """The same of the backward pass, what it computes once more included."""


class Beside(NamedTuple):
    """What an evaluation needs of memory beside the sampler, in bytes."""

    held: int = 0
    """All the time: noise, optimizer."""
    passing: int = 0
    """Between the forward and the backward pass: graphs of rewards."""
    loaded: int = 0
    """Weights that are on the device already, or are to be."""


@dataclass(frozen=True)
class Room:
    """What a sampler may take of its device's memory."""

    free: int | None
    """Bytes that are free, weights that are not loaded yet left out; None: not known."""
    beside: Callable[[Sequence[int], int], Beside]
    """What the rest of an evaluation needs, from the samples' shape, batch first, and the number of
    entries of their noise together. It may take seconds to find out."""
    must_fit: bool = True
    """Whether too little room is an error; a plan tells of it instead."""
    waste: float = 0.0
    """The part of a room that is left to what an allocator holds and nobody uses."""
    aside: int | None = 0
    """Bytes of other memory, the machine's beside a GPU's own, where weights may lie that a climb
    does not call; 0: there is none; None: not known, and taken to be enough."""


def gib(count: float) -> str:
    """Bytes as a person reads them."""
    if abs(count) < GIB / 10:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / GIB:.1f} GiB"
