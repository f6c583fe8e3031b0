"""Private views of a pipeline's networks: the same weights, frozen, with a forward of our own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)


def frozen_view(module: M, device: torch.device, dtype: torch.dtype) -> M:
    """A copy of the module's structure that shares its weights, frozen and in evaluation mode.

    Only weights that must change device or dtype take memory. Nothing done to the view (its mode,
    its methods, a cast) reaches the module it was made from.
    """
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    shared.update({id(buffer): buffer for buffer in module.buffers()})
    view = copy.deepcopy(module, shared).eval()
    # The base class's `to`: libraries override it with checks and logs that a private view has no use for.
    nn.Module.to(view, device=device, dtype=dtype)
    return view


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The same nest of tuples, lists and dicts with its floating-point tensors in another dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: cast(item, dtype) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(cast(item, dtype) for item in value)
    return value


def heavy(
    function: Callable[..., Any], *, inside: torch.dtype, outside: torch.dtype, recompute: bool = False
) -> Callable[..., Any]:
    """A network's forward as the hot path runs it.

    Args:
        function: the forward; it must draw no noise, since it runs out of a noise tape's sight.
        inside: dtype that its floating-point arguments are cast to.
        outside: dtype that its result is cast to.
        recompute: keep nothing but the arguments for the backward pass, which then runs it once more.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = cast(args, inside), cast(kwargs, inside)
        # A torch function mode costs Python time at every operation of a network it has no say in.
        with torch._C.DisableTorchFunction():
            if recompute and torch.is_grad_enabled():
                result = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
            else:
                result = function(*args, **kwargs)
        return cast(result, outside)

    return run


def remember(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed once for each set of plain arguments (compared by `repr`)."""
    known: dict[str, Any] = {}

    def recall(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if key not in known:
            known[key] = function(*args, **kwargs)
        return known[key]

    return recall
