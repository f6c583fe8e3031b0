"""The loop: what it records, what it keeps, how it stops and goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from dno_builtin.optimizers.adam import Adam
from hypothesis import given
from hypothesis import strategies as st
from small_problems import brightness, climb, problem, same
from torch import Tensor

from dno.core.engine import optimize
from dno.core.events import Bus, RunFinished, RunInfo, RunStarted, StepDone, hookimpl
from dno.core.noise import evaluation_generators
from dno.core.result import Status
from dno.core.stages import LoopState, Phase
from dno.core.terms import RegularizerTerm, RewardTerm, Term
from dno.errors import ConfigError, RunError
from dno.protocols import Penalty
from dno.report.result import Result

SNAPSHOTS = ("initial", "best", "last")


def test_the_reward_rises_and_every_iteration_is_recorded():
    outcome = climb(problem(), 20)
    history = outcome.history
    assert [record.iteration for record in history] == list(range(21))
    assert outcome.status is Status.FINISHED
    assert outcome.climbed == ("reward",)
    assert history[-1].rewards["reward"][0] > history[0].rewards["reward"][0] + 0.2
    # The last one only measures.
    assert [math.isnan(record.grad_norm[0]) for record in history] == [False] * 20 + [True]
    assert all(before.seconds <= after.seconds for before, after in pairwise(history))


def test_a_record_has_each_kind_of_figure_in_its_own_field():
    setting = replace(
        problem((0, 1)),
        monitors=[Term("red", lambda images, prompts: images[:, 0].mean(dim=(1, 2)))],
        reports=[Term("length", lambda noise_BN, generators: noise_BN.square().mean(1))],
    )
    record = climb(setting, 1).history[0]
    assert set(record.rewards) == {"reward"}
    assert set(record.monitors) == {"red"}
    assert set(record.penalties) == {"wandering", "length"}
    assert set(record.log_p) == {"wandering"}
    assert set(record.figures) == {"jitter"}
    assert record.gamma is None
    for i in range(2):
        climbed = record.rewards["reward"][i] - 0.01 * record.penalties["wandering"][i]
        assert record.objective[i] == pytest.approx(climbed)
        assert record.best[i] == record.rewards["reward"][i]


def test_a_figure_called_log_p_is_a_figure_and_decides_nothing():
    def boasting(noise_BN, generators):
        size_B = noise_BN.square().mean(1)
        return Penalty(size_B, figures={"log_p": -1000 * size_B, "gamma": size_B})

    outcome = climb(problem(regularizer=boasting, log_p_floor=-4.6), 2)
    assert all(record.healthy == (True,) for record in outcome.history)
    assert all(record.log_p == {} for record in outcome.history)
    assert all(record.gamma is None for record in outcome.history)
    assert set(outcome.history[0].figures) == {"log_p", "gamma"}


def test_a_regularizer_that_reports_only_at_times_is_told():
    def moody(noise_BN, generators):
        size_B = noise_BN.square().mean(1)
        tells = size_B.max() != problem().sample.noise_BN.square().mean()
        return Penalty(size_B, figures={"mood": size_B} if tells else {})

    outcome = climb(problem(regularizer=moody), 3)
    assert outcome.status is Status.FAILED
    assert len(outcome.history) == 1
    told = "a regularizer reports figures.mood at some evaluations and not at others"
    assert str(outcome.error).startswith(told)


def test_zero_iterations_measure_the_start():
    outcome = climb(problem(), 0)
    assert len(outcome.history) == 1
    assert same(outcome.initial, outcome.last)


@given(st.integers(0, 2**32), st.floats(0.01, 3), st.floats(-10, -0.01))
def test_best_never_falls_is_healthy_and_belongs_to_one_evaluation(seed, lr, floor):
    setting = problem((seed, seed + 1), log_p_floor=floor)
    outcome = climb(setting, 6, lr=lr)
    for before, after in pairwise(outcome.history):
        assert all(a <= b for a, b in zip(before.best, after.best, strict=True))
    for i in range(2):
        rewards = [record.rewards["reward"][i] for record in outcome.history if record.healthy[i]]
        assert outcome.best.score_B[i] == max(rewards, default=-math.inf)
        for record in outcome.history:
            assert record.healthy[i] == (record.log_p["wandering"][i] >= floor)
    assert torch.equal(outcome.best.samples, setting.sample(outcome.best.noise_BN))
    torch.testing.assert_close(outcome.best.rewards["reward"], brightness(outcome.best.samples, []))


@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_a_batch_of_two_is_two_of_one(a, b):
    both = climb(problem((a, b)))
    for i, seed in enumerate((a, b)):
        alone = climb(problem((seed,)))
        for name in SNAPSHOTS:
            joint = getattr(both, name).tensors()
            own = getattr(alone, name).tensors()
            for part in joint:
                torch.testing.assert_close(joint[part][i], own[part][0], rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_going_on_from_any_iteration_ends_in_the_same_bits(seed, stopped_at):
    states: list[LoopState] = []
    whole = climb(problem((seed, 1)), 6, checkpoint=states.append)
    assert [state.iteration for state in states] == [1, 2, 3, 4, 5, 6]
    resumed = climb(problem((seed, 1)), 6, state=states[stopped_at - 1])
    assert all(same(getattr(whole, name), getattr(resumed, name)) for name in SNAPSHOTS)
    assert [r.objective for r in resumed.history] == [r.objective for r in whole.history]


def test_a_finished_run_can_be_given_more_iterations():
    states: list[LoopState] = []
    climb(problem(), 3, checkpoint=states.append)
    longer = climb(problem(), 6, state=states[-1])
    assert same(longer.last, climb(problem(), 6).last)


def test_the_gradient_of_each_sample_is_clipped_alone():
    setting = problem((0, 1), max_grad_norm=1e-3)
    grad_BN = setting.evaluate(torch.randn(2, 384), 0, with_grad=True).grad_BN()
    clipped_BN, norm_B = setting.clipped(grad_BN)
    torch.testing.assert_close(clipped_BN.norm(dim=1), torch.full((2,), 1e-3))
    torch.testing.assert_close(norm_B, grad_BN.norm(dim=1))
    torch.testing.assert_close(clipped_BN / 1e-3, grad_BN / norm_B[:, None])
    assert norm_B[0] != norm_B[1]


@pytest.mark.parametrize("bound", [1e9, math.inf])
def test_a_gradient_shorter_than_its_bound_stays_as_it_is(bound):
    setting = problem(max_grad_norm=bound)
    grad_BN = setting.evaluate(torch.randn(1, 384), 0, with_grad=True).grad_BN()
    assert torch.equal(setting.clipped(grad_BN)[0], grad_BN)


def test_a_reward_with_weight_nought_is_reported_and_moves_nothing():
    base = problem()
    seen = RewardTerm("seen", lambda images, prompts: images.std(dim=(1, 2, 3)), weight=0.0)
    watched = climb(replace(base, rewards=[*base.rewards, seen]))
    assert torch.equal(climb(base).last.noise_BN, watched.last.noise_BN)
    assert len(watched.history[0].rewards["seen"]) == 1
    assert watched.climbed == ("reward",)
    assert watched.meter()["reward_calls"] == climb(base).meter()["reward_calls"]


def failing(at, answer):
    calls = []

    def reward(images, prompts):
        calls.append(1)
        return answer(images) if len(calls) > at else brightness(images, prompts)

    return reward


@dataclass(frozen=True)
class Wrong:
    """An answer of a reward with which no run of two samples can go on."""

    name: str
    answer: Callable[[Tensor], object]
    told: str


WRONG = (
    Wrong(
        "shape",
        lambda im: im.mean(),
        r'reward "reward" returned a float32 tensor of shape \(\) for a batch of 2',
    ),
    Wrong(
        "list",
        lambda im: im.mean((1, 2, 3)).tolist(),
        "a list for a batch of 2; it must return a torch tensor of floats",
    ),
    Wrong(
        "type",
        lambda im: im.mean((1, 2, 3)).long(),
        r"returned a int64 tensor of shape \(2,\)",
    ),
    Wrong(
        "all nan",
        lambda im: im.mean((1, 2, 3)) * math.nan,
        "its value is not finite for sample 0, 1;",
    ),
    Wrong("detached", lambda im: im.mean((1, 2, 3)).detach(), "gives no gradient"),
    Wrong(
        "gradient",
        lambda im: (im - im.detach()).abs().sqrt().mean((1, 2, 3)),
        "its gradient is not finite for sample 0, 1;",
    ),
    Wrong("raises", lambda im: 1 / 0, "failed with ZeroDivisionError: division by zero"),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_reward_that_goes_wrong_ends_the_run_and_keeps_what_was_reached(wrong):
    outcome = climb(problem((0, 1), reward=failing(3, wrong.answer)))
    assert outcome.status is Status.FAILED
    assert len(outcome.history) == 3
    assert math.isfinite(outcome.best.score_B[0])
    with pytest.raises(RunError, match=wrong.told):
        outcome.raise_for_status()
    with pytest.raises(RunError, match=wrong.told):
        climb(problem((0, 1), reward=failing(0, wrong.answer)))


class Watcher:
    def __init__(self, stop_at=None, interrupt_at=None):
        self.seen = []
        self.stop_at = stop_at
        self.interrupt_at = interrupt_at

    @hookimpl
    def run_started(self, event: RunStarted):
        self.seen.append(f"started {len(event.run.items)}")

    @hookimpl
    def step_done(self, event: StepDone):
        assert not event.samples.requires_grad
        assert len(event.samples) == len(event.run.items)
        iteration = event.record.iteration
        self.seen.append(iteration)
        if iteration == self.interrupt_at:
            raise KeyboardInterrupt
        return iteration == self.stop_at

    @hookimpl
    def run_finished(self, event: RunFinished):
        self.seen.append(str(event.outcome.status))


def test_observers_see_the_run_and_may_stop_it():
    watcher = Watcher(stop_at=2)
    states: list[LoopState] = []
    outcome = climb(problem(), observers=[watcher], checkpoint=states.append)
    assert watcher.seen == ["started 1", 0, 1, 2, "stopped"]
    assert outcome.status is Status.STOPPED
    assert outcome.reason == "an observer asked to stop"
    assert same(climb(problem(), state=states[-1]).last, climb(problem()).last)


def test_an_interrupted_run_hands_back_what_it_has():
    outcome = climb(problem(), observers=[Watcher(interrupt_at=2)])
    assert outcome.status is Status.INTERRUPTED
    assert len(outcome.history) == 3


class Mistyped:
    @hookimpl
    def step_dome(self, event): ...


class Older:
    """As observers were written once, with an argument a thing."""

    @hookimpl
    def step_done(self, record): ...


@pytest.mark.parametrize(
    ("cls", "what"), [(Mistyped, "unknown hook 'step_dome'"), (Older, "{'record'}")]
)
def test_an_observer_of_no_event_is_refused(cls, what):
    with pytest.raises(ConfigError, match=what) as caught:
        climb(problem(), observers=[cls()])
    assert str(caught.value).startswith(f"observers: {cls.__name__} cannot observe: ")
    assert "run_started(event), step_done(event) and run_finished(event)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_observer_that_fails_ends_the_run_and_keeps_what_was_reached():
    class Broken:
        @hookimpl
        def step_done(self, event):
            if event.record.iteration == 2:
                raise OSError(28, "No space left on device")

    outcome = climb(problem(), observers=[Broken()])
    assert outcome.status is Status.FAILED
    told = 'observer "Broken" at step_done failed with OSError: [Errno 28] No space left'
    assert told in str(outcome.error)
    assert len(outcome.history) == 3


class Elsewhere:
    """An optimizer that asks away from where it stands, and more than once."""

    def init(self, noise_BN):
        return {}

    def step(self, objective, noise_BN, state):
        objective.value(noise_BN + 3)
        objective.value(noise_BN + 2)
        return noise_BN, state


def test_the_record_is_of_the_iterations_own_noise_and_the_best_of_any():
    outcome = climb(problem(), 3, optimizer=Elsewhere())
    start_BN = problem().sample.noise_BN
    assert torch.equal(outcome.initial.noise_BN, start_BN)
    assert outcome.history[0].rewards["reward"] == tuple(outcome.initial.rewards["reward"].tolist())
    assert torch.equal(outcome.best.noise_BN, start_BN + 3)
    assert outcome.best.rewards["reward"] > outcome.initial.rewards["reward"] + 0.2
    assert f"-> {outcome.best.rewards['reward'].item():.4g}" in Result.of(outcome).verdict()


@dataclass(frozen=True)
class BadStep:
    """What an optimizer's step may not return."""

    name: str
    answer: object
    told: str


BAD_STEPS = (
    BadStep("nothing", None, "must return noise of shape .* and its state; got None"),
    BadStep("shape", (torch.zeros(1, 2), {}), "must return noise of shape"),
    BadStep("state", (torch.zeros(1, 384), {"count": 3}), "state must be tensors by name"),
)


@pytest.mark.parametrize("bad", BAD_STEPS, ids=lambda bad: bad.name)
def test_an_optimizer_that_answers_wrongly_ends_the_run(bad):
    class Answering(Elsewhere):
        steps = 0

        def step(self, objective, noise_BN, state):
            self.steps += 1
            right = super().step(objective, noise_BN, state)
            return bad.answer if self.steps == 2 else right

    outcome = climb(problem(), 3, optimizer=Answering())
    assert outcome.status is Status.FAILED
    assert len(outcome.history) == 1
    with pytest.raises(RunError, match=bad.told):
        outcome.raise_for_status()


def test_a_sampler_that_fails_ends_the_run_and_keeps_what_was_reached():
    setting = problem()
    calls = []

    class Failing:
        noise_BN = setting.sample.noise_BN
        draws = setting.sample.draws

        def __call__(self, noise_BN):
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError("CUDA error: out of luck")
            return setting.sample(noise_BN)

    outcome = climb(replace(setting, sample=Failing()))
    assert outcome.status is Status.FAILED
    assert "the sampler failed with RuntimeError: CUDA error: out of luck" in str(outcome.error)
    assert len(outcome.history) == 2


def test_randomness_does_not_repeat():
    states = [
        bytes(evaluation_generators([0], n << 20)[0].get_state().tolist())
        for n in range(0, 40960, 512)
    ]
    assert len(set(states)) == len(states)


class Jump:
    """Evaluates where it is, then jumps to fresh noise."""

    def init(self, noise_BN):
        return {}

    def step(self, objective, noise_BN, state):
        objective.value(noise_BN)
        return objective.gaussian(), state


def warmed(iterations=3, warm=5, seeds=(0, 1), **options):
    setting = problem(seeds, regularizer=None)
    phases = [Phase(Jump(), warm), Phase(Adam(lr=0.01).build(None), iterations, from_best=True)]
    bus = Bus(RunInfo(setting.items, iterations + warm, 0, None))
    return optimize(setting, phases, bus=bus, **options)


def test_a_warm_start_hands_on_the_best_that_it_found():
    outcome = warmed()
    assert [record.iteration for record in outcome.history] == list(range(9))
    candidates = outcome.history[:5]
    for i in range(2):
        best = max(record.objective[i] for record in candidates)
        assert outcome.history[5].objective[i] == pytest.approx(best)
        assert outcome.history[8].objective[i] > best
    assert len({record.objective for record in candidates}) == 5


@pytest.mark.parametrize("stopped_at", range(1, 8))
def test_a_warm_start_resumes_to_the_same_bits(stopped_at):
    states: list[LoopState] = []
    whole = warmed(checkpoint=states.append)
    resumed = warmed(state=states[stopped_at - 1])
    assert all(same(getattr(whole, name), getattr(resumed, name)) for name in SNAPSHOTS)


def test_a_phase_goes_on_where_the_one_before_it_ended_unless_it_is_told_to_start_at_the_best():
    setting = problem((0, 1), regularizer=None)
    bus = Bus(RunInfo(setting.items, 3, 0, None))
    outcome = optimize(setting, [Phase(Jump(), 2), Phase(Jump(), 1)], bus=bus)
    third = climb(setting, 3, optimizer=Jump()).history[2]
    assert outcome.history[2].objective == third.objective
    assert third.objective not in [record.objective for record in outcome.history[:2]]


def test_draws_of_an_optimizer_are_gaussian_and_a_function_of_seed_and_iteration():
    drawn = []

    class Curious(Jump):
        def step(self, objective, noise_BN, state):
            drawn.append([objective.gaussian(), objective.gaussian()])
            return super().step(objective, noise_BN, state)

    for _ in range(2):
        climb(problem((5, 6), regularizer=None), 3, optimizer=Curious())
    once = drawn[:3]
    again = drawn[3:]
    assert all(torch.equal(a, b) for i in range(3) for a, b in zip(once[i], again[i], strict=True))
    flat = torch.stack([noise_BN for pair in once for noise_BN in pair])
    assert len({row.sum().item() for noise_BN in flat for row in noise_BN}) == 12
    assert flat.mean().abs() < 6 / flat.numel() ** 0.5
    assert (flat.var() - 1).abs() < 6 * (2 / flat.numel()) ** 0.5


def shifted(noise_BN, generators):
    """Penalty and log P of noise whose mean has moved."""
    away_B = 20 * noise_BN.mean(1).abs()
    return Penalty(away_B, log_p_B=-away_B)


def adapted(seeds=(0, 1), iterations=150, target=-2.0, **options):
    base = problem(seeds, regularizer=None, max_grad_norm=1e9)
    held = [RegularizerTerm("shifted", shifted, log_p_target=target)]
    return climb(replace(base, regularizers=held), iterations, lr=0.02, **options)


def test_an_adapted_weight_holds_log_p_at_its_target():
    outcome = adapted()
    late = [record.log_p["shifted"] for record in outcome.history[60:]]
    for i in range(2):
        assert sum(log_p[i] for log_p in late) / len(late) == pytest.approx(-2, abs=0.7)
    weights = [record.gamma[0] for record in outcome.history]
    assert weights[0] == pytest.approx(0.01)
    assert min(weights) >= 1e-3
    for before, after in pairwise(outcome.history):
        rises = before.log_p["shifted"][0] < -2
        assert (after.gamma[0] > before.gamma[0]) == rises or before.gamma[0] <= 1e-3


def test_an_adapted_weight_resumes_to_the_same_bits_and_knows_no_neighbour():
    states: list[LoopState] = []
    whole = adapted(iterations=20, checkpoint=states.append)
    resumed = adapted(iterations=20, state=states[11])
    assert same(whole.last, resumed.last)
    assert whole.history[-1].gamma == resumed.history[-1].gamma
    alone = adapted(seeds=(1,), iterations=20)
    torch.testing.assert_close(whole.last.noise_BN[1], alone.last.noise_BN[0])


def test_an_adapted_weight_needs_a_log_p():
    base = problem(regularizer=None)
    silent = RegularizerTerm("silent", lambda z, g: z.square().mean(1), log_p_target=-2.0)
    outcome = climb(replace(base, regularizers=[silent]), 3)
    assert 'a weight of "auto" needs a regularizer that reports log P' in str(outcome.error)


def test_a_regularizer_that_cannot_hold_the_noise_is_told():
    base = problem(regularizer=None)
    idle = RegularizerTerm("idle", lambda z, g: z.detach().square().mean(1))
    with pytest.raises(RunError, match='regularizer "idle" gives no gradient.* give it weight 0'):
        climb(replace(base, regularizers=[idle]), 3)
    watched = replace(base, regularizers=[replace(idle, weight=0.0)])
    assert climb(watched, 1).error is None
