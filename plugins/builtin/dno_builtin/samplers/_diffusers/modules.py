"""Private views of a pipeline's networks: the same weights, frozen, with a forward of our own."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dno.plugin import is_shape

from .nests import cast, each, tensors

M = TypeVar("M", bound=nn.Module)
Function = Callable[..., Any]

_HALVES = (torch.float16, torch.bfloat16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What decoders, latents and schedulers compute in where the networks compute in `dtype`.

    float32, since half precision overflows in decoders; float64 where that is asked for.
    """
    if dtype == torch.float64:
        return torch.float64
    return torch.float32


def frozen_view(module: M, device: torch.device, dtype: torch.dtype) -> M:
    """The module's structure once more around the same weights, frozen and in evaluation mode.

    Only weights that must change device or dtype, or were loaded in inference mode, take memory.
    Nothing done to the view (its mode, its methods, a cast) reaches the module it was made from.
    Weights that the module's class names as too delicate for half precision stay in float32.
    """
    shared: dict[int, Any] = {}
    for weight in module.parameters():
        shared[id(weight)] = nn.Parameter(_recordable(weight.detach()), requires_grad=False)
    for buffer in module.buffers():
        shared[id(buffer)] = _recordable(buffer)

    # Weights that are computed from others as a forward begins (weight_norm) lie about as results.
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                shared[id(value)] = value.detach()

    # `deepcopy` takes what it finds in its memo in place of making it again.
    view = copy.deepcopy(module, shared).eval()
    delicate = {
        name: weight.data
        for name, weight in view.named_parameters()
        if is_delicate(module, name, dtype)
    }

    # Shapes were made in the right type, and are on no device.
    if any(is_shape(weight) for weight in view.parameters()):
        return view

    # The base class's `to`: libraries override it with checks and logs that a private view has no
    # use for.
    nn.Module.to(view, device=device, dtype=dtype)
    for name, data in delicate.items():
        view.get_parameter(name).data = data.to(device, torch.float32)
    return view


def _recordable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode: no graph may keep such."""
    return tensor.clone() if tensor.is_inference() else tensor


def is_delicate(module: nn.Module, weight: str, dtype: torch.dtype) -> bool:
    """Whether the module's class wants this weight in float32 where others are halved."""
    if dtype not in _HALVES:
        return False

    named: set[str] = set()
    for attribute in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        named.update(getattr(module, attribute, None) or ())
    return any(part in named for part in weight.split("."))


def heavy(function: Function, *, inside: torch.dtype, outside: torch.dtype) -> Function:
    """A network's forward as the hot path calls it: in its own dtype, and out of the tape's sight.

    Args:
        function: the forward; it must draw no noise, since no noise tape sees it.
        inside: dtype that its floating-point arguments are cast to.
        outside: dtype that its result is cast to.
    """
    whole = False

    def enter(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor

        # Times and scales, one number for each row, are not narrowed: half precision cannot tell a
        # thousand times apart.
        narrowed = torch.promote_types(tensor.dtype, inside) != inside
        if tensor.ndim < 2 and narrowed and not whole:
            return tensor
        return tensor.to(inside)

    def compute(args: Any, kwargs: Any) -> Any:
        return function(*each(args, enter), **each(kwargs, enter))

    # Pipelines look at the signature.
    @functools.wraps(function)
    def hidden(*args: Any, **kwargs: Any) -> Any:
        nonlocal whole
        # A torch function mode costs Python time at every operation of a network, where it has
        # nothing to say.
        with torch._C.DisableTorchFunction():
            try:
                result = compute(args, kwargs)
            except RuntimeError as error:
                if whole or "dtype" not in str(error):
                    raise
                # A few networks take the dtype that they compute in from their times.
                whole = True
                result = compute(args, kwargs)
            return cast(result, outside)

    return hidden


def without_gradient(function: Function, args: Any, kwargs: Any) -> Any:
    """What the function answers, without a graph even inside a noise tape."""
    # Inside a noise tape `no_grad` has an effect only out of its sight.
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return function(*args, **kwargs)


def remember(function: Function) -> Function:
    """The function, computed once for each set of arguments that no gradient depends on."""
    known: dict[str, Any] = {}

    @functools.wraps(function)
    def recall(*args: Any, **kwargs: Any) -> Any:
        if any(tensor.requires_grad for tensor in tensors((args, kwargs))):
            return function(*args, **kwargs)

        key = repr(_told((args, sorted(kwargs.items()))))
        if key not in known:
            known[key] = function(*args, **kwargs)

        # Callers may write into what they are given.
        return each(known[key], Tensor.clone)

    return recall


def _told(value: Any) -> Any:
    """The same nest with what its tensors, arrays and pictures contain, in short."""
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return str(value.dtype), tuple(value.shape), _digest(whole.numpy().tobytes())
    if isinstance(value, dict):
        return {key: _told(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_told(inner) for inner in value]

    # What numpy prints of an array leaves its middle out, and pictures print where they lie.
    if hasattr(value, "tobytes"):
        form = getattr(value, "mode", ""), getattr(value, "shape", ""), getattr(value, "size", "")
        return type(value).__name__, form, _digest(value.tobytes())
    return value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
