"""Live pipelines: what people do to one that keeps it from being sampled, by its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from dno.plugin import ConfigError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_OFFLOADING = ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker")
"""Names of diffusers' hooks that move weights as a network runs."""
_CASTING = "layerwise_casting"


def check_live(pipe: Any) -> None:
    """Raise `ConfigError` for a pipeline with parts that are missing, wrapped or hooked.

    Args:
        pipe: a diffusers pipeline, loaded and perhaps changed since.
    """
    optional = getattr(type(pipe), "_optional_components", ())
    for name, part in pipe.components.items():
        if part is None and name not in optional:
            raise ConfigError(
                f"the pipeline has no {name}, without which it draws nothing from a prompt; load "
                "it with all its parts",
                at="model",
            )
        if isinstance(part, _WRAPPERS):
            raise ConfigError(
                f"the pipeline's {name} is wrapped in {type(part).__name__}; put the module itself "
                f"in its place (pipe.{name} = pipe.{name}.module), since a run uses one device",
                at="model",
            )
        if isinstance(part, nn.Module):
            _check_hooks(name, part)


def _check_hooks(name: str, part: nn.Module) -> None:
    hooks = set(_hooks(part))
    if "accelerate" in hooks or hooks.intersection(_OFFLOADING):
        raise ConfigError(
            "the pipeline moves its networks between devices as it runs, which breaks the "
            "backward pass; load it without offloading",
            at="model",
        )
    if _CASTING in hooks:
        raise ConfigError(
            f"the pipeline's {name} changes the type of its weights as it runs (layerwise "
            "casting), which breaks the backward pass; load it without, and choose dtype=bfloat16 "
            "to save memory",
            at="model",
        )
    if hooks:
        raise ConfigError(
            f"the pipeline's {name} has hooks of diffusers ({', '.join(sorted(hooks))}), which may "
            "answer from what an earlier call left; load it without",
            at="model",
        )


def _hooks(part: nn.Module) -> Iterator[str]:
    """Names of the hooks that accelerate and diffusers put on a module and on those in it."""
    for module in part.modules():
        if hasattr(module, "_hf_hook"):
            yield "accelerate"
        registry = getattr(module, "_diffusers_hook", None)
        yield from getattr(registry, "hooks", ())


def without(pipe: Any) -> str:
    """What a pipeline that failed comes without, as the end of a sentence; empty for nothing."""
    missing = [
        name
        for name, part in pipe.components.items()
        if part is None and name.startswith(("text_encoder", "tokenizer"))
    ]
    if not missing:
        return ""
    return f" (it has no {' and no '.join(missing)})"
