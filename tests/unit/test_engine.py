"""The loop: what it records, what it keeps, how it stops and goes on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dno_builtin.optimizers.adam import Adam
from hypothesis import given
from hypothesis import strategies as st

from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo, hookimpl
from dno.core.noise import evaluation_generators
from dno.core.problem import Problem, Term
from dno.core.result import Status
from dno.errors import ConfigError, RunError
from dno.protocols import Penalty
from dno.testing.toy import ToySampler

PARTS = ("noise_BN", "samples", "objective_B")


def brightness(images, prompts):
    return images.mean(dim=(1, 2, 3))


def wandering(noise_BN, generators):
    """A penalty with randomness of its own and a log_p, as the permutation regularizer has."""
    jitter = torch.cat([torch.rand(1, generator=g) for g in generators])
    return Penalty(noise_BN.square().mean(1) * jitter, {"log_p": -noise_BN.mean(1).abs() * 40})


def problem(seeds=(0,), reward=brightness, regularizer=wandering, **options):
    items = [("x", seed) for seed in seeds]
    sample = ToySampler().bind(*zip(*items, strict=True))
    terms = [Term("wandering", regularizer, 0.01)] if regularizer else []
    return Problem(items, sample, [Term("reward", reward)], terms, **options)


def climb(problem, iterations=8, observers=(), lr=0.1, **options):
    bus = Bus(RunInfo(problem.items, iterations, 0, None), observers)
    result = optimize(problem, Adam(lr=lr).build(None), iterations, bus=bus, **options)
    bus.finished(result)
    return result


def same(a, b):
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in PARTS)


def test_the_reward_rises_and_every_iteration_is_recorded():
    result = climb(problem(), 20)
    assert [r.iteration for r in result.history] == list(range(21))
    assert result.status is Status.FINISHED
    assert result.history[-1].rewards["reward"][0] > result.history[0].rewards["reward"][0] + 0.2
    assert (
        result.history[-1].grad_norm[0] != result.history[-1].grad_norm[0]
    )  # the last one only measures
    assert all(
        a.seconds <= b.seconds for a, b in zip(result.history, result.history[1:], strict=False)
    )


def test_zero_iterations_measure_the_start():
    result = climb(problem(), 0)
    assert len(result.history) == 1
    assert same(result.initial, result.last)


@given(st.integers(0, 2**32), st.floats(0.01, 3), st.floats(-10, -0.01))
def test_best_never_falls_is_healthy_and_belongs_to_one_evaluation(seed, lr, floor):
    setting = problem((seed, seed + 1), log_p_floor=floor)
    result = climb(setting, 6, lr=lr)
    for before, after in zip(result.history, result.history[1:], strict=False):
        assert all(a <= b for a, b in zip(before.best, after.best, strict=True))
    for i in range(2):
        healthy = [r.objective[i] for r in result.history if r.healthy[i]]
        assert result.best.objective_B[i] == max(healthy, default=-math.inf)
        assert all(r.healthy[i] == (r.figures["log_p"][i] >= floor) for r in result.history)
    assert torch.equal(result.best.samples, setting.sample(result.best.noise_BN))


@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_a_batch_of_two_is_two_of_one(a, b):
    both, *alone = (climb(problem(seeds)) for seeds in ((a, b), (a,), (b,)))
    for i, single in enumerate(alone):
        for name in ("initial", "best", "last"):
            joint, own = getattr(both, name), getattr(single, name)
            for part in PARTS:
                torch.testing.assert_close(
                    getattr(joint, part)[i], getattr(own, part)[0], rtol=1e-5, atol=1e-5
                )


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_going_on_from_any_iteration_ends_in_the_same_bits(seed, stopped_at):
    states = []
    whole = climb(problem((seed, 1)), 6, checkpoint=states.append)
    assert [s.iteration for s in states] == [1, 2, 3, 4, 5, 6]
    resumed = climb(problem((seed, 1)), 6, state=states[stopped_at - 1])
    assert all(
        same(getattr(whole, name), getattr(resumed, name)) for name in ("initial", "best", "last")
    )
    assert [r.objective for r in resumed.history] == [r.objective for r in whole.history]


def test_a_finished_run_can_be_given_more_iterations():
    states = []
    climb(problem(), 3, checkpoint=states.append)
    longer = climb(problem(), 6, state=states[-1])
    assert same(longer.last, climb(problem(), 6).last)


def test_the_gradient_of_each_sample_is_clipped_alone():
    evaluation = problem((0, 1), max_grad_norm=1e-3).evaluate(
        torch.randn(2, 384), 0, with_grad=True
    )
    norms = evaluation.grad_BN.norm(dim=1)
    torch.testing.assert_close(norms, torch.full((2,), 1e-3))
    free = problem((0, 1), max_grad_norm=1e9).evaluate(evaluation.noise_BN, 0, with_grad=True)
    torch.testing.assert_close(free.grad_BN.norm(dim=1), free.grad_norm_B)
    torch.testing.assert_close(evaluation.grad_norm_B, free.grad_norm_B)


def test_a_reward_with_weight_nought_is_reported_and_moves_nothing():
    plain = climb(problem())
    base = problem()
    extra = Problem(
        base.items,
        base.sample,
        [*base.rewards, Term("seen", lambda i, p: i.std(dim=(1, 2, 3)), 0.0)],
        base.regularizers,
    )
    watched = climb(extra)
    assert same(plain.last, watched.last)
    assert len(watched.history[0].rewards["seen"]) == 1


def failing(at, answer):
    calls = []

    def reward(images, prompts):
        calls.append(1)
        return answer(images) if len(calls) > at else brightness(images, prompts)

    return reward


@pytest.mark.parametrize(
    ("answer", "problem_told"),
    [
        (
            lambda im: im.mean(),
            r'reward "reward" returned a float32 tensor of shape \(\) for a batch of 2',
        ),
        (
            lambda im: im.mean((1, 2, 3)).tolist(),
            "a list for a batch of 2; it must return a torch tensor of floats",
        ),
        (lambda im: im.mean((1, 2, 3)).long(), r"returned a int64 tensor of shape \(2,\)"),
        (
            lambda im: im.mean((1, 2, 3)) * torch.tensor([1, math.nan]),
            "its value is not finite for sample 1;",
        ),
        (lambda im: im.mean((1, 2, 3)).detach(), "gives no gradient"),
        (
            lambda im: (im - im.detach()).abs().sqrt().mean((1, 2, 3)),
            "its gradient is not finite for sample 0, 1;",
        ),
        (lambda im: 1 / 0, "failed with ZeroDivisionError: division by zero"),
    ],
    ids=["shape", "list", "type", "nan", "detached", "gradient", "raises"],
)
def test_a_reward_that_goes_wrong_ends_the_run_and_keeps_what_was_reached(answer, problem_told):
    result = climb(problem((0, 1), reward=failing(3, answer)))
    assert result.status is Status.FAILED
    assert len(result.history) == 3
    assert math.isfinite(result.best.objective_B[0])
    with pytest.raises(RunError, match=problem_told):
        result.raise_for_status()
    with pytest.raises(RunError, match=problem_told):
        climb(problem((0, 1), reward=failing(0, answer)))


class Watcher:
    def __init__(self, stop_at=None, interrupt_at=None):
        self.seen, self.stop_at, self.interrupt_at = [], stop_at, interrupt_at

    @hookimpl
    def run_started(self, run):
        self.seen.append("started")

    @hookimpl
    def step_done(self, record, samples):
        assert not samples.requires_grad
        self.seen.append(record.iteration)
        if record.iteration == self.interrupt_at:
            raise KeyboardInterrupt
        return record.iteration == self.stop_at

    @hookimpl
    def run_finished(self, result):
        self.seen.append(str(result.status))


def test_observers_see_the_run_and_may_stop_it():
    watcher, states = Watcher(stop_at=2), []
    result = climb(problem(), observers=[watcher], checkpoint=states.append)
    assert watcher.seen == ["started", 0, 1, 2, "stopped"]
    assert result.status is Status.STOPPED
    assert same(climb(problem(), state=states[-1]).last, climb(problem()).last)


def test_an_interrupted_run_hands_back_what_it_has():
    result = climb(problem(), observers=[Watcher(interrupt_at=2)])
    assert result.status is Status.INTERRUPTED
    assert len(result.history) == 3


def test_an_observer_of_no_event_is_refused():
    class Wrong:
        @hookimpl
        def step_dome(self): ...

    class Misread:
        @hookimpl
        def step_done(self, rec): ...

    for cls, what in ((Wrong, "unknown hook 'step_dome'"), (Misread, "{'rec'}")):
        with pytest.raises(ConfigError, match=what) as caught:
            climb(problem(), observers=[cls()])
        assert str(caught.value).startswith(f"observers: {cls.__name__} cannot observe: ")
        assert "step_done(run, record, samples)" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_observer_that_fails_ends_the_run_and_keeps_what_was_reached():
    class Broken(Watcher):
        @hookimpl
        def step_done(self, record):
            if record.iteration == 2:
                raise OSError(28, "No space left on device")

    result = climb(problem(), observers=[Broken()])
    assert result.status is Status.FAILED
    assert "observer failed at step_done with OSError: [Errno 28] No space left" in str(
        result.error
    )
    assert len(result.history) == 3


class Elsewhere:
    """An optimizer that asks away from where it stands, and more than once."""

    def init(self, noise_BN):
        return {}

    def step(self, objective, noise_BN, state):
        objective.value(noise_BN + 3)
        objective.value(noise_BN + 2)
        return noise_BN, state


def run_with(optimizer, iterations=3, **options):
    setting = problem(**options)
    return optimize(
        setting, optimizer, iterations, bus=Bus(RunInfo(setting.items, iterations, 0, None))
    )


def test_the_record_is_of_the_iterations_own_noise_and_the_best_of_any():
    result = run_with(Elsewhere())
    assert torch.equal(result.initial.noise_BN, problem().sample.noise_BN)
    assert result.history[0].objective == tuple(result.initial.objective_B.tolist())
    assert torch.equal(result.best.noise_BN, problem().sample.noise_BN + 3)
    assert result.best.rewards["reward"] > result.initial.rewards["reward"] + 0.2
    assert f"-> {result.best.rewards['reward'].item():.4g}" in result.verdict()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "must return noise of shape .* and its state; got None"),
        ((torch.zeros(1, 2), {}), "must return noise of shape"),
        ((torch.zeros(1, 384), {"count": 3}), "state must be tensors by name"),
    ],
)
def test_an_optimizer_that_answers_wrongly_ends_the_run(answer, told):
    class Wrong(Elsewhere):
        def step(self, objective, noise_BN, state):
            super().step(objective, noise_BN, state)
            return answer if objective._iteration == 1 else (noise_BN, state)

    result = run_with(Wrong())
    assert result.status is Status.FAILED
    assert len(result.history) == 1
    with pytest.raises(RunError, match=told):
        result.raise_for_status()


def test_a_sampler_that_fails_ends_the_run_and_keeps_what_was_reached():
    setting = problem()
    calls = []

    class Failing:
        noise_BN, draws = setting.sample.noise_BN, setting.sample.draws

        def __call__(self, noise_BN):
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError("CUDA error: out of luck")
            return setting.sample(noise_BN)

    result = climb(replace(setting, sample=Failing()))
    assert result.status is Status.FAILED
    assert "the sampler failed with RuntimeError: CUDA error: out of luck" in str(result.error)
    assert len(result.history) == 2


def test_no_bound_on_the_gradient():
    evaluation = problem(max_grad_norm=math.inf).evaluate(torch.randn(1, 384), 0, with_grad=True)
    torch.testing.assert_close(evaluation.grad_BN.norm(dim=1), evaluation.grad_norm_B)


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
    bus = Bus(RunInfo(setting.items, iterations + warm, 0, None))
    return optimize(
        setting,
        Adam(lr=0.01).build(None),
        iterations,
        bus=bus,
        warm_start=(Jump(), warm),
        **options,
    )


def test_a_warm_start_hands_on_the_best_that_it_found():
    result = warmed()
    assert [r.iteration for r in result.history] == list(range(9))
    candidates = result.history[:5]
    for i in range(2):
        best = max(record.objective[i] for record in candidates)
        assert result.history[5].objective[i] == pytest.approx(best)
        assert result.history[8].objective[i] > best
    assert len({record.objective for record in candidates}) == 5


@pytest.mark.parametrize("stopped_at", range(1, 8))
def test_a_warm_start_resumes_to_the_same_bits(stopped_at):
    states = []
    whole = warmed(checkpoint=states.append)
    resumed = warmed(state=states[stopped_at - 1])
    assert all(
        same(getattr(whole, name), getattr(resumed, name)) for name in ("initial", "best", "last")
    )


def test_draws_of_an_optimizer_are_gaussian_and_a_function_of_seed_and_iteration():
    drawn = []

    class Curious(Jump):
        def step(self, objective, noise_BN, state):
            drawn.append([objective.gaussian(), objective.gaussian()])
            return super().step(objective, noise_BN, state)

    for _ in range(2):
        setting = problem((5, 6), regularizer=None)
        optimize(setting, Curious(), 3, bus=Bus(RunInfo(setting.items, 3, 0, None)))
    once, again = drawn[:3], drawn[3:]
    assert all(torch.equal(a, b) for i in range(3) for a, b in zip(once[i], again[i], strict=True))
    flat = torch.stack([noise_BN for pair in once for noise_BN in pair])
    assert len({row.sum().item() for noise_BN in flat for row in noise_BN}) == 12
    assert flat.mean().abs() < 6 / flat.numel() ** 0.5
    assert (flat.var() - 1).abs() < 6 * (2 / flat.numel()) ** 0.5


def shifted(noise_BN, generators):
    """Penalty and log P of noise whose mean has moved."""
    away_B = 20 * noise_BN.mean(1).abs()
    return Penalty(away_B, {"log_p": -away_B})


def adapted(seeds=(0, 1), iterations=150, target=-2.0, **options):
    base = problem(seeds, regularizer=None, max_grad_norm=1e9)
    setting = replace(base, regularizers=[Term("shifted", shifted, log_p_target=target)])
    bus = Bus(RunInfo(setting.items, iterations, 0, None))
    return optimize(setting, Adam(lr=0.02).build(None), iterations, bus=bus, **options)


def test_an_adapted_weight_holds_log_p_at_its_target():
    result = adapted()
    late = [record.figures["log_p"] for record in result.history[60:]]
    for i in range(2):
        assert sum(log_p[i] for log_p in late) / len(late) == pytest.approx(-2, abs=0.7)
    weights = [record.figures["gamma"][0] for record in result.history]
    assert weights[0] == pytest.approx(0.01)
    assert min(weights) >= 1e-3
    for before, after in zip(result.history, result.history[1:], strict=False):
        rises = before.figures["log_p"][0] < -2
        assert (after.figures["gamma"][0] > before.figures["gamma"][0]) == rises or before.figures[
            "gamma"
        ][0] <= 1e-3


def test_an_adapted_weight_resumes_to_the_same_bits_and_knows_no_neighbour():
    states = []
    whole = adapted(iterations=20, checkpoint=states.append)
    resumed = adapted(iterations=20, state=states[11])
    assert same(whole.last, resumed.last)
    assert whole.history[-1].figures == resumed.history[-1].figures
    alone = adapted(seeds=(1,), iterations=20)
    torch.testing.assert_close(whole.last.noise_BN[1], alone.last.noise_BN[0])


def test_an_adapted_weight_needs_a_log_p():
    base = problem((0,), regularizer=None)
    setting = replace(
        base, regularizers=[Term("silent", lambda z, g: z.square().mean(1), log_p_target=-2.0)]
    )
    result = optimize(setting, Adam().build(None), 3, bus=Bus(RunInfo(setting.items, 3, 0, None)))
    assert 'a weight of "auto" needs a regularizer that reports log_p' in str(result.error)


def test_the_best_is_chosen_without_adapted_penalties():
    result = adapted(iterations=30)
    for i in range(2):
        assert result.best.objective_B[i] == max(
            record.rewards["reward"][i] for record in result.history
        )


def test_a_regularizer_that_cannot_hold_the_noise_is_told():
    base = problem((0,), regularizer=None)
    setting = replace(base, regularizers=[Term("idle", lambda z, g: z.detach().square().mean(1))])
    with pytest.raises(RunError, match='regularizer "idle" gives no gradient.* give it weight 0'):
        optimize(setting, Adam().build(None), 3, bus=Bus(RunInfo(setting.items, 3, 0, None)))
    watched = replace(setting, regularizers=[replace(setting.regularizers[0], weight=0.0)])
    assert (
        optimize(watched, Adam().build(None), 1, bus=Bus(RunInfo(setting.items, 1, 0, None))).error
        is None
    )
