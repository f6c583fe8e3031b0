"""Some samples of a run asked alone, where the others stay at noise whose values are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dno.core.problem import Problem
from dno.core.result import PerSample, Snapshot, StepRecord
from dno.core.terms import Evaluation
from dno.guard import guarded
from dno.protocols import NoiseMap

if TYPE_CHECKING:
    from collections.abc import Callable


def part_of(problem: Problem, rows: Sequence[int]) -> Problem:
    """The problem of some of its samples, which are asked as they would be without the others.

    Args:
        problem: with `rows`.
        rows: the samples' places in it.
    """
    bind = problem.rows
    assert bind is not None
    rewards = []
    for reward in problem.rewards:
        scale = reward.scale
        if isinstance(scale, Tensor) and scale.dim():
            scale = scale[list(rows)]
        rewards.append(replace(reward, scale=scale))

    copies: Callable[[int], NoiseMap] | None = None
    if problem.copies is not None:

        def copies(count: int) -> NoiseMap:
            return bind(tuple(rows) * count)

    return replace(
        problem,
        items=[problem.items[row] for row in rows],
        sample=guarded("the sampler", bind, tuple(rows)),
        rewards=rewards,
        start_BN=None,
        copies=copies,
        rows=None,
        numbers=tuple(rows),
    )


def widened(known: Evaluation, found: Evaluation, rows: Sequence[int]) -> Evaluation:
    """An evaluation of all samples: what was found of some, what is known of the others.

    Those others stayed at the noise that they are known at, and have no gradient.

    Args:
        known: of all samples.
        found: of some.
        rows: the places of these.
    """

    def put(into: Tensor, values: Tensor) -> Tensor:
        whole = into.to(values, copy=True)
        whole[list(rows)] = values
        return whole

    def put_each(into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        nothing = torch.full_like(known.reward_B, math.nan)
        return {name: put(into.get(name, nothing), value) for name, value in values.items()}

    def slopes(values: Tensor | None) -> Tensor | None:
        return None if values is None else put(torch.zeros_like(known.noise_BN), values)

    gamma_B = found.gamma_B
    if gamma_B is not None and known.gamma_B is not None:
        gamma_B = put(known.gamma_B, gamma_B)
    failures = {row: why for row, why in known.failures.items() if row not in rows}
    failures |= {rows[row]: why for row, why in found.failures.items()}
    return replace(
        found,
        noise_BN=put(known.noise_BN, found.noise_BN),
        samples=put(known.samples, found.samples),
        reward_B=put(known.reward_B, found.reward_B),
        penalty_B=put(known.penalty_B, found.penalty_B),
        rewards=put_each(known.rewards, found.rewards),
        monitors=put_each(known.monitors, found.monitors),
        penalties=put_each(known.penalties, found.penalties),
        log_p=put_each(known.log_p, found.log_p),
        gamma_B=gamma_B,
        figures=put_each(known.figures, found.figures),
        reward_grad_BN=slopes(found.reward_grad_BN),
        penalty_grad_BN=slopes(found.penalty_grad_BN),
        failures=failures,
    )


def remembered(last: Snapshot, record: StepRecord, failures: Mapping[int, str]) -> Evaluation:
    """The evaluation that a snapshot and a record were made of, but for what it cost.

    A run that was killed remembers the same bits as one that was not: both read them back from what
    is saved.

    Args:
        last: what was kept of it.
        record: its line in the history.
        failures: of all the run so far.
    """

    def tensor(values: PerSample) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(last.score_B)

    reward_B = tensor(record.reward)
    failed = {row: why for row, why in failures.items() if math.isnan(record.reward[row])}
    return Evaluation(
        noise_BN=last.noise_BN,
        samples=last.samples,
        reward_B=reward_B,
        penalty_B=reward_B - tensor(record.objective),
        rewards=last.rewards,
        monitors=last.monitors,
        penalties={name: tensor(values) for name, values in record.penalties.items()},
        log_p=last.log_p,
        gamma_B=None if record.gamma is None else tensor(record.gamma),
        figures=last.figures,
        reward_grad_BN=None,
        penalty_grad_BN=None,
        failures=failed,
        network_evaluations=0,
        reward_calls=0,
    )
