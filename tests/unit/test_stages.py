"""Climbing on a coarser grid first: what counts, how noise is handed over, and what is repaired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import dno
from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo, StepDone, hookimpl
from dno.core.noise import gaussian_noise
from dno.core.problem import Problem
from dno.core.result import Outcome, Status
from dno.core.stages import LoopState, Phase
from dno.core.terms import RewardTerm
from dno.errors import ConfigError
from dno.testing.toy import Ascent

SHAPE = (3, 2, 2)
ENTRIES = math.prod(SHAPE)


@dataclass(frozen=True)
class Walk:
    """A picture of the sum of `steps` draws; the noise of a coarser one adds up neighbouring draws.

    `wrong` bends the coarse picture away from the fine one.
    """

    noise_BN: Tensor
    steps: int
    wrong: float = 0.0

    @property
    def draws(self) -> Sequence[tuple[int, ...]]:
        return (SHAPE,) * self.steps

    @property
    def network_evaluations(self) -> int:
        return self.steps

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        summed = noise_BN.view(-1, self.steps, ENTRIES).sum(1) / math.sqrt(self.steps)
        return (summed * (1 - self.wrong)).sigmoid().view(-1, *SHAPE)

    def coarser(self, steps: int) -> Coarser:
        if self.steps % steps:
            raise ConfigError(f"{steps} is not a part of {self.steps}")
        return Coarser(self, steps)


@dataclass(frozen=True)
class Coarser:
    """A walk on fewer steps."""

    fine: Walk
    steps: int
    wrong: float = 0.0

    @cached_property
    def sample(self) -> Walk:
        return Walk(self.coarsen(self.fine.noise_BN), self.steps, self.wrong)

    def coarsen(self, noise_BN: Tensor, /) -> Tensor:
        stride = self.fine.steps // self.steps
        drawn = noise_BN.view(-1, self.steps, stride, ENTRIES)
        return (drawn.sum(2) / math.sqrt(stride)).flatten(1)

    def refine(self, noise_BN: Tensor, coarse_BM: Tensor, /) -> Tensor:
        stride = self.fine.steps // self.steps
        missing = (coarse_BM - self.coarsen(noise_BN)).view(-1, self.steps, 1, ENTRIES)
        drawn = noise_BN.view(-1, self.steps, stride, ENTRIES)
        return (drawn + missing / math.sqrt(stride)).flatten(1)


class Walker:
    """The sampler of walks."""

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> Walk:
        return Walk(gaussian_noise((SHAPE,) * 8, seeds), 8)


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def climb(prompt: str | list[str] = "x", **options: object) -> dno.Result:
    given = {"iterations": 5, "coarse": 2, "paper": True, "lr": 0.1, "regularizer": [], **options}
    return dno.optimize(prompt, reward=brightness, sampler=Walker(), **given)  # type: ignore[arg-type]


def grids(outcome: Outcome) -> list[int | None]:
    return [record.grid for record in outcome.history]


def test_it_climbs_coarsely_and_ends_on_the_samplers_own_grid() -> None:
    result = climb()
    assert grids(result) == [None, 2, 2, 2, 2, 2, None]
    assert result.status is Status.FINISHED
    assert [record.iteration for record in result.history] == list(range(7))
    spent = [record.network_evaluations for record in result.history]
    assert [after - before for before, after in pairwise(spent)] == [2, 2, 2, 2, 2, 8]


def test_initial_and_best_are_of_the_samplers_own_grid() -> None:
    result = climb(["x", "y"], seed=3)
    walk = Walker().bind(["x", "y"], [3, 3])
    assert torch.equal(result.initial.noise_BN, walk.noise_BN)
    for snapshot in (result.initial, result.best, result.last):
        assert torch.equal(snapshot.samples, walk(snapshot.noise_BN))
    assert (result.best.score_B > result.initial.score_B + 0.05).all()


def test_what_the_coarse_grid_cannot_see_stays_as_it_was_drawn() -> None:
    result = climb()
    bridges = []
    for noise_BN in (result.initial.noise_BN, result.best.noise_BN):
        drawn = noise_BN.view(-1, 2, 4, ENTRIES)
        bridges.append(drawn - drawn.mean(2, keepdim=True))
    assert torch.allclose(*bridges, atol=1e-5)


def test_noise_that_is_put_back_after_the_last_coarse_step_is_looked_at_and_handed_over() -> None:
    result = climb(constraint={"use": "shell", "every": 0})
    assert grids(result) == [None, 2, 2, 2, 2, 2, 2, None]
    assert result.best.iteration_B.tolist() == [7]
    assert (result.best.score_B > result.initial.score_B + 0.05).all()


def test_several_grids_share_the_iterations() -> None:
    result = climb(coarse="2,4", iterations=5)
    assert grids(result) == [None, 2, 2, 2, 4, 4, None]
    assert result.best.iteration_B.tolist() == [6]


def test_a_search_comes_first_on_the_coarse_grid() -> None:
    result = climb(warm_start="best-of-3", iterations=2)
    assert grids(result) == [None, 2, 2, 2, 2, 2, None]


def test_what_a_search_found_coarsely_is_not_drawn_back_to_the_seed() -> None:
    shell = {"use": "shell", "reach": 0.5}
    result = climb(warm_start="best-of-8", constraint=shell, iterations=2, lr=0.01)
    assert grids(result)[:11] == [None, *[2] * 10]
    coarse = max(record.reward[0] for record in result.history[1:11])
    # The picture is the same on both grids, so that all of it is there.
    assert float(result.last.score_B[0]) > coarse - 0.01
    moved = (result.last.noise_BN - result.initial.noise_BN).norm()
    assert moved > 2.0


def test_a_batch_of_two_is_two_of_one() -> None:
    together = climb(["x", "y"], batch=2)
    for i, (prompt, seed) in enumerate(together.items):
        alone = climb(prompt, seed=seed)
        # A larger tensor's sigmoid and mean may be computed in another order.
        assert torch.allclose(alone.best.noise_BN[0], together.best.noise_BN[i], atol=1e-5)
        assert alone.best.score_B[0] == pytest.approx(float(together.best.score_B[i]))


@dataclass(frozen=True)
class Refused:
    coarse: object
    said: str


REFUSED = (
    Refused(3, "coarse: 3 is not a part of 8"),
    Refused("4,2", "the fewest first"),
    Refused("ten", "needs numbers of steps such as 10 or 10,25, or auto"),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(case.coarse))
def test_grids_that_cannot_be_are_refused(case: Refused) -> None:
    with pytest.raises(ConfigError, match=case.said):
        climb(coarse=case.coarse)


def test_a_sampler_without_coarser_grids_is_told() -> None:
    plain = dno.FunctionSampler(lambda z: z.sigmoid(), [(3, 4, 4)])
    with pytest.raises(ConfigError, match="coarse: the sampler offers no coarser grid"):
        dno.optimize("x", reward=brightness, sampler=plain, regularizer=[], coarse=2)


class StopAt:
    """Asks to stop after an iteration, or breaks the run off there."""

    def __init__(self, iteration: int, *, breaks: bool = False) -> None:
        self.iteration = iteration
        self.breaks = breaks

    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        reached = event.record.iteration == self.iteration
        if reached and self.breaks:
            raise KeyboardInterrupt
        return reached


def test_a_run_that_is_stopped_on_a_coarse_grid_is_handed_over() -> None:
    result = climb(observer=StopAt(3))
    assert result.status is Status.STOPPED
    assert grids(result) == [None, 2, 2, 2, None]
    assert result.best.iteration_B.tolist() == [4]
    assert result.best.score_B > result.initial.score_B


@pytest.mark.parametrize("stopped_at", range(6))
def test_it_resumes_to_the_same_bits_from_any_stage(stopped_at: int) -> None:
    setting, phases = posed(wrong=-1.5)
    whole, states = carried_out(setting, phases)
    resumed, _ = carried_out(setting, phases, state=states[stopped_at])
    assert torch.equal(resumed.best.noise_BN, whole.best.noise_BN)
    assert torch.equal(resumed.last.noise_BN, whole.last.noise_BN)
    records = [[replace(r, seconds=0.0) for r in run.history] for run in (resumed, whole)]
    assert str(records[0]) == str(records[1])


def posed(wrong: float) -> tuple[Problem, list[Phase]]:
    """Two samples on a walk whose coarse map promises more, or less, than the fine one holds."""
    from dno.core.stages import Coarse, Stay

    items = [("x", 0), ("y", 1)]
    walk = Walk(gaussian_noise((SHAPE,) * 8, [0, 1]), 8)
    fine = Problem(items, walk, [RewardTerm("brightness", brightness)])
    map_ = Coarser(walk, 2, wrong=wrong)
    coarse = Coarse(map_, replace(fine, sample=map_.sample), 2)
    return fine, [
        Phase(Stay(), 1),
        Phase(Ascent(20.0), 3, coarse=coarse),
        Phase(Ascent(5.0), 3, repairs=True),
    ]


def carried_out(
    problem: Problem, phases: Sequence[Phase], state: LoopState | None = None
) -> tuple[Outcome, list[LoopState]]:
    states: list[LoopState] = []
    bus = Bus(RunInfo(problem.items, 7, 0, None))
    return optimize(problem, phases, bus=bus, state=state, checkpoint=states.append), states


def test_only_samples_that_lost_their_gain_are_repaired() -> None:
    """A coarse map that promises twice what the fine one holds loses; one that is true does not."""
    problem, phases = posed(wrong=-1.5)
    outcome, _ = carried_out(problem, phases)
    assert grids(outcome)[:5] == [None, 2, 2, 2, None]
    assert len(outcome.history) > 5
    handed_over, repaired = outcome.history[4].reward, outcome.history[-1].reward
    assert any(after > before for before, after in zip(handed_over, repaired, strict=True))

    problem, phases = posed(wrong=0.0)
    outcome, _ = carried_out(problem, phases)
    assert grids(outcome) == [None, 2, 2, 2, None]
