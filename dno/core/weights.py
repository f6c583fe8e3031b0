"""Weights that are found rather than given: gamma that holds log P, scales that compare rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from dno.core.noise import gaussian_noise
from dno.core.problem import Problem
from dno.core.terms import RewardTerm
from dno.errors import ConfigError, RunError
from dno.guard import guarded

if TYPE_CHECKING:
    from dno.core.result import StepRecord
    from dno.protocols import Sampler

_FIRST: Final = 0.01
"""From below: a penalty that is large at first would stay in Adam's memory for long."""
_LEAST: Final = 1e-3
_MOST: Final = 1e3


def first_gamma(problem: Problem, noise_BN: Tensor) -> Tensor | None:
    """The weight of penalties that hold log P, before the first record; None where none does."""
    if _target(problem) is None:
        return None
    return noise_BN.new_full((len(noise_BN),), _FIRST)


def next_gamma(problem: Problem, record: StepRecord, noise_BN: Tensor) -> Tensor | None:
    """That weight after an iteration: up where log P is under its target, down where it is above.

    A function of the last record, so that a resumed run goes on with it.

    Raises:
        RunError: no regularizer reports log P.
    """
    target = _target(problem)
    if target is None:
        return None
    if record.least_log_p is None or record.gamma is None:
        raise RunError('a weight of "auto" needs a regularizer that reports log P')

    log_p_B = torch.tensor(record.least_log_p)
    gamma_B = torch.tensor(record.gamma)
    # Bounded, because log P of noise that has gone far is in the thousands; of a sample that could
    # not be evaluated it may be nan, and the weight stays.
    missing_B = (target - log_p_B).clamp(-5, 5).nan_to_num(nan=0.0)
    return (gamma_B * torch.exp(0.1 * missing_B)).clamp(_LEAST, _MOST).to(noise_BN)


def _target(problem: Problem) -> float | None:
    targets = [term.log_p_target for term in problem.regularizers if term.weight]
    return max((target for target in targets if target is not None), default=None)


def scaled_by_spread(
    rewards: Sequence[RewardTerm],
    sampler: Sampler,
    groups: Sequence[Sequence[tuple[str, int]]],
    repeats: int,
) -> list[RewardTerm]:
    """Reward terms, each divided by its standard deviation over plain samples of each prompt.

    Args:
        rewards: the terms.
        sampler: what draws the plain samples.
        groups: (prompt, seed) of each plain sample, a group for each prompt.
        repeats: samples of the run for each prompt.

    Raises:
        ConfigError: a reward that is climbed is the same for all plain samples of a prompt.
    """
    spreads: list[Tensor] = []
    for items in groups:
        prompts, seeds = zip(*items, strict=True)
        sample = guarded("the sampler", sampler.bind, prompts, seeds)
        # The seeds' own noise, which is not where a sampler that starts elsewhere would start.
        noise_BN = gaussian_noise(sample.draws, seeds).to(sample.noise_BN)
        found = Problem(items, sample, rewards).evaluate(noise_BN, 0, with_grad=False)
        spreads.append(torch.stack([found.rewards[reward.name].std() for reward in rewards]))

    spread_BR = torch.stack(spreads).repeat_interleave(repeats, dim=0)
    scaled = []
    for i, reward in enumerate(rewards):
        if not reward.weight:
            scaled.append(reward)
            continue
        if not (spread_BR[:, i] > 0).all():
            raise ConfigError(
                f'"{reward.name}" is the same for all {len(groups[0])} plain samples of a prompt, '
                "so that it has no spread to be divided by; leave spread at 0",
                at="spread",
            )
        scaled.append(replace(reward, scale=1 / spread_BR[:, i]))
    return scaled
