"""Problems on the toy sampler that tests of the engine climb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from dno_builtin.optimizers.adam import Adam
from torch import Generator, Tensor

from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo
from dno.core.problem import Problem
from dno.core.result import Outcome, Snapshot
from dno.core.stages import Phase
from dno.core.terms import RegularizerTerm, RewardTerm
from dno.protocols import Optimizer, Penalty, Regularizer, Reward
from dno.testing.toy import ToySampler

WITHOUT_CURVE = {"observers": ["frames", "report"]}
"""The usual observers, but for the one that draws for longer than such a run takes."""


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def wandering(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
    """A penalty with randomness of its own and a log P, as the permutation regularizer has."""
    jitter_B = torch.cat([torch.rand(1, generator=g) for g in generators])
    return Penalty(
        value_B=noise_BN.square().mean(1) * jitter_B,
        log_p_B=-noise_BN.mean(1).abs() * 40,
        figures={"jitter": jitter_B},
    )


def problem(
    seeds: Sequence[int] = (0,),
    reward: Reward = brightness,
    regularizer: Regularizer | None = wandering,
    differentiable: bool = True,
    **options: Any,
) -> Problem:
    """A reward less a hundredth of a penalty, on the toy sampler, one sample a seed."""
    items = [("x", seed) for seed in seeds]
    sample = ToySampler().bind(*zip(*items, strict=True))
    held = [RegularizerTerm("wandering", regularizer, 0.01)] if regularizer else []
    climbed = [RewardTerm("reward", reward, differentiable=differentiable)]
    return Problem(items, sample, climbed, regularizers=held, **options)


def climb(
    problem: Problem,
    iterations: int = 8,
    observers: Sequence[object] = (),
    lr: float = 0.1,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Outcome:
    """The outcome of one phase, Adam's unless told otherwise; observers are told of its end."""
    bus = Bus(RunInfo(problem.items, iterations, 0, None), observers)
    climber = optimizer or Adam(lr=lr).build(None)
    outcome = optimize(problem, [Phase(climber, iterations)], bus=bus, **options)
    bus.finished(outcome)
    return outcome


def same(one: Snapshot, other: Snapshot) -> bool:
    """Whether two snapshots hold the same names and the same bits; nan is as nan."""
    ours = one.tensors()
    theirs = other.tensors()
    return ours.keys() == theirs.keys() and all(equal(ours[name], theirs[name]) for name in ours)


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits; nan is as nan."""
    alike = (one == other) | (one.isnan() & other.isnan())
    return one.shape == other.shape and bool(alike.all())
