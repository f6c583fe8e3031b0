"""What calls cost in memory and arithmetic, as plain numbers; `dno.core.tracing` finds them out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

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


def gib(count: float) -> str:
    """Bytes as a person reads them."""
    if abs(count) < GIB / 10:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / GIB:.1f} GiB"


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Inside, new tensors have a shape and no memory, and what is computed of them is a shape."""
    from dno.core.tracing import shapes

    with shapes():
        yield


def is_shape(tensor: Tensor) -> bool:
    """Whether a tensor was made in `without_weights`, so that it holds no numbers."""
    from dno.core.tracing import is_fake

    return is_fake(tensor)


def outlined(tensor: Tensor) -> Tensor:
    """A tensor's shape, which requires a gradient if it does; a few whole numbers stay as they
    are, since networks read sizes and times from them."""
    from dno.core.tracing import outline

    return outline(tensor)


def traced(
    call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
) -> tuple[Cost, Any]:
    """The cost of a call and of its gradient in those arguments that require one, by shapes alone.

    Nothing is computed and nothing large is allocated, whether the call's weights are there or were
    made in `without_weights`.

    Args:
        call: differentiable, and the same whatever the numbers are.
        args, kwargs: what to call it with; nests of tensors.

    Returns:
        The cost; and the answer, its tensors filled with zeros.
    """
    from dno.core.tracing import trace

    return trace(call, args, kwargs or {})


def kept_by(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    weights: Collection[int],
) -> tuple[int, Any]:
    """What a call keeps for the backward pass, found by calling it; nothing is kept.

    It takes the time and memory of a forward pass without a gradient.

    Args:
        call: differentiable.
        args, kwargs: what to call it with.
        weights: addresses of storages that are not the call's own (`untyped_storage().data_ptr()`).

    Returns:
        Bytes, and the answer without a graph.
    """
    from dno.core.tracing import kept

    return kept(call, args, kwargs, weights)
