"""One problem on loaded models: prompts, seeds, and how to climb."""

from __future__ import annotations

import contextlib
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from torch import Tensor

from dno.core.problem import Problem
from dno.core.stages import Coarse, Phase, Stay
from dno.core.surroundings import alone, clean_room
from dno.core.terms import ConstraintTerm, RegularizerTerm, RewardTerm, Term
from dno.core.weights import scaled_by_spread
from dno.protocols import Constraint, NoiseMap, Optimizer, Regularizer
from dno.registry.configs import BuildContext, OptimizerConfig
from dno.registry.registry import REGULARIZERS
from dno.runs.check import check
from dno.runs.coarse import coarse_grids, coarser
from dno.runs.frames import check_medium
from dno.runs.load import Loaded
from dno.runs.parts import Part, Parts, at, build
from dno.runs.room import Surroundings
from dno.runs.run_config import RunConfig, build_plugin_config
from dno.runs.start_noise import start_noise

HEALTH: Final = "permutation"
"""The regularizer that reports log P where a configuration names none like it."""
_LEAST_ENTRIES: Final = 64
"""Fewer entries of noise tell nothing of the law that they were drawn from."""


@dataclass(frozen=True)
class Posed:
    """What the engine needs for one run."""

    config: RunConfig
    """What was posed, with nothing left to be found out."""
    problem: Problem
    phases: Sequence[Phase]
    observers: Mapping[str, object]
    """By their names in messages."""

    @contextlib.contextmanager
    def climbing(self) -> Iterator[None]:
        """Inside, samplers may have elsewhere what the climb does not call; see
        `dno.protocols.NoiseMap`."""
        coarse = [phase.coarse.problem for phase in self.phases if phase.coarse is not None]
        with contextlib.ExitStack() as undo:
            for problem in (self.problem, *coarse):
                if hasattr(problem.sample, "climbing"):
                    undo.enter_context(problem.sample.climbing())
            yield


@clean_room()
@alone()
def pose(
    loaded: Loaded, config: RunConfig, *, fresh: bool = True, found: Tensor | None = None
) -> Posed:
    """The problem, the phases and the observers of a configuration.

    Args:
        loaded: models that were loaded for it, or for one with the same sampler and rewards.
        config: what to run.
        fresh: whether the run is at its start, and so needs the noise to start from.
        found: that noise, where it was searched for before for the same picture, `B x N`.

    Raises:
        ConfigError: with the place of what cannot be built.
    """
    if config is not loaded.config:
        loaded.check_fits(config)
        check(config, fresh=fresh)

    items = config.items()
    remember = getattr(loaded.sampler, "remember", None)
    # With a start of the run's own, no start image gave it.
    if remember is not None and found is not None and config.start is None:
        remember(*zip(*items, strict=True), found)
    make_room = getattr(loaded.sampler, "make_room", None)
    around = Surroundings(config, loaded.context, [*loaded.rewards.values()])
    if make_room is not None:
        make_room(around.room(loaded.context.device))

    @functools.cache
    def bind(copies: int) -> NoiseMap:
        """The sampler, bound to so many copies of the items, one after the other."""
        prompts, seeds = zip(*items * copies, strict=True)
        return loaded.sampler.bind(prompts, seeds)

    # Of the few sets that a repair goes through, each is asked many times.
    @functools.lru_cache(maxsize=4)
    @alone()
    def bind_rows(rows: tuple[int, ...]) -> NoiseMap:
        """The sampler, bound to the items at these places."""
        prompts, seeds = zip(*(items[row] for row in rows), strict=True)
        return loaded.sampler.bind(prompts, seeds)

    sample = at("sampler", partial(bind, 1))
    if make_room is not None:
        # Copies are drawn without a gradient, and need no room for one.
        make_room(replace(around.room(loaded.context.device), must_fit=False))
    parts = Parts.of(config)
    medium = getattr(sample, "medium", None)
    for part in (*parts.rewards, *parts.monitors):
        at(part.place, partial(check_medium, part.config, part.name, medium))
    rewards = _rewards(loaded, parts, config)
    monitors = [Term(part.name, loaded.rewards[part.name]) for part in parts.monitors]
    start_BN = start_noise(config, loaded.sampler, sample, found) if fresh else None

    def problem_on(
        sample: NoiseMap, copies: Callable[[int], NoiseMap]
    ) -> tuple[Problem, BuildContext]:
        """The problem on one time grid, and what its other parts are built with."""
        context = replace(loaded.context, draws=tuple(sample.draws))
        problem = Problem(
            items=items,
            sample=sample,
            rewards=rewards,
            monitors=monitors,
            regularizers=_regularizers(parts, context),
            reports=_reports(parts, context, config),
            constraints=_constraints(parts, context),
            copies=copies,
            gradient=config.gradient,
            max_grad_norm=config.max_grad_norm,
            log_p_floor=config.log_p_floor,
            p_floor=config.p_floor if _tells(context.draws) else 0.0,
        )
        return problem, context

    problem, context = problem_on(sample, bind)
    problem = replace(problem, start_BN=start_BN, rows=lambda rows: bind_rows(tuple(rows)))
    # Found once: a run that is resumed must climb on the same grids.
    coarse_maps = coarse_grids(config, sample)
    config = config.model_copy(update={"coarse": tuple(coarse_maps)})
    grids = []
    for steps, coarse_map in coarse_maps.items():
        coarse, inner = problem_on(coarse_map.sample, _coarse_copies(bind, steps))
        grids.append((Coarse(coarse_map, coarse, steps), inner))

    phases = _phases(parts, context, config)
    if grids:
        phases = _coarse_phases(parts, context, config, grids)
    observers = {part.name: build(part, context) for part in parts.observers}
    return Posed(config, problem, phases, observers)


def _coarse_copies(bind: Callable[[int], NoiseMap], steps: int) -> Callable[[int], NoiseMap]:
    """The coarse map of the sampler bound to so many copies of the items."""

    @functools.cache
    def copies(count: int) -> NoiseMap:
        return coarser(bind(count), steps).sample

    return copies


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
        regularizer: Regularizer = build(part, context)
        if part.config.weight == "auto":
            target = part.config.log_p_target
            terms.append(RegularizerTerm(part.name, regularizer, log_p_target=target))
        else:
            terms.append(RegularizerTerm(part.name, regularizer, float(part.config.weight)))
    return terms


def _reports(parts: Parts, context: BuildContext, config: RunConfig) -> Sequence[Term[Regularizer]]:
    """The reports asked for, and one of log P, on which a run's best depends."""
    reports: list[Term[Regularizer]] = [
        Term(part.name, build(part, context)) for part in parts.reports
    ]
    if config.log_p_floor == -math.inf or not _tells(context.draws):
        return reports

    health = build_plugin_config(REGULARIZERS, HEALTH)
    measured = [part.config for part in (*parts.regularizers, *parts.reports)]
    if not any(isinstance(config, type(health)) for config in measured):
        reports.append(Term(HEALTH, health.build(context)))
    return reports


def _tells(draws: Sequence[tuple[int, ...]]) -> bool:
    """Whether noise of these draws has entries enough to tell the law that they came from."""
    return sum(map(math.prod, draws)) >= _LEAST_ENTRIES


def _constraints(parts: Parts, context: BuildContext) -> Sequence[ConstraintTerm]:
    terms = []
    for part in parts.constraints:
        constraint: Constraint = build(part, context)
        terms.append(ConstraintTerm(part.name, constraint, part.config.every))
    return terms


def _optimizer(
    part: Part[OptimizerConfig], context: BuildContext, factor: float = 1.0
) -> Optimizer:
    """An optimizer, for a grid of `factor` times fewer steps than the sampler's own."""
    coarser = at(part.place, lambda: part.config.on_coarser(factor))
    return build(replace(part, config=coarser), context)  # type: ignore[no-any-return]


def _phases(parts: Parts, context: BuildContext, config: RunConfig) -> Sequence[Phase]:
    """A warm start, if there is one, and the climb."""
    climb = Phase(
        _optimizer(parts.optimizer, context),
        config.iterations,
        name=parts.optimizer.name,
        constrained=config.optimizer.constrained,
    )
    warm = _warm_phase(parts, context, config)
    return [climb] if warm is None else [warm, replace(climb, from_best=True)]


def _warm_phase(parts: Parts, context: BuildContext, config: RunConfig) -> Phase | None:
    if parts.warm_start is None or config.warm_start is None:
        return None
    return Phase(
        _optimizer(parts.warm_start, context),
        config.warm_start.iterations,
        name=parts.warm_start.name,
        constrained=config.warm_start.optimizer.constrained,
    )


def _coarse_phases(
    parts: Parts,
    context: BuildContext,
    config: RunConfig,
    grids: Sequence[tuple[Coarse, BuildContext]],
) -> Sequence[Phase]:
    """A look at the start, the climb on coarser grids, and repairs on the sampler's own."""
    constrained = config.optimizer.constrained
    phases = [Phase(Stay(), 1, constrained=False)]
    fine = len(context.draws)
    for i, (coarse, inner) in enumerate(grids):
        if i == 0:
            warm = _warm_phase(parts, inner, config)
            if warm is not None:
                phases.append(replace(warm, coarse=coarse))
        # Shared equally; what does not divide goes to the coarsest, where it costs least.
        share, rest = divmod(config.iterations, len(grids))
        optimizer = _optimizer(parts.optimizer, inner, fine / len(inner.draws))
        phases.append(
            Phase(
                optimizer,
                share + (rest if i == 0 else 0),
                name=parts.optimizer.name,
                from_best=len(phases) > 1,
                constrained=constrained,
                coarse=coarse,
            )
        )
        if constrained and any(part.every != 1 for part in config.constraints):
            # Noise counts once it is put back, which here is after the last step: look at it.
            phases.append(Phase(Stay(), 1, coarse=coarse))
    repair = _optimizer(parts.optimizer, context)
    phases.append(
        Phase(
            repair,
            config.repair,
            name=parts.optimizer.name,
            constrained=constrained,
            repairs=True,
        )
    )
    return phases
