"""What an iteration leaves in a run's history."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dno.core.problem import Problem
from dno.core.recorder import Recorder
from dno.core.result import PerSample, StepRecord
from dno.core.stages import LoopState, Phase


def _floats(values: Tensor) -> PerSample:
    return tuple(values.tolist())


def _by_name(values: Mapping[str, Tensor]) -> dict[str, PerSample]:
    return {name: _floats(value) for name, value in values.items()}


def recorded(
    phase: Phase, asked: Recorder, problem: Problem, state: LoopState, seconds: float
) -> StepRecord:
    """The record of an iteration."""
    evaluation = asked.at_start()
    assert asked.best is not None
    grad_norm_B = torch.full_like(evaluation.reward_B, math.nan)
    if evaluation.reward_grad_BN is not None:
        _, grad_norm_B = problem.clipped(evaluation.grad_BN())

    spent_evaluations = asked.network_evaluations
    spent_calls = asked.reward_calls
    if state.history:
        spent_evaluations += state.history[-1].network_evaluations
        spent_calls += state.history[-1].reward_calls
    return StepRecord(
        iteration=state.iteration,
        grid=phase.coarse.steps if phase.coarse else None,
        reward=_floats(evaluation.reward_B),
        objective=_floats(evaluation.objective_B),
        rewards=_by_name(evaluation.rewards),
        monitors=_by_name(evaluation.monitors),
        penalties=_by_name(evaluation.penalties),
        log_p=_by_name(evaluation.log_p),
        gamma=None if evaluation.gamma_B is None else _floats(evaluation.gamma_B),
        figures=_by_name(evaluation.figures),
        healthy=tuple(problem.healthy_B(evaluation).tolist()),
        best=_floats(asked.best.score_B),
        grad_norm=_floats(grad_norm_B),
        seconds=seconds,
        network_evaluations=spent_evaluations,
        reward_calls=spent_calls,
    )
