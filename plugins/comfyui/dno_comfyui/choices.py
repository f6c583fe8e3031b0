"""What the lists of the nodes hold, from what distributions publish: no plugin is imported."""

from __future__ import annotations

from typing import Any, Final

from dno.registry.registry import MODELS, OPTIMIZERS, REWARDS, SAMPLERS, Registry

from . import host

USUAL: Final = "(usual)"
"""Leaves a choice to dno."""


def rewards() -> list[str]:
    """Every installed reward."""
    return _names(REWARDS)


def optimizers() -> list[str]:
    """The usual one, and every installed optimizer."""
    return [USUAL, *_names(OPTIMIZERS)]


def samplers() -> list[str]:
    """The usual one, and every installed sampler."""
    return [USUAL, *_names(SAMPLERS)]


def models() -> list[str]:
    """Models that distributions bring, then those in ComfyUI's model folders."""
    return [*_names(MODELS), *sorted(set(host.models_of_comfyui()))]


def chosen(name: str) -> str | None:
    """What dno is told of a choice; None where it is left to dno."""
    return None if name == USUAL else name


def _names(registry: Registry[Any]) -> list[str]:
    """Names that each mean one plugin: where two distributions claim one, `distribution:name`."""
    infos = registry.infos()
    short = [info.name for info in infos]
    unique = [info.name if short.count(info.name) == 1 else info.qualified for info in infos]
    return sorted(unique)
