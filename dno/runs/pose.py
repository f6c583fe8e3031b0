"""One problem on loaded models: prompts, seeds, and how to climb."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from torch import Tensor

from dno.core.engine import Phase
from dno.core.problem import ConstraintTerm, Problem, RegularizerTerm, RewardTerm, Term
from dno.core.weights import scaled_by_spread
from dno.protocols import Constraint, NoiseMap, Regularizer
from dno.registry.configs import BuildContext
from dno.registry.registry import REGULARIZERS
from dno.runs.load import Loaded, check
from dno.runs.parts import Parts, at
from dno.runs.run_config import RunConfig, build_plugin_config
from dno.runs.storage import read_noise

HEALTH: Final = "permutation"
"""The regularizer that reports log P where a configuration names none like it."""
_LEAST_ENTRIES: Final = 64
"""Fewer entries of noise tell nothing of the law that they were drawn from."""


@dataclass(frozen=True)
class Posed:
    """What the engine needs for one run."""

    problem: Problem
    phases: Sequence[Phase]
    observers: Sequence[object]


def pose(loaded: Loaded, config: RunConfig, *, fresh: bool = True) -> Posed:
    """The problem, the phases and the observers of a configuration.

    Args:
        loaded: models that were loaded for it, or for one with the same sampler and rewards.
        config: what to run.
        fresh: whether the run is at its start, and so needs the noise to start from.

    Raises:
        ConfigError: with the place of what cannot be built.
    """
    if config is not loaded.config:
        loaded.check_fits(config)
        check(config, fresh=fresh)

    items = config.items()

    @functools.cache
    def bind(copies: int) -> NoiseMap:
        """The sampler, bound to so many copies of the items, one after the other."""
        prompts, seeds = zip(*items * copies, strict=True)
        return loaded.sampler.bind(prompts, seeds)

    sample = at("sampler", partial(bind, 1))
    context = replace(loaded.context, draws=tuple(sample.draws))
    parts = Parts.of(config)
    problem = Problem(
        items=items,
        sample=sample,
        rewards=_rewards(loaded, parts, config),
        monitors=[Term(part.name, loaded.rewards[part.name]) for part in parts.monitors],
        regularizers=_regularizers(parts, context),
        reports=_reports(parts, context, config),
        constraints=_constraints(parts, context),
        start_BN=_start(config, sample) if fresh else None,
        copies=bind,
        gradient=config.gradient,
        max_grad_norm=config.max_grad_norm,
        log_p_floor=config.log_p_floor,
    )
    observers = [at(part.place, partial(part.config.build, context)) for part in parts.observers]
    return Posed(problem, _phases(parts, context, config), observers)


def _rewards(loaded: Loaded, parts: Parts, config: RunConfig) -> Sequence[RewardTerm]:
    terms = [
        RewardTerm(
            part.name,
            loaded.rewards[part.name],
            weight=part.config.weight,
            differentiable=part.config.differentiable,
        )
        for part in parts.rewards
    ]
    if not config.spread:
        return terms

    groups = []
    for prompt in config.prompts:
        # Seeds of the prompt alone, so that a sample's path does not depend on what it is
        # optimised beside.
        seeds = [zlib.crc32(f"{prompt} {i}".encode()) for i in range(config.spread)]
        groups.append([(prompt, seed) for seed in seeds])
    return scaled_by_spread(terms, loaded.sampler, groups, repeats=len(config.seeds))


def _regularizers(parts: Parts, context: BuildContext) -> Sequence[RegularizerTerm]:
    terms = []
    for part in parts.regularizers:
        regularizer: Regularizer = at(part.place, partial(part.config.build, context))
        if part.config.weight == "auto":
            target = part.config.log_p_target
            terms.append(RegularizerTerm(part.name, regularizer, log_p_target=target))
        else:
            terms.append(RegularizerTerm(part.name, regularizer, float(part.config.weight)))
    return terms


def _reports(parts: Parts, context: BuildContext, config: RunConfig) -> Sequence[Term[Regularizer]]:
    """The reports asked for, and one of log P, on which a run's best depends."""
    reports: list[Term[Regularizer]] = [
        Term(part.name, at(part.place, partial(part.config.build, context)))
        for part in parts.reports
    ]
    entries = sum(map(math.prod, context.draws))
    if config.log_p_floor == -math.inf or entries < _LEAST_ENTRIES:
        return reports

    health = build_plugin_config(REGULARIZERS, HEALTH)
    measured = [part.config for part in (*parts.regularizers, *parts.reports)]
    if not any(isinstance(config, type(health)) for config in measured):
        reports.append(Term(HEALTH, health.build(context)))
    return reports


def _constraints(parts: Parts, context: BuildContext) -> Sequence[ConstraintTerm]:
    terms = []
    for part in parts.constraints:
        constraint: Constraint = at(part.place, partial(part.config.build, context))
        terms.append(ConstraintTerm(part.name, constraint, part.config.every))
    return terms


def _start(config: RunConfig, sample: NoiseMap) -> Tensor | None:
    if config.start is None:
        return None
    path = config.start.expanduser()
    count = len(config.items())
    return at("start", partial(read_noise, path, sample.draws, count))


def _phases(parts: Parts, context: BuildContext, config: RunConfig) -> Sequence[Phase]:
    main = at("optimizer", partial(parts.optimizer.config.build, context))
    if parts.warm_start is None or config.warm_start is None:
        return [Phase(main, config.iterations, constrained=config.optimizer.constrained)]

    first = at(parts.warm_start.place, partial(parts.warm_start.config.build, context))
    searching = config.warm_start.optimizer.constrained
    return [
        Phase(first, config.warm_start.iterations, constrained=searching),
        Phase(main, config.iterations, from_best=True, constrained=config.optimizer.constrained),
    ]
