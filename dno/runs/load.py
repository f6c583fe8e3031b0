"""Models, once: what many problems can be posed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from dno.core.surroundings import alone, clean_room
from dno.errors import ConfigError
from dno.guard import collecting_later
from dno.paths import current_folder
from dno.protocols import Reward, Sampler
from dno.registry.configs import BuildContext, SamplerConfig
from dno.runs.check import check
from dno.runs.frames import on_frames
from dno.runs.parts import Parts, build
from dno.runs.run_config import RunConfig


@dataclass(frozen=True)
class Loaded:
    """A sampler and rewards with their models on the device."""

    config: RunConfig
    """What they were loaded for."""
    context: BuildContext
    sampler: Sampler
    rewards: Mapping[str, Reward]
    """Rewards and monitors, by their names in records."""

    def check_fits(self, config: RunConfig) -> None:
        """Raise `ConfigError` where a configuration needs something else to be loaded."""
        loaded = _decisive(self.config)
        needed = _decisive(config.located(current_folder()))
        for place in {**loaded, **needed}:
            if loaded.get(place) != needed.get(place):
                raise ConfigError(
                    "differs from what was loaded; load again for it, or leave it as it was",
                    at=place,
                )


def _decisive(config: RunConfig) -> dict[str, Any]:
    """What of a configuration decides what is loaded, by place."""
    parts = Parts.of(config)
    found: dict[str, Any] = {"device": config.device, "dtype": config.dtype}
    found["sampler"] = parts.sampler.config
    for part in (*parts.rewards, *parts.monitors):
        # A weight is the problem's, and no model's.
        found[part.place] = part.config.model_copy(update={"weight": 1.0})
    return found


# Libraries draw weights before they read them, from the generator of the caller's own draws.
@clean_room()
@alone()
@collecting_later()
@torch.random.fork_rng(devices=[])
def load(config: RunConfig, *, fresh: bool = True, beside: Loaded | None = None) -> Loaded:
    """The sampler and the rewards that a configuration names.

    All of the configuration that can be checked without loading a model is checked first.

    Args:
        config: what to load for.
        fresh: whether the run is at its start, and so needs the noise to start from.
        beside: what was loaded already; its sampler is taken where it is the one that is named.

    Raises:
        ConfigError: with the place of what cannot be built.
    """
    config = config.located(current_folder())
    device = find_device(config.device)
    context = BuildContext(device, dtype_of(config), dtype_chosen=config.dtype != "auto")
    check(config, fresh=fresh)

    parts = Parts.of(config)
    sampling = parts.sampler
    if not fresh:
        sampling = replace(sampling, config=sampling.config.resumed())
    sampler: Sampler
    if beside is not None and beside.context == context and _sampling(beside) == sampling.config:
        sampler = beside.sampler
    else:
        sampler = build(sampling, context)
    rewards: dict[str, Reward] = {}
    for part in (*parts.rewards, *parts.monitors):
        rewards[part.name] = on_frames(build(part, context), part.config)
    return Loaded(config, context, sampler, rewards)


def _sampling(loaded: Loaded) -> SamplerConfig:
    return Parts.of(loaded.config).sampler.config


def dtype_of(config: RunConfig) -> torch.dtype:
    """What networks compute in that are loaded for a configuration."""
    if config.dtype == "auto":
        return torch.float32
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def find_device(name: str) -> torch.device:
    """The device that `RunConfig.device` names.

    Raises:
        ConfigError: there is no such device here.
    """
    here = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        here.append("mps")
    here.append("cpu")
    if name == "auto":
        return torch.device(here[0])

    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception:
        raise ConfigError(
            f'there is no device "{name}" here; use one of: {", ".join(here)}', at="device"
        ) from None
    return device
