"""Private views of a pipeline's networks: the same weights, frozen, with a forward of our own."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from dno_builtin._lift import Lift

from .hooks import bare, kept_elsewhere, own_hooks, uncompiled, widened
from .nests import cast, each, tensors
from .packed import is_packed, keep_gradients, scratch_tensors, shared_copy
from .sight import GradientWatch, aside, check_gradient

M = TypeVar("M", bound=nn.Module)
Function = Callable[..., Any]

_HALVES = (torch.float16, torch.bfloat16)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What decoders, latents and schedulers compute in where the networks compute in `dtype`.

    float32, since half precision has few levels and decoders may overflow in it; float64 where
    that is asked for.
    """
    if dtype == torch.float64:
        return torch.float64
    return torch.float32


def computes_in(module: nn.Module) -> torch.dtype:
    """What a module computes in as it stands."""
    # The libraries' own answer knows of hooks that widen weights, and of weights kept in float32.
    own = getattr(module, "dtype", None)
    if isinstance(own, torch.dtype) and own.is_floating_point:
        return own
    for weight in module.parameters():
        if weight.is_floating_point():
            return weight.dtype
    return torch.float32


def frozen_view(module: M, device: torch.device, dtype: torch.dtype | None) -> M:
    """The module's structure once more around the same weights, frozen and in evaluation mode.

    Only weights that must change device or dtype, or were loaded in inference mode, take memory.
    Nothing done to the view (its mode, its methods, a cast) reaches the module it was made from.
    What libraries' hooks and `torch.compile` put on the module, the view has not.

    Args:
        module: left as it is.
        device: where the view's weights are to be.
        dtype: theirs, but for those that the module's class names as too delicate for half
            precision, which are float32 then; None: what each weight computes in already.
    """
    shared: dict[int, Any] = {id(hooks): hooks for hooks in own_hooks(module)}
    kept = {id(weight): tensor for weight, tensor in kept_elsewhere(module)}
    stored = {id(weight): wide for weight, wide in widened(module)}
    in_float32 = delicate(module, dtype)

    def placed(tensor: Tensor) -> Tensor:
        data = _recordable(kept.get(id(tensor), tensor.detach()))
        into = dtype
        if id(tensor) in in_float32:
            into = torch.float32
        elif into is None:
            into = stored.get(id(tensor))
        if not data.is_floating_point():
            into = None
        return data.to(device=device, dtype=into)

    for weight in module.parameters():
        if is_packed(weight):
            shared[id(weight)] = shared_copy(weight)
        else:
            shared[id(weight)] = nn.Parameter(placed(weight), requires_grad=False)
    for buffer in module.buffers():
        shared[id(buffer)] = placed(buffer)

    # Weights that are computed from others as a forward begins (weight_norm) lie about as results.
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                shared[id(value)] = value.detach()

    for scratch in scratch_tensors(module):
        shared[id(scratch)] = scratch

    # `deepcopy` takes what it finds in its memo in place of making it again.
    for part in module.modules():
        plain = uncompiled(part)
        if plain is not part:
            shared[id(part)] = copy.deepcopy(plain, shared)
    view = copy.deepcopy(module, shared).eval()
    bare(view)
    keep_gradients(view)
    return view


def _recordable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of one that was made in inference mode: no graph may keep such."""
    return tensor.clone() if tensor.is_inference() else tensor


def delicate(module: nn.Module, dtype: torch.dtype | None) -> set[int]:
    """Identities of weights that the module's class wants in float32 where others are halved."""
    if dtype not in _HALVES:
        return set()

    named: set[str] = set()
    for attribute in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        named.update(getattr(module, attribute, None) or ())
    return {
        id(weight)
        for name, weight in module.named_parameters()
        if any(part in named for part in name.split("."))
    }


def heavy(
    function: Function,
    *,
    name: str,
    inside: torch.dtype,
    outside: torch.dtype,
    packed: bool = False,
    compiled: bool = False,
) -> Function:
    """A network's forward as the hot path calls it: in its own dtype, and out of the tape's sight.

    Gradients that go through float16 are scaled, so that they are not lost in it. The first call
    with a gradient is watched: a network that cuts it somewhere is refused.

    Args:
        function: the forward; it must draw no noise, since no noise tape sees it.
        name: what the pipeline calls the network.
        inside: dtype that its floating-point arguments are cast to.
        outside: dtype that its result is cast to.
        packed: whether it has weights with a class of their own, which computes with them.
        compiled: whether a part of it is compiled, but where it is watched.
    """
    whole = False
    watched = False

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
        nonlocal whole
        try:
            return function(*each(args, enter), **each(kwargs, enter))
        except RuntimeError as error:
            if whole or "dtype" not in str(error):
                raise
        # A few networks take the dtype that they compute in from their times.
        whole = True
        return function(*each(args, enter), **each(kwargs, enter))

    def answer(args: Any, kwargs: Any) -> Any:
        if inside != torch.float16:
            return cast(compute(args, kwargs), outside)
        lift = Lift()
        args, kwargs = lift.enter((args, kwargs))
        return lift.leave(cast(compute(args, kwargs), outside))

    # Pipelines look at the signature.
    @functools.wraps(function)
    def hidden(*args: Any, **kwargs: Any) -> Any:
        nonlocal watched
        follows = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in tensors((args, kwargs))
        )
        # Where functions of torch cannot be watched, as while memory is measured, the next call is.
        blind = torch._C._is_torch_function_all_disabled()
        if follows and not watched and not blind:
            with aside(), GradientWatch(name):
                result = answer(args, kwargs)
            check_gradient(name, (args, kwargs), result)
            watched = True
            if not compiled:
                return result
            # What is computed once more is computed as the rest of the calls are.
            del result

        if packed:
            with aside():
                return answer(args, kwargs)
        # A torch function mode costs Python time at every operation of a network, where it has
        # nothing to say.
        with torch._C.DisableTorchFunction():
            return answer(args, kwargs)

    return hidden


def without_gradient(function: Function, args: Any, kwargs: Any) -> Any:
    """What the function answers, without a graph even inside a noise tape."""
    # Inside a noise tape `no_grad` has an effect only out of its sight.
    with aside(), torch.no_grad():
        return function(*args, **kwargs)


once: Final[ContextVar[bool]] = ContextVar("once", default=False)
"""Whether what is computed now is remembered, and not computed again for the same arguments."""


def remember(function: Function) -> Function:
    """The function, computed once for each set of arguments that no gradient depends on."""
    known: dict[str, Any] = {}

    @functools.wraps(function)
    def recall(*args: Any, **kwargs: Any) -> Any:
        if any(tensor.requires_grad for tensor in tensors((args, kwargs))):
            return function(*args, **kwargs)

        key = repr(_told((args, sorted(kwargs.items()))))
        if key not in known:
            token = once.set(True)
            try:
                known[key] = function(*args, **kwargs)
            finally:
                once.reset(token)

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
