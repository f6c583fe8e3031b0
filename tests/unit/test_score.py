"""Candidates are compared by reward among healthy noise, and never by penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from dno_builtin.optimizers.adam import Adam
from dno_builtin.optimizers.best_of_n import BestOfN
from dno_builtin.optimizers.local_search import LocalSearch
from small_problems import climb, problem
from torch import Generator, Tensor

import dno
from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo
from dno.core.function import FunctionSampler
from dno.core.problem import Problem
from dno.core.result import Outcome
from dno.core.stages import LoopState, Phase
from dno.core.terms import RegularizerTerm, RewardTerm
from dno.protocols import Penalty
from dno.registry.configs import OptimizerConfig

SEARCHES = {"best-of-n": BestOfN(), "local-search": LocalSearch(beta=0.6)}
FLOOR = -1.0


def scattering(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
    """A penalty that tells nothing and is far larger than rewards are."""
    value_B = torch.cat([10 * torch.rand(1, generator=generator) for generator in generators])
    return Penalty(value_B + 0 * noise_BN.sum(1))


def leaving(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
    """log P falls as the mean rises, so that the brightest candidates are the unhealthy ones."""
    return Penalty(0 * noise_BN.sum(1), log_p_B=-40 * noise_BN.mean(1).clamp(min=0))


def search(
    name: str, regularizer: Any, iterations: int = 12, **options: Any
) -> tuple[Outcome, list[LoopState]]:
    states: list[LoopState] = []
    setting = problem((5, 6, 7), regularizer=None, **options)
    held = [RegularizerTerm("held", regularizer)]
    outcome = climb(
        replace(setting, regularizers=held),
        iterations,
        optimizer=SEARCHES[name].build(None),
        checkpoint=states.append,
    )
    return outcome, states


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_hands_back_the_highest_reward_however_penalties_scatter(name: str) -> None:
    outcome, _ = search(name, scattering)
    for i in range(3):
        rewards = [record.rewards["reward"][i] for record in outcome.history]
        objectives = [record.objective[i] for record in outcome.history]
        # By objective it would have been another one.
        assert rewards.index(max(rewards)) != objectives.index(max(objectives))
        assert outcome.best.rewards["reward"][i] == max(rewards)
        assert outcome.best.rewards["reward"][i] >= outcome.initial.rewards["reward"][i]
        assert outcome.best.iteration_B[i] == rewards.index(max(rewards))


def test_local_search_proposes_around_the_highest_reward_however_penalties_scatter() -> None:
    _, states = search("local-search", scattering)
    starts = [problem((5, 6, 7)).sample.noise_BN, *[state.noise_BN for state in states]]
    for done, state in enumerate(states):
        reward_TB = torch.tensor([record.rewards["reward"] for record in state.history])
        for i, first in enumerate(reward_TB.argmax(0).tolist()):
            assert first <= done
            assert torch.equal(state.optimizer["centre_BN"][i], starts[first][i])
            assert state.optimizer["score_B"][i] == reward_TB[first, i]


@pytest.mark.parametrize("name", SEARCHES)
def test_an_unhealthy_candidate_never_wins(name: str) -> None:
    outcome, states = search(name, leaving, 20, log_p_floor=FLOOR)
    for i in range(3):
        told = [
            (record.rewards["reward"][i], record.log_p["held"][i] >= FLOOR)
            for record in outcome.history
        ]
        healthy = [reward for reward, well in told if well]
        assert max(told)[1] is False, "the brightest of all is an unhealthy one"
        assert outcome.best.rewards["reward"][i] == max(healthy)
        assert outcome.best.log_p["held"][i] >= FLOOR
    if name == "local-search":
        centre_BN = states[-1].optimizer["centre_BN"]
        assert (leaving(centre_BN, []).log_p_B >= FLOOR).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_where_no_candidate_is_healthy_the_start_is_handed_back(name: str) -> None:
    def gone(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
        return Penalty(0 * noise_BN.sum(1), log_p_B=torch.full((len(noise_BN),), -9.0))

    outcome, _ = search(name, gone, 4, log_p_floor=FLOOR)
    assert (outcome.best.score_B == -math.inf).all()
    assert torch.equal(outcome.best.noise_BN, outcome.initial.noise_BN)
    assert all(record.best == (-math.inf,) * 3 for record in outcome.history)


def test_a_warm_start_hands_on_the_highest_reward_however_penalties_scatter() -> None:
    setting = replace(
        problem((5, 6), regularizer=None), regularizers=[RegularizerTerm("held", scattering)]
    )
    phases = [Phase(BestOfN().build(None), 8), Phase(Adam().build(None), 1, from_best=True)]
    outcome = optimize(setting, phases, bus=Bus(RunInfo(setting.items, 9, 0, None)))
    for i in range(2):
        seen = [record.rewards["reward"][i] for record in outcome.history[:8]]
        assert outcome.history[8].rewards["reward"][i] == max(seen)


def test_where_penalties_are_all_there_is_the_least_is_the_best() -> None:
    sample = problem((5, 6)).sample
    watched = RewardTerm("watched", lambda images, prompts: images.mean((1, 2, 3)), weight=0.0)
    setting = Problem(
        [("x", 5), ("x", 6)],
        sample,
        [watched],
        regularizers=[RegularizerTerm("length", lambda z, g: z.square().mean(1))],
    )
    outcome = climb(setting, 6, optimizer=BestOfN().build(None))
    for i in range(2):
        lengths = [record.penalties["length"][i] for record in outcome.history]
        assert outcome.best.score_B[i] == -min(lengths)
    assert outcome.climbed == ()


# Through `dno.optimize`: what is measured, and what the verdict says of it.


def paint(first: Tensor, second: Tensor) -> Tensor:
    return (first + 0.5 * second).sigmoid()


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def run(reward: Any = bright, size: int = 8, **options: Any) -> dno.Result:
    options = {"iterations": 6, "paper": True, "lr": 0.3, "seed": 2, **options}
    sampler = FunctionSampler(paint, [(3, size, size)] * 2)
    return dno.optimize("x", reward=reward, sampler=sampler, **options)


def test_without_a_regularizer_log_p_is_measured_and_keeps_the_gate() -> None:
    result = run(regularizer=[])
    assert all(set(record.log_p) == {"permutation"} for record in result.history)
    assert result.history[0].objective == result.history[0].rewards["bright"]
    assert result.history[-1].healthy == (False,)
    healthy = [record.rewards["bright"][0] for record in result.history if record.healthy[0]]
    assert result.best.rewards["bright"].tolist() == [max(healthy)]
    assert result.best.log_p["permutation"] >= -4.6
    assert "log P (permutation) " in result.verdict()
    assert "noise left N(0, I) at iteration " in result.verdict()


def test_a_floor_of_minus_infinity_opens_the_gate_and_measures_nothing() -> None:
    result = run(regularizer=[], settings={"log_p_floor": -math.inf})
    assert all(record.log_p == {} for record in result.history)
    assert all(record.healthy == (True,) for record in result.history)
    assert torch.equal(result.best.noise_BN, result.last.noise_BN)
    assert "log P" not in result.verdict()


def test_a_regularizer_of_ones_own_does_not_close_the_gate_by_itself() -> None:
    def own(noise_BN: Tensor, generators: Sequence[Generator]) -> Tensor:
        return 0 * noise_BN.square().mean(1)

    assert set(run(regularizer=own).history[0].log_p) == {"permutation"}
    permuted = {"use": "permutation", "weight": 0.5}
    assert set(run(regularizer=permuted).history[0].log_p) == {"permutation"}
    assert list(run(regularizer=permuted).history[0].penalties) == ["permutation", "gaussianity"]


def test_noise_of_few_entries_is_not_measured() -> None:
    assert run(regularizer=[], size=3).history[0].log_p == {}
    assert set(run(regularizer=[], size=4).history[0].log_p) == {"permutation"}


@dataclass(frozen=True)
class Reporters:
    """log P that two regularizers report, and the one that should decide."""

    name: str
    first: float
    second: float
    decides: str


REPORTERS = (
    Reporters("the second", first=-1.0, second=-6.0, decides="second"),
    Reporters("the first", first=-6.0, second=-1.0, decides="first"),
    Reporters("the worse of two bad ones", first=-6.0, second=-7.0, decides="second"),
)


@pytest.mark.parametrize("case", REPORTERS, ids=lambda case: case.name)
@pytest.mark.parametrize("floor", [-4.6, -8.0])
def test_health_is_the_least_log_p_of_all_and_the_verdict_names_it(
    case: Reporters, floor: float
) -> None:
    def first(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
        return Penalty(0 * noise_BN.sum(1), torch.full((len(noise_BN),), case.first))

    def second(noise_BN: Tensor, generators: Sequence[Generator]) -> Penalty:
        return Penalty(0 * noise_BN.sum(1), torch.full((len(noise_BN),), case.second))

    result = run(regularizer=[first, second], settings={"log_p_floor": floor, "reports": []})
    least = min(case.first, case.second)
    assert set(result.history[0].log_p) == {"first", "second", "permutation"}
    assert result.history[0].least_log_p == (least,)
    assert result.history[0].healthy == (least >= floor,)
    assert f"log P ({case.decides}) {least:.4g} -> {least:.4g}" in result.verdict()


def test_norm_and_permutation_the_verdict_names_the_one_that_decided() -> None:
    result = run(regularizer=["norm", "permutation"])
    assert set(result.history[0].log_p) == {"norm", "permutation"}
    reached = {name: value.item() for name, value in result.best.log_p.items()}
    decided = min(reached, key=reached.__getitem__)
    assert f"log P ({decided}) " in result.verdict()
    assert result.verdict().count("log P (") == 1
    for record in result.history:
        assert record.healthy[0] == (min(log_p[0] for log_p in record.log_p.values()) >= -4.6)


def dark(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return -images.mean(dim=(1, 2, 3))


def test_a_reward_of_weight_nought_is_not_held_out_and_a_monitor_is() -> None:
    reported = run([(bright, 1), (dark, 0)])
    assert reported.climbed == ("bright",)
    assert reported.best.rewards["dark"] < reported.initial.rewards["dark"]
    assert "held out" not in reported.verdict()
    assert "dark " in reported.verdict()

    watched = run(bright, monitor=dark)
    assert "careful: bright rose while dark, held out, fell; look at best.png" in watched.verdict()
    assert torch.equal(reported.last.noise_BN, watched.last.noise_BN)


@pytest.mark.parametrize("config", SEARCHES.values(), ids=SEARCHES)
def test_a_search_from_python_never_hands_back_less_than_the_start(config: OptimizerConfig) -> None:
    for seed in range(4):
        result = run(optimizer=config, regularizer="permutation", seed=seed, lr=None)
        assert result.best.rewards["bright"] >= result.initial.rewards["bright"]
