"""Climbing on a coarser grid first: what counts, how noise is handed over, and what is repaired."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from walks import ENTRIES, SHAPE, Coarser, Walk, Walker, brightness

import dno
from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo, StepDone, hookimpl
from dno.core.noise import gaussian_noise
from dno.core.problem import Problem
from dno.core.result import Outcome, Status
from dno.core.stages import LoopState, Phase
from dno.core.terms import RewardTerm, Term
from dno.errors import ConfigError
from dno.testing.toy import Ascent


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


def posed(wrong: float | Sequence[float]) -> tuple[Problem, list[Phase]]:
    """Samples on a walk whose coarse map promises more, or less, than the fine one holds.

    They are two, or as many as there are numbers.
    """
    from dno.core.stages import Coarse, Stay

    if isinstance(wrong, float):
        wrong = (wrong, wrong)
    items = [(letter, seed) for seed, letter in enumerate("xyz"[: len(wrong)])]
    walk = Walk(gaussian_noise((SHAPE,) * 8, range(len(wrong))), 8)
    fine = Problem(items, walk, [RewardTerm("brightness", brightness)])
    map_ = Coarser(walk, 2, wrong=torch.tensor(wrong)[:, None])
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


def asked_alone(problem: Problem) -> tuple[Problem, list[int]]:
    """The problem whose samples may be asked without the others, and the sizes of such calls."""
    walk = problem.sample
    assert isinstance(walk, Walk)
    asked: list[int] = []

    def rows(places: Sequence[int]) -> Walk:
        return Walk(walk.noise_BN[list(places)], 8, asked=asked)

    return replace(problem, rows=rows), asked


def of_records(outcome: Outcome) -> str:
    return str([replace(record, seconds=0.0) for record in outcome.history])


def test_a_repair_asks_only_about_samples_that_move_and_finds_the_same_bits() -> None:
    problem, phases = posed(wrong=[0.0, -1.5, -1.5])
    whole, _ = carried_out(problem, phases)
    apart, asked = asked_alone(problem)
    outcome, _ = carried_out(apart, phases)

    assert len(outcome.history) > 5
    assert set(asked) <= {1, 2}
    # A look and a step for each record after the hand-over's; the last look finds nothing lost.
    assert of_records(outcome) == of_records(whole)
    for mine, theirs in ((outcome.best, whole.best), (outcome.last, whole.last)):
        for name, tensor in theirs.tensors().items():
            assert torch.equal(mine.tensors()[name], tensor), name


def test_what_stays_is_not_asked_again_once_all_are_known() -> None:
    problem, phases = posed(wrong=[0.0, 0.0, -1.5])
    apart, asked = asked_alone(problem)
    walk = apart.sample
    assert isinstance(walk, Walk)
    outcome, _ = carried_out(apart, phases)
    # All at the start, and all at the hand-over.
    assert walk.asked == [3, 3]
    assert asked == [1] * len(asked)
    assert len(asked) >= 2
    unmoved = [record.reward[:2] for record in outcome.history[4:]]
    assert unmoved == unmoved[:1] * len(unmoved)


def test_observers_see_all_samples_while_some_are_repaired() -> None:
    problem, phases = posed(wrong=[0.0, 0.0, -1.5])
    apart, _ = asked_alone(problem)
    seen: list[Tensor] = []
    bus = Bus(RunInfo(apart.items, 7, 0, None), [Watching(seen)])
    optimize(apart, phases, bus=bus)
    assert {len(samples) for samples in seen} == {3}
    assert torch.equal(seen[-1][:2], seen[4][:2])
    assert not torch.equal(seen[-1][2], seen[4][2])


@dataclass(frozen=True)
class Watching:
    seen: list[Tensor]

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        self.seen.append(event.samples)


def drawn(noise_BN: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.rand((), generator=generator) for generator in generators])


@pytest.mark.parametrize("stopped_at", range(7))
def test_a_repair_of_some_resumes_to_the_same_bits(stopped_at: int) -> None:
    problem, phases = posed(wrong=[0.0, -1.2, -3.0])
    # Its answers are other ones at each evaluation: those of samples that stay must be kept.
    apart, _ = asked_alone(replace(problem, reports=[Term("drawn", drawn)]))
    whole, states = carried_out(apart, phases)
    resumed, _ = carried_out(apart, phases, state=states[stopped_at])
    assert of_records(resumed) == of_records(whole)
    for name, tensor in whole.last.tensors().items():
        assert torch.equal(resumed.last.tensors()[name], tensor), name


def test_three_samples_are_three_of_one_while_some_are_repaired() -> None:
    wrong = [0.0, -1.2, -3.0]
    problem, phases = posed(wrong=wrong)
    together, _ = carried_out(asked_alone(problem)[0], phases)
    for row in range(3):
        items = [problem.items[row]]
        walk = Walk(gaussian_noise((SHAPE,) * 8, [row]), 8)
        fine = replace(problem, items=items, sample=walk)
        map_ = Coarser(walk, 2, wrong=wrong[row])
        coarse = phases[1].coarse
        assert coarse is not None
        own = replace(coarse, map=map_, problem=replace(fine, sample=map_.sample))
        alone, _ = carried_out(fine, [phases[0], replace(phases[1], coarse=own), phases[2]])
        # To the last bits of sums, which torch adds up otherwise for other numbers of rows.
        assert torch.allclose(alone.best.noise_BN[0], together.best.noise_BN[row], atol=1e-5)
        assert torch.allclose(alone.best.score_B[0], together.best.score_B[row], atol=1e-6)


def test_a_sample_that_fails_while_it_is_repaired_alone_ends_no_other() -> None:
    problem, phases = posed(wrong=[0.0, 0.0, -1.5])
    calls = 0

    def sick(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        value_B = brightness(images, prompts)
        calls += len(images) == 1
        return value_B * math.nan if len(images) == 1 and calls > 1 else value_B

    apart, _ = asked_alone(replace(problem, rewards=[RewardTerm("brightness", sick)]))
    outcome, _ = carried_out(apart, phases)
    assert outcome.status is Status.PARTIAL
    assert list(outcome.failures) == [2]
    assert "for sample 2;" in outcome.failures[2]
    assert math.isfinite(outcome.history[-1].reward[0])
