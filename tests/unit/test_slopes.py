"""Rewards and penalties apart: each with its own gradient, unclipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_problems import brightness, climb, equal, problem
from torch import Generator, Tensor

from dno.core.gradients import GradientConfig
from dno.core.problem import Problem
from dno.core.terms import RegularizerTerm, RewardTerm
from dno.protocols import Objective, Penalty, Slopes, State
from dno.testing.toy import ToySampler

BOUND = 1e-2
"""Bound of the gradient's norm, shorter than the gradient is."""


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.var(dim=(1, 2, 3))


def length(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
    away_B = noise_BN.square().mean(1)
    return Penalty(away_B, log_p_B=-away_B)


def tail(noise_BN: Tensor, generators: Sequence[Generator]) -> Tensor:
    return noise_BN.pow(4).mean(1)


REWARDS = (("bright", brightness, 2.0), ("contrast", contrast, -5.0))
PENALTIES = (("length", length, 0.3), ("tail", tail, 0.01))


def posed(
    *, differentiable: bool = True, penalties: bool = True, method: Any = "auto", **options: Any
) -> Problem:
    items = [("x", 3), ("y", 4)]
    return Problem(
        items,
        ToySampler().bind(["x", "y"], [3, 4]),
        [
            RewardTerm(name, call, weight, differentiable or name == "contrast")
            for name, call, weight in REWARDS
        ],
        regularizers=[
            RegularizerTerm(name, call, weight) for name, call, weight in PENALTIES if penalties
        ],
        gradient=GradientConfig(method=method, samples=3),
        max_grad_norm=BOUND,
        **options,
    )


class Asking:
    """Asks one thing at each iteration, and stays where it is."""

    def __init__(self, ask: Callable[[Objective, Tensor], Any]) -> None:
        self.ask = ask
        self.answers: list[Any] = []

    def init(self, noise_BN: Tensor, /) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        self.answers.append(self.ask(objective, noise_BN))
        return noise_BN, state


def asked(setting: Problem, ask: Callable[[Objective, Tensor], Any], iterations: int = 1) -> Any:
    asking = Asking(ask)
    outcome = climb(setting, iterations, optimizer=asking)
    assert outcome.error is None
    return asking.answers[-1]


def slopes_of(setting: Problem, iterations: int = 1) -> Slopes:
    return asked(setting, lambda objective, noise_BN: objective.slopes(noise_BN), iterations)


def reward_at(setting: Problem, noise_BN: Tensor) -> Tensor:
    images = setting.sample(noise_BN)
    return sum(weight * call(images, ["x", "y"]) for _, call, weight in REWARDS)


def penalty_at(noise_BN: Tensor) -> Tensor:
    return 0.3 * length(noise_BN, []).value_B + 0.01 * tail(noise_BN, [])


def test_each_gradient_is_that_of_its_own_terms() -> None:
    setting = posed()
    slopes = slopes_of(setting)
    noise_BN = setting.sample.noise_BN.clone().requires_grad_()
    reward_B = reward_at(setting, noise_BN)
    penalty_B = penalty_at(noise_BN)
    (reward_grad_BN,) = torch.autograd.grad(reward_B.sum(), noise_BN)
    (penalty_grad_BN,) = torch.autograd.grad(penalty_B.sum(), noise_BN)
    torch.testing.assert_close(slopes.reward_B, reward_B.detach())
    torch.testing.assert_close(slopes.penalty_B, penalty_B.detach())
    torch.testing.assert_close(slopes.reward_grad_BN, reward_grad_BN)
    torch.testing.assert_close(slopes.penalty_grad_BN, penalty_grad_BN)
    # Unclipped: both are longer than the bound, and not as long as one another.
    norms = [slopes.reward_grad_BN.norm(dim=1), slopes.penalty_grad_BN.norm(dim=1)]
    assert all((norm_B > 1.5 * BOUND).all() for norm_B in norms)


def test_each_gradient_agrees_with_finite_differences() -> None:
    setting = posed()
    slopes = slopes_of(setting)
    start_BN = setting.sample.noise_BN.double()
    generator = torch.Generator().manual_seed(0)
    for grad_BN, value in (
        (slopes.reward_grad_BN, lambda z: reward_at(setting, z)),
        (slopes.penalty_grad_BN, penalty_at),
    ):
        for along_BN in (
            grad_BN.double(),
            torch.randn(grad_BN.shape, generator=generator).double(),
        ):
            step = 1e-4 / along_BN.norm(dim=1).max()
            measured_B = (value(start_BN + step * along_BN) - value(start_BN - step * along_BN)) / 2
            expected_B = (grad_BN.double() * along_BN).sum(1)
            torch.testing.assert_close(measured_B / step, expected_B, rtol=1e-3, atol=1e-6)


KINDS = {
    "exact": {},
    "hybrid-2": {"differentiable": False, "method": "hybrid-2"},
    "hybrid-1": {"differentiable": False, "method": "hybrid-1"},
    "zo": {"differentiable": False, "method": "zo"},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_one_less_the_other_clipped_is_the_value_and_its_gradient(kind: dict[str, Any]) -> None:
    setting = posed(**kind)
    slopes = slopes_of(setting)
    value_B, grad_BN = asked(setting, lambda objective, z: objective.value_and_grad(z))
    assert equal(value_B, slopes.reward_B - slopes.penalty_B)
    clipped_BN, norm_B = setting.clipped(slopes.reward_grad_BN - slopes.penalty_grad_BN)
    assert equal(grad_BN, clipped_BN)
    assert (norm_B > BOUND).all()
    torch.testing.assert_close(grad_BN.norm(dim=1), torch.full((2,), BOUND))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_neither_gradient_knows_of_the_other_terms(kind: dict[str, Any]) -> None:
    both = slopes_of(posed(**kind))
    without = slopes_of(posed(**kind, penalties=False))
    assert equal(both.reward_grad_BN, without.reward_grad_BN)
    assert not without.penalty_grad_BN.any()
    assert not without.penalty_B.any()

    silent = posed(**kind)
    silenced = [replace(reward, weight=0.0) for reward in silent.rewards]
    alone = slopes_of(replace(silent, rewards=silenced))
    assert equal(both.penalty_grad_BN, alone.penalty_grad_BN)
    assert not alone.reward_grad_BN.any()


def test_slopes_cost_what_one_gradient_costs() -> None:
    costs = []
    for ask in (lambda o, z: o.slopes(z), lambda o, z: o.value_and_grad(z)):
        outcome = climb(posed(), 3, optimizer=Asking(ask))
        costs.append((outcome.meter()["network_evaluations"], outcome.meter()["reward_calls"]))
    assert costs[0] == costs[1] == (4, 8)


def test_the_record_has_the_norm_of_the_gradient_before_clipping() -> None:
    slopes = slopes_of(posed())
    outcome = climb(posed(), 1, optimizer=Asking(lambda o, z: o.slopes(z)))
    expected_B = (slopes.reward_grad_BN - slopes.penalty_grad_BN).norm(dim=1)
    assert outcome.history[0].grad_norm == tuple(expected_B.tolist())


def test_an_adapted_weight_is_in_the_penalty_and_not_in_the_reward() -> None:
    base = problem((0, 1), regularizer=None)
    held = [RegularizerTerm("length", length, log_p_target=-0.1)]
    asking = Asking(lambda objective, noise_BN: objective.slopes(noise_BN))
    outcome = climb(replace(base, regularizers=held), 4, optimizer=asking)
    plain = length(base.sample.noise_BN, []).value_B
    for record, slopes in zip(outcome.history, asking.answers, strict=False):
        torch.testing.assert_close(slopes.penalty_B, torch.tensor(record.gamma) * plain)
        assert equal(slopes.reward_B, asking.answers[0].reward_B)
    assert outcome.history[3].gamma[0] > outcome.history[0].gamma[0]


def test_asking_for_slopes_leaves_no_graph_behind() -> None:
    slopes = slopes_of(posed())
    assert not any(value.requires_grad for value in slopes)
