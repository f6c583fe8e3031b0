"""Calls followed by the shapes of their tensors, without torch until they are.

`dno.core.tracing` does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dno.core.costs import Cost

if TYPE_CHECKING:
    from torch import Tensor


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
        args: what to call it with; nests of tensors.
        kwargs: the same, by name.

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
        args: what to call it with.
        kwargs: the same, by name.
        weights: addresses of storages that are not the call's own (`untyped_storage().data_ptr()`).

    Returns:
        Bytes, and the answer without a graph.
    """
    from dno.core.tracing import kept

    return kept(call, args, kwargs, weights)
