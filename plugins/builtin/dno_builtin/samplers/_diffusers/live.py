"""Live pipelines: what people do to one that keeps it from being sampled, by its name."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from dno.plugin import ConfigError

from .hooks import (
    foreign_hook,
    is_cast,
    is_compiled,
    is_offloaded,
    is_on_disk,
    kept_elsewhere,
    other_hooks,
    replaced,
    uncompiled,
)
from .packed import check_packed

_log = logging.getLogger("dno")

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


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
            _check_module(name, uncompiled(part))


def computes_on(pipe: Any) -> torch.device:
    """Where a pipeline computes, whatever keeps its weights elsewhere meanwhile."""
    device: torch.device = pipe._execution_device if _offloaded(pipe) else pipe.device
    return device


def tell_set_aside(pipe: Any, device: torch.device) -> None:
    """Say what a pipeline has that its private view does without.

    Args:
        pipe: a pipeline that `check_live` has passed.
        device: where its view is to be.
    """
    name = type(pipe).__name__
    if _offloaded(pipe):
        _log.warning(
            "%s: its offloading is set aside, since no backward pass can follow it: the run has "
            "the weights of all its parts on %s",
            name,
            device,
        )
    modules = _modules(pipe)
    if any(is_cast(part) for part in modules.values()):
        _log.warning(
            "%s: its layerwise casting is set aside, since no backward pass can follow it: the run "
            "has its weights in the type that they compute in",
            name,
        )
    if any(is_compiled(part) for part in modules.values()):
        _log.warning("%s: the run does without torch.compile, which it cannot share", name)


def _offloaded(pipe: Any) -> bool:
    return any(is_offloaded(part) for part in _modules(pipe).values())


def _modules(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def _check_module(name: str, part: nn.Module) -> None:
    if is_on_disk(part):
        raise ConfigError(
            f"the pipeline's {name} has its weights in files (group offloading to a disk), which a "
            "run cannot read; offload to the CPU, or load it without offloading",
            at="model",
        )
    others = other_hooks(part)
    if others:
        raise ConfigError(
            f"the pipeline's {name} has hooks of diffusers ({', '.join(sorted(others))}), which "
            "may answer from what an earlier call left; load it without",
            at="model",
        )

    method = replaced(part)
    if method is not None:
        raise ConfigError(
            f"the pipeline's {name} has another function in place of its {method}, as DeepCache "
            "and the like put there, and a run cannot tell what that does to gradients; take it "
            "off, or load the pipeline anew",
            at="model",
        )
    place = foreign_hook(part)
    if place is not None:
        raise ConfigError(
            f"the pipeline's {name} has a forward hook (on {place}), and a run cannot tell what "
            "that does to gradients; remove it",
            at="model",
        )

    check_packed(name, part)
    _check_whole(name, part)


def _check_whole(name: str, part: nn.Module) -> None:
    """Raise `ConfigError` where a weight is nowhere."""
    kept = {id(weight) for weight, _ in kept_elsewhere(part)}
    for weight in (*part.parameters(), *part.buffers()):
        if weight.is_meta and id(weight) not in kept:
            raise ConfigError(
                f"the pipeline's {name} has weights on the meta device, without values; load them",
                at="model",
            )


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
