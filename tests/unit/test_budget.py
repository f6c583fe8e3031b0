"""What stops a run, and what a run says that it cost."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

import dno
from dno.core.budget import Budget, peak_memory
from dno.core.function import FunctionSampler
from dno.core.result import Status
from dno.errors import ConfigError
from dno.protocols import Penalty

DRAWS = [(3, 4, 4)] * 2


def paint(first, second):
    return (first + 0.5 * second).sigmoid()


def brightness(images, prompts):
    return images.mean(dim=(1, 2, 3))


def drifting(noise_BN, generators):
    """No penalty; log P falls by one with each tenth of mean."""
    return Penalty(0 * noise_BN.sum(1), log_p_B=-10 * noise_BN.mean(1).abs())


def climb(*, reward=brightness, iterations=12, lr=0.1, sampler=None, **settings):
    sampler = sampler or FunctionSampler(paint, DRAWS)
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return dno.optimize(
        ["x", "y"],
        reward=reward,
        regularizer=[],
        sampler=sampler,
        iterations=iterations,
        paper=True,
        lr=lr,
        settings=settings,
    )


@dataclass(frozen=True)
class Limit:
    name: str
    value: float
    stops_at: int
    says: str


LIMITS = (
    Limit("network_evaluations", 4, 3, "its budget of 4 network evaluations is spent"),
    Limit("reward_calls", 6, 5, "its budget of 6 calls is spent"),
    Limit("seconds", 1e-9, 0, "its budget of 1e-09 s is spent"),
)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_the_first_limit_met_stops_the_run(limit):
    result = climb(**{f"budget__{limit.name}": limit.value, "budget__target": 2.0})
    assert (result.status, result.reason) == (Status.STOPPED, limit.says)
    assert result.history[-1].iteration == limit.stops_at
    assert limit.says in result.verdict()


def test_a_target_is_met_when_every_sample_has_met_it():
    free = climb()
    target = 0.6
    result = climb(budget__target=target)
    met = [min(sample) >= target for sample in zip(*[r.best for r in free.history], strict=True)]
    assert not all(met)
    first = next(r.iteration for r in free.history if min(r.best) >= target)
    assert result.history[-1].iteration == first
    assert result.best.rewards["brightness"].min() >= target
    assert result.reason == "the rewards reached 0.6"


def test_a_floor_on_log_p_stops_when_the_last_sample_is_below():
    def go(**settings):
        sampler = FunctionSampler(paint, DRAWS)
        options = {
            "regularizer": drifting,
            "sampler": sampler,
            "iterations": 12,
            "paper": True,
            "lr": 0.1,
        }
        return dno.optimize(["x", "y"], reward=brightness, settings=settings, **options)

    free, stopped = go(), go(**{"budget.log_p": -5.0})
    first = next(r.iteration for r in free.history if max(r.least_log_p) < -5)
    assert 0 < first == stopped.history[-1].iteration
    assert stopped.reason == "log P fell below -5"


@pytest.mark.parametrize("method", ["zo", "hybrid-1", "hybrid-2"])
def test_estimates_are_metered(method):
    def hidden(images, prompts):
        return brightness(images, prompts)

    hidden.differentiable = False
    result = climb(reward=hidden, iterations=3, gradient__method=method, gradient__samples=5)
    # Three gradients of one evaluation and five copies each, and the evaluation of where they end.
    meter = result.meter()
    assert meter["reward_calls"] == 3 * 6 + 1
    assert meter["network_evaluations"] == (4 if method == "hybrid-1" else 3 * 6 + 1)


def test_a_sampler_says_what_a_call_costs_and_others_count_one():
    class Costly(FunctionSampler):
        def bind(self, prompts, seeds):
            bound = super().bind(prompts, seeds)
            object.__setattr__(bound, "network_evaluations", 7)
            return bound

    assert climb(iterations=2).meter()["network_evaluations"] == 3
    assert climb(iterations=2, sampler=Costly(paint, DRAWS)).meter()["network_evaluations"] == 21


def test_the_meter_is_kept_in_the_run_folder(tmp_path):
    sampler = FunctionSampler(paint, DRAWS)
    options = {"sampler": sampler, "regularizer": [], "iterations": 2, "out": tmp_path / "run"}
    result = dno.optimize("x", reward=brightness, **options)
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    about = {"status": "finished", "reason": "", "error": "", "failures": {}, "medium": "image"}
    expected = {**about, **result.meter()}
    assert {name: saved[name] for name in expected} == expected
    assert saved["climbed"] == ["brightness"]
    assert saved["items"] == [{"prompt": "x", "seed": 0}]
    reached = result.best.rewards["brightness"].tolist()
    assert saved["best"]["rewards"] == {"brightness": pytest.approx(reached)}
    assert saved["peak_memory"] > 2**20
    assert saved["reward_calls"] == 3


def test_peak_memory_never_falls():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(2**26)
    after = peak_memory(torch.device("cpu"))
    del held
    assert before <= after == peak_memory(torch.device("cpu"))


def test_a_limit_that_is_none_is_told_with_its_place():
    with pytest.raises(
        ConfigError, match=r"budget\.hours: unknown option; .*known: seconds, network_evaluations"
    ):
        climb(budget__hours=3)
    with pytest.raises(ConfigError, match=r"budget\.seconds: .*greater than 0"):
        climb(budget__seconds=0)
    assert Budget() == Budget(seconds=None)
