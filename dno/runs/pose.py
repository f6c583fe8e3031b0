"""Make what a RunConfig names. Everything is checked before anything is built."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from dno.core.noise import gaussian_noise
from dno.core.problem import Problem, Term
from dno.errors import ConfigError
from dno.protocols import NoiseMap, Optimizer, Regularizer, Reward, Sampler
from dno.registry.configs import BuildContext, PluginConfig
from dno.registry.registry import REGULARIZERS, REWARDS, Registry
from dno.runs.run_config import RunConfig
from dno.runs.storage import noise_file, read_noise

T = TypeVar("T")
C = TypeVar("C", bound=PluginConfig)


@dataclass(frozen=True)
class Built:
    """The parts of one run."""

    problem: Problem
    optimizer: Optimizer
    warm_start: tuple[Optimizer, int] | None
    observers: Sequence[object]


def find_device(name: str) -> torch.device:
    """The device that `RunConfig.device` names.

    Raises:
        ConfigError: there is no such device here.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + [
        "mps"
    ] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(gpus[0] if gpus else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception:
        have = ", ".join([*gpus, "cpu"])
        raise ConfigError(
            f'there is no device "{name}" here; use one of: {have}', at="device"
        ) from None
    return device


def build(config: RunConfig, *, fresh: bool = True) -> Built:
    """The problem, the optimizers and the observers that a configuration names.

    All that can be checked without loading a model is checked first.

    Args:
        config: what to build.
        fresh: whether the run is at its start, and so needs the noise to start from.

    Raises:
        ConfigError: with the place of what cannot be built.
    """
    ctx = BuildContext(device=find_device(config.device), dtype=getattr(torch, config.dtype))
    _check(config, fresh)
    for place, part in _parts(config):
        _at(place, part.check)
    items = config.items()
    sampler: Sampler = _at("sampler", lambda: config.sampler.build(ctx))
    # Bound to copies it may run out of memory, which the estimates then try with fewer.
    bind = functools.cache(lambda count: sampler.bind(*zip(*items * count, strict=True)))
    sample: NoiseMap = _at("sampler", lambda: bind(1))
    ctx = replace(ctx, draws=tuple(sample.draws))
    parts: dict[str, Any] = {
        place: _at(place, partial(part.build, ctx)) for place, part in _parts(config)[1:]
    }
    rewards = [*config.rewards, *config.monitors]
    places = _places("rewards", config.rewards) + _places("monitors", config.monitors)
    reward_terms = [
        Term[Reward](
            name,
            parts[place],
            part.weight if place.startswith("rewards") else 0.0,
            part.differentiable,
        )
        for (name, part), place in zip(_named(REWARDS, rewards), places, strict=True)
    ]
    if config.spread:
        reward_terms = _scaled(reward_terms, sampler, config)
    start = None
    if fresh and (path := config.start) is not None:
        start = _at("start", lambda: read_noise(path.expanduser(), sample.draws, len(items)))
    warm = (
        (parts["warm_start.optimizer"], config.warm_start.iterations) if config.warm_start else None
    )
    problem = Problem(
        items=items,
        sample=sample,
        rewards=reward_terms,
        regularizers=_regularizer_terms(config, parts),
        start_BN=start,
        copies=bind,
        gradient=config.gradient,
        max_grad_norm=config.max_grad_norm,
        log_p_floor=config.log_p_floor,
    )
    return Built(
        problem,
        parts["optimizer"],
        warm,
        [parts[place] for place in _places("observers", config.observers)],
    )


def _at(place: str, call: Callable[[], T]) -> T:
    """What `call` returns; what goes wrong in it is told with its place."""
    try:
        return call()
    except ConfigError as error:
        raise error.inside(place) from error
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"could not be made: {told}", at=place) from error


def _places(kind: str, parts: Sequence[PluginConfig]) -> list[str]:
    return [f"{kind}.{i}" for i in range(len(parts))]


def _parts(config: RunConfig) -> list[tuple[str, Any]]:
    """Every component's configuration with its place, the sampler first."""
    single: list[tuple[str, Any]] = [("sampler", config.sampler), ("optimizer", config.optimizer)]
    if config.warm_start:
        single.append(("warm_start.optimizer", config.warm_start.optimizer))
    kinds = ("rewards", "monitors", "regularizers", "reports", "observers")
    return single + [
        pair
        for kind in kinds
        for pair in zip(_places(kind, getattr(config, kind)), getattr(config, kind), strict=True)
    ]


def _check(config: RunConfig, fresh: bool) -> None:
    if fresh and (path := config.start) is not None and not noise_file(path.expanduser()).is_file():
        raise ConfigError(f"there is no file {noise_file(path)}", at="start")
    if config.spread == 1:
        raise ConfigError("should be 0, or at least 2: one sample has no spread", at="spread")
    if not any(reward.weight for reward in config.rewards) and not any(
        r.weight for r in config.regularizers
    ):
        raise ConfigError(
            "every weight is 0, so there is nothing to optimise; give one a weight", at="rewards"
        )
    for i, (name, reward) in enumerate(_named(REWARDS, config.rewards)):
        if config.gradient.method == "exact" and reward.weight and not reward.differentiable:
            raise ConfigError(
                f'"{name}" has no exact gradient; choose another gradient.method to estimate one, '
                "or give it weight 0",
                at=f"rewards.{i}",
            )


def _named(registry: Registry[C], parts: Sequence[C]) -> list[tuple[str, C]]:
    names = [registry.label(part) for part in parts]
    return [
        (f"{name}-{names[:i].count(name) + 1}" if name in names[:i] else name, part)
        for i, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def _regularizer_terms(config: RunConfig, parts: dict[str, Any]) -> list[Term[Regularizer]]:
    named = _named(REGULARIZERS, [*config.regularizers, *config.reports])
    places = _places("regularizers", config.regularizers) + _places("reports", config.reports)
    terms = []
    for (name, part), place in zip(named, places, strict=True):
        auto = part.weight == "auto"
        weight = 0.0 if place.startswith("reports") else 1.0 if auto else float(part.weight)
        terms.append(
            Term[Regularizer](
                name, parts[place], weight, log_p_target=part.log_p_target if auto else None
            )
        )
    return terms


def _scaled(
    terms: Sequence[Term[Reward]], sampler: Sampler, config: RunConfig
) -> list[Term[Reward]]:
    """The terms, each divided by its spread over plain samples of each prompt."""
    spreads: list[Tensor] = []
    for prompt in config.prompts:
        # Of the prompt alone, so that a sample's path does not depend on what it is optimised
        # beside.
        items = [(prompt, zlib.crc32(f"{prompt} {i}".encode())) for i in range(config.spread)]
        sample = sampler.bind(*zip(*items, strict=True))
        # The seeds' own noise, which is not where a sampler that starts elsewhere would start.
        noise_BN = gaussian_noise(sample.draws, [seed for _, seed in items]).to(sample.noise_BN)
        found = Problem(items, sample, terms).evaluate(noise_BN, 0, with_grad=False)
        spreads.append(torch.stack([found.rewards[term.name].std() for term in terms]))
    spread_BR = torch.stack(spreads).repeat_interleave(len(config.seeds), dim=0)
    for i, term in enumerate(terms):
        if term.weight and not (spread_BR[:, i] > 0).all():
            raise ConfigError(
                f'"{term.name}" is the same for all {config.spread} plain samples of a prompt, so '
                "that it has no "
                "spread to be divided by; leave spread at 0",
                at="spread",
            )
    return [
        replace(term, scale=1 / spread_BR[:, i]) if term.weight else term
        for i, term in enumerate(terms)
    ]
