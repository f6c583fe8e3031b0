"""Nests of tuples, lists and dicts, as networks take and give them, and the tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def each(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest of tuples, lists and dicts with `function` of its tensors."""
    if isinstance(value, Tensor):
        return function(value)

    if isinstance(value, dict):
        changed = {key: each(inner, function) for key, inner in value.items()}
        if type(value) is dict:
            return changed
        # The libraries' outputs are dicts that take their fields by name.
        return type(value)(**changed)

    if isinstance(value, (tuple, list)):
        entries = [each(inner, function) for inner in value]
        if hasattr(value, "_fields"):
            return type(value)(*entries)
        return type(value)(entries)

    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors(inner)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The same nest of tuples, lists and dicts with its floating-point tensors in another dtype."""

    def changed(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(dtype)

    return each(value, changed)
