"""Which evaluations may be a run's best: by log P, and by the p-values that are free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from small_problems import climb, problem
from torch import Generator, Tensor

import dno
from dno.core.terms import ConstraintTerm, Term
from dno.protocols import Penalty, State
from dno.testing.toy import ToySampler

FLOORS = {"log_p_floor": -4.6, "p_floor": 1e-4}


def reporting(**figures: float) -> Term[Any]:
    """A report of these figures, whatever the noise."""

    def report(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
        told: Mapping[str, Tensor] = {
            name: torch.full((len(noise_BN),), value) for name, value in figures.items()
        }
        return Penalty(torch.zeros(len(noise_BN)), None, told)

    return Term("report", report)


class Keeping:
    """A constraint that leaves the noise and says what it keeps."""

    def __init__(self, *keeps: str) -> None:
        self.keeps = keeps

    def init(self, noise_BN: Tensor, /) -> State:
        return {}

    def retract(self, noise_BN: Tensor, state: State, /) -> Tensor:
        return noise_BN


def is_healthy(
    *, keeps: Sequence[str] = (), floors: Mapping[str, float] = FLOORS, **figures: float
) -> bool:
    constraints = [ConstraintTerm("keeping", Keeping(*keeps))] if keeps else []
    reports = [reporting(**figures)]
    outcome = climb(
        problem(regularizer=None, reports=reports, constraints=constraints, **floors), 1
    )
    (healthy,) = outcome.history[0].healthy
    assert (outcome.best.score_B > -math.inf).item() == healthy
    return healthy


def test_an_unlikely_p_value_is_as_unhealthy_as_a_low_log_p() -> None:
    assert is_healthy(p_mean=0.5, p_norm=0.01)
    assert is_healthy(p_norm=1.1e-4)
    assert not is_healthy(p_norm=0.9e-4)


def test_the_least_of_several_is_taken_times_their_number() -> None:
    assert is_healthy(p_mean=0.5, p_norm=0.6e-4)
    assert not is_healthy(p_mean=0.5, p_norm=0.4e-4)


def test_what_a_constraint_keeps_proves_nothing() -> None:
    assert is_healthy(keeps=["p_norm"], p_mean=0.5, p_norm=1e-9)
    assert not is_healthy(keeps=["p_mean"], p_mean=0.5, p_norm=1e-9)
    assert is_healthy(keeps=["p_norm"], p_norm=1e-9)


def test_other_figures_are_no_p_values() -> None:
    assert is_healthy(jitter=0.0, log_p1=-100.0)


def test_floors_that_let_any_be() -> None:
    assert is_healthy(floors={"log_p_floor": -math.inf, "p_floor": 1e-4}, p_norm=1e-9)
    assert is_healthy(floors={"log_p_floor": -4.6, "p_floor": 0.0}, p_norm=1e-30)
    assert is_healthy(floors={}, p_norm=1e-9)


@pytest.mark.parametrize("floor", [1e-4, 0.0])
def test_a_run_takes_the_floor_from_its_configuration(floor: float) -> None:
    """Noise of another law is told by the report that every run has."""

    class Even(ToySampler):
        def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
            bound = super().bind(prompts, seeds)
            # Of a uniform law with the mean and the power of a Gaussian one.
            even_BN = (torch.special.ndtr(bound.noise_BN) - 0.5) * math.sqrt(12)
            return type(bound)(even_BN, bound.draws)

    result = dno.optimize(
        "any",
        reward="brightness",
        sampler=Even(16),
        regularizer=[],
        constraint=[],
        coarse=None,
        iterations=0,
        settings={"p_floor": floor},
    )
    assert result.history[0].figures["p_kurtosis"][0] < 1e-8
    assert result.history[0].healthy == (floor == 0.0,)
    assert result.history[0].log_p["permutation"][0] > -4.6
