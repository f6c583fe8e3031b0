"""Private views of a pipeline's networks: the same weights, frozen, with a forward of our own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)


def frozen_view(module: M, device: torch.device, dtype: torch.dtype) -> M:
    """A copy of the module's structure that shares its weights, frozen and in evaluation mode.

    Only weights that must change device or dtype take memory. Nothing done to the view (its mode,
    its methods, a cast) reaches the module it was made from. Weights that the module's class names
    as too delicate for half precision stay in float32.
    """
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()
    }
    shared.update({id(buffer): buffer for buffer in module.buffers()})
    view = copy.deepcopy(module, shared).eval()
    delicate = {
        name: weight.data
        for name, weight in view.named_parameters()
        if _is_delicate(module, name, dtype)
    }
    # The base class's `to`: libraries override it with checks and logs that a private view has no
    # use for.
    nn.Module.to(view, device=device, dtype=dtype)
    for name, data in delicate.items():
        view.get_parameter(name).data = data.to(device, torch.float32)
    return view


def _is_delicate(module: nn.Module, weight: str, dtype: torch.dtype) -> bool:
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    named = (
        getattr(module, f"_keep_in_fp32_modules{kind}", None) or () for kind in ("", "_strict")
    )
    return any(part in names for names in named for part in weight.split("."))


def each(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest of tuples, lists and dicts with `function` of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        items = {key: each(item, function) for key, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, (tuple, list)):
        entries = [each(item, function) for item in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, tuple, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The same nest of tuples, lists and dicts with its floating-point tensors in another dtype."""
    return each(value, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def heavy(
    function: Callable[..., Any],
    *,
    inside: torch.dtype,
    outside: torch.dtype,
    recompute: bool = False,
) -> Callable[..., Any]:
    """A network's forward as the hot path runs it.

    Args: function: the forward; it must draw no noise, since it runs out of a noise tape's sight.
        inside: dtype that its floating-point arguments are cast to. outside: dtype that its result
        is cast to. recompute: keep nothing but the arguments for the backward pass, which then runs
        it once more.
    """

    whole = False

    def enter(tensor: Tensor) -> Tensor:
        # Times and scales, a number a sample, are not narrowed: half precision cannot tell a
        # thousand times apart.
        exact = (
            tensor.ndim < 2 and not whole and torch.promote_types(tensor.dtype, inside) != inside
        )
        return tensor.to(inside) if tensor.is_floating_point() and not exact else tensor

    def compute(args: Any, kwargs: Any) -> Any:
        args, kwargs = each(args, enter), each(kwargs, enter)
        if recompute and torch.is_grad_enabled():
            return checkpoint(
                function, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
            )
        return function(*args, **kwargs)

    @functools.wraps(function)  # pipelines look at the signature
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal whole
        # A torch function mode costs Python time at every operation of a network it has no say in.
        with torch._C.DisableTorchFunction():
            try:
                result = compute(args, kwargs)
            except RuntimeError as error:
                if whole or "dtype" not in str(error):
                    raise
                whole = True  # a few networks take the dtype that they compute in from their times
                result = compute(args, kwargs)
            return cast(result, outside)

    return run


def remember(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed once for each set of plain and tensor arguments."""
    known: dict[str, Any] = {}

    @functools.wraps(function)
    def recall(*args: Any, **kwargs: Any) -> Any:
        key = repr(each((args, sorted(kwargs.items())), _contents))
        if key not in known:
            known[key] = function(*args, **kwargs)
        return each(known[key], Tensor.clone)  # callers may write into it

    return recall


def _contents(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.tolist()
