"""What libraries put on the modules of a live pipeline, and what the modules are without it.

accelerate (model and sequential offloading, device maps) and diffusers (group offloading, layerwise
casting) replace the `forward` of modules and keep or change weights between calls, which no
backward pass can follow. A private view needs none of it: it has the weights as the hooks would
have them while a module computes, where the sampler computes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

OFFLOADING = frozenset(
    {"group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker"}
)
"""Names of diffusers' hooks that move weights as a network runs."""
CASTING = "layerwise_casting"
"""Name of diffusers' hook that widens weights as a network runs."""

_SET_ASIDE = OFFLOADING | {CASTING, "peft_autocast_disable"}
"""Names of diffusers' hooks that a private view does without."""

_LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "peft", "dno_builtin")
"""Whose functions may be called before and after a forward; ours fetch weights (`parking.py`)."""

_KEPT_IN = ("_hf_hook", "_diffusers_hook")
"""Attributes in which accelerate and diffusers keep their hooks of a module."""
_LEFT_BY = (*_KEPT_IN, "_old_forward", "to", "cuda")
"""All attributes of a module that they set."""
_COMPILED = "_torchdynamo_orig_callable"
"""Attribute of a function that `torch.compile` made, with what it was made of."""
_METHODS = ("decode", "encode")
"""Methods that people replace by compiled ones, besides `forward`."""


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate or diffusers moves weights of the module, or its inputs, as it runs."""
    for part in module.modules():
        if hasattr(part, "_hf_hook") or OFFLOADING.intersection(_diffusers_hooks(part)):
            return True
    return False


def is_cast(module: nn.Module) -> bool:
    """Whether diffusers widens weights of the module as it runs."""
    return any(CASTING in _diffusers_hooks(part) for part in module.modules())


def is_on_disk(module: nn.Module) -> bool:
    """Whether diffusers has moved weights of the module to files, with nothing left in memory."""
    for part in module.modules():
        for hook in _diffusers_hooks(part).values():
            group = getattr(hook, "group", None)
            if getattr(group, "offload_to_disk_path", None) is not None:
                return True
    return False


def other_hooks(module: nn.Module) -> set[str]:
    """Names of diffusers' hooks on the module, or in it, that decide what it answers."""
    found: set[str] = set()
    for part in module.modules():
        found.update(set(_diffusers_hooks(part)) - _SET_ASIDE)
    return found


def replaced(module: nn.Module) -> str | None:
    """Name of a method, in the module or in a part of it, that is not what its class says.

    What libraries' hooks and `torch.compile` put there does not count.
    """
    for place, part in module.named_modules():
        for name in ("forward", *_METHODS):
            if name in vars(part) and not _is_its_own(part, name):
                return f"{place}.{name}" if place else name
    return None


def foreign_hook(module: nn.Module) -> str | None:
    """Name of a part of the module that calls somebody's function before or after its forward.

    Those of the libraries do not count: torch makes weights of others so, and transformers keeps
    hidden states so, once a text encoder was asked for them.
    """
    for place, part in module.named_modules():
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values()):
            home = getattr(hook, "__module__", None) or type(hook).__module__
            if home.partition(".")[0] not in _LIBRARIES:
                return place or type(part).__name__
    return None


def is_compiled(module: nn.Module) -> bool:
    """Whether the module, or a part of it, was given to `torch.compile`."""
    for part in module.modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            return True
        if any(hasattr(vars(part).get(name), _COMPILED) for name in _METHODS):
            return True
    return False


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` was given, where this is what it made."""
    return getattr(module, "_orig_mod", module)


def kept_elsewhere(module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights and buffers of which the module holds the shape alone, and what they are."""
    for part in module.modules():
        for hook in _accelerate_hooks(part):
            kept = getattr(hook, "weights_map", None)
            if kept is None:
                continue

            deep = bool(hook.place_submodules)
            named = [*part.named_parameters(recurse=deep), *part.named_buffers(recurse=deep)]
            for name, weight in named:
                if weight.is_meta and name in kept:
                    yield weight, kept[name]


def widened(module: nn.Module) -> Iterator[tuple[Tensor, torch.dtype]]:
    """Weights and buffers that are stored in another type than they compute in, and that type."""
    for part in module.modules():
        hook: Any = _diffusers_hooks(part).get(CASTING)
        if hook is None:
            continue
        for weight in (*part.parameters(), *part.buffers()):
            if weight.is_floating_point():
                yield weight, hook.compute_dtype


def own_hooks(module: nn.Module) -> Iterator[Any]:
    """What libraries keep their hooks in, which hold weights: no copy of a module needs those."""
    for part in module.modules():
        for name in _KEPT_IN:
            if name in vars(part):
                yield vars(part)[name]


def bare(view: nn.Module) -> None:
    """Take what libraries put there off a copy of a module, whose methods are its class's then."""
    for part in view.modules():
        own = vars(part)
        if any(name in own for name in _KEPT_IN):
            own.pop("forward", None)
        for name in (*_LEFT_BY, *_METHODS):
            own.pop(name, None)


def _is_its_own(part: nn.Module, name: str) -> bool:
    """Whether a method set on a module is its class's, under hooks or compiled."""
    method = vars(part)[name]
    if hasattr(part, "_orig_mod") or not callable(method):
        return True

    if any(hooks in vars(part) for hooks in _KEPT_IN):
        while isinstance(method, functools.partial) and method.func.__name__ == "new_forward":
            method = vars(method)["__wrapped__"]
    method = getattr(method, _COMPILED, method)
    return getattr(method, "__func__", method) is getattr(type(part), name, None)


def _diffusers_hooks(part: nn.Module) -> dict[str, Any]:
    registry = getattr(part, "_diffusers_hook", None)
    return getattr(registry, "hooks", {})


def _accelerate_hooks(part: nn.Module) -> Iterator[Any]:
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
