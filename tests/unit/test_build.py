"""From a configuration to a problem: what scales, starts, watches and widens it."""

from __future__ import annotations

import zlib

import pytest
import torch

import dno
from dno.core.function import FunctionSampler
from dno.core.noise import gaussian_noise
from dno.runs.load import load
from dno.runs.pose import pose
from dno.runs.run_config import RunConfig

DRAWS = [(3, 2, 2), (5,)]


def paint(first, second):
    return (first + second.mean(1)[:, None, None, None]).sigmoid()


def bright(images, prompts):
    return images.mean(dim=(1, 2, 3))


def red(images, prompts):
    """Of another unit, and told apart by prompt."""
    return 1000 * images[:, 0].mean(dim=(1, 2)) * torch.tensor([float(len(p)) for p in prompts])


def built(**values):
    values = {
        "prompts": ["x", "yy"],
        "rewards": [bright],
        "sampler": FunctionSampler(paint, DRAWS),
    } | values
    config = RunConfig.parse(values)
    return pose(load(config), config).problem


def test_a_function_of_its_draws_is_a_sampler():
    sampler = FunctionSampler(paint, DRAWS)
    bound = sampler.bind(["x", "y"], [3, 4])
    assert torch.equal(bound.noise_BN, gaussian_noise(DRAWS, [3, 4]))
    first, second = bound.noise_BN[:, :12].reshape(2, 3, 2, 2), bound.noise_BN[:, 12:]
    assert torch.equal(bound(bound.noise_BN), paint(first, second))


def test_spread_makes_weights_count_in_each_prompts_own_units():
    problem = built(
        rewards=[{"use": bright, "weight": 2.0}, {"use": red, "weight": 3.0}],
        spread=6,
        regularizers=[],
    )
    found = problem.evaluate(problem.sample.noise_BN, 0, with_grad=False)
    for i, prompt in enumerate(["x", "yy"]):
        seeds = [zlib.crc32(f"{prompt} {k}".encode()) for k in range(6)]
        plain = FunctionSampler(paint, DRAWS).bind([prompt] * 6, seeds)
        images = plain(plain.noise_BN)
        scaled = [
            w * found.rewards[r.__name__][i] / r(images, [prompt] * 6).std()
            for w, r in ((2, bright), (3, red))
        ]
        torch.testing.assert_close(found.objective_B[i], sum(scaled))


def test_a_reward_without_spread_cannot_be_scaled():
    def constant(images, prompts):
        return 0 * bright(images, prompts)

    with pytest.raises(
        dno.ConfigError, match='spread: "constant" is the same for all 4 plain samples'
    ):
        built(rewards=[constant], spread=4)


def test_monitors_and_reports_are_told_and_change_nothing():
    options = {"sampler": FunctionSampler(paint, DRAWS), "iterations": 3, "regularizer": []}
    plain = dno.optimize("x", reward=bright, settings={"reports": []}, **options)
    watched = dno.optimize(
        "x", reward=bright, monitor=red, settings={"reports": ["gaussianity"]}, **options
    )
    assert torch.equal(plain.last.noise_BN, watched.last.noise_BN)
    assert watched.climbed == ("bright",)
    assert set(watched.history[0].rewards) == {"bright"}
    assert set(watched.history[0].monitors) == {"red"}
    assert {"p_mean", "p_covariance", "p_norm", "p_spectrum"} <= set(watched.history[0].figures)
    assert all(
        0 <= watched.history[-1].figures[name][0] <= 1 for name in watched.history[0].figures
    )
    assert watched.meter()["reward_calls"] == plain.meter()["reward_calls"]


class Crowded(FunctionSampler):
    """Has no memory for more than three rows."""

    def bind(self, prompts, seeds):
        bound = super().bind(prompts, seeds)

        def paint(*draws):
            if len(draws[0]) > 3:
                raise torch.OutOfMemoryError("too many rows")
            return self.function(*draws)

        object.__setattr__(bound, "function", paint)
        return bound


@pytest.mark.parametrize("method", ["hybrid-2", "hybrid-1", "zo"])
def test_copies_side_by_side_change_nothing_and_are_halved_where_they_do_not_fit(method):
    def hidden(images, prompts):
        return red(images, prompts)

    hidden.differentiable = False

    def direction(sampler=FunctionSampler, **options):
        values = {"method": method, "samples": 7, **options}
        problem = built(
            rewards=[hidden], gradient=values, sampler=sampler(paint, DRAWS), regularizers=[]
        )
        return problem.evaluate(problem.sample.noise_BN, 5, with_grad=True).grad_BN()

    expected = direction(chunk=1)
    assert expected.norm() > 1e-3
    for found in (direction(), direction(chunk=2), direction(chunk=100), direction(Crowded)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_more_copies_are_asked_about_with_as_many_prompts():
    seen = []

    def hidden(images, prompts):
        seen.append((len(images), list(prompts)))
        return bright(images, prompts)

    hidden.differentiable = False
    problem = built(rewards=[hidden], gradient={"samples": 5, "chunk": 3}, regularizers=[])
    problem.evaluate(problem.sample.noise_BN, 0, with_grad=True)
    assert seen == [(2, ["x", "yy"]), (6, ["x", "yy"] * 3), (4, ["x", "yy"] * 2)]


def test_one_row_of_noise_starts_every_sample(tmp_path):
    options = {"reward": bright, "sampler": FunctionSampler(paint, DRAWS), "iterations": 1}
    first = dno.optimize("x", out=tmp_path / "one", **options)
    both = dno.optimize("x", batch=2, start=str(tmp_path / "one" / "noise.safetensors"), **options)
    assert torch.equal(both.initial.noise_BN, first.best.noise_BN.expand(2, -1))
    dno.optimize("x", batch=2, out=tmp_path / "two", **options)
    with pytest.raises(
        dno.ConfigError,
        match=r"start: .* 2 samples of 2 draws, this run needs 3 \(or 1 for all\) of 2",
    ):
        dno.optimize("x", batch=3, start=str(tmp_path / "two"), **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        dno.ConfigError, match=r"start: there is no file .*empty.noise\.safetensors"
    ):
        dno.optimize("x", start=tmp_path / "empty", **options)
    (tmp_path / "empty" / "noise.safetensors").write_text("none")
    with pytest.raises(
        dno.ConfigError, match='start: .* holds no noise as a run saves it, a tensor "best"'
    ):
        dno.optimize("x", start=tmp_path / "empty", **options)


@pytest.mark.slow
def test_a_resumed_run_no_longer_needs_where_it_started(tmp_path):
    options = {"model": "emoji", "steps": 2, "iterations": 1, "reward": "brightness"}
    dno.optimize("x", out=tmp_path / "one", **options)
    dno.optimize("x", out=tmp_path / "two", start=tmp_path / "one", **options)
    (tmp_path / "one").rename(tmp_path / "gone")
    assert dno.resume(tmp_path / "two", iterations=2).history[-1].iteration == 2


@pytest.mark.slow
def test_a_resumed_run_keeps_its_warm_start(tmp_path):
    options = {
        "model": "emoji",
        "steps": 2,
        "iterations": 1,
        "reward": "brightness",
        "warm_start": "best-of-2",
    }
    dno.optimize("x", out=tmp_path / "one", **options)
    with pytest.raises(dno.ConfigError, match=r"\(warm_start cannot change midway\)"):
        dno.resume(tmp_path / "one", settings={"warm_start": None})


@pytest.mark.parametrize("method", ["hybrid-2", "zo"])
def test_spread_takes_the_unit_out_of_black_boxes_too(method):
    def direction(unit):
        def hidden(images, prompts):
            return unit * bright(images, prompts)

        hidden.differentiable = False
        gradient = {"method": method, "samples": 4}
        problem = built(rewards=[hidden], gradient=gradient, spread=4, regularizers=[])
        return problem.evaluate(problem.sample.noise_BN, 0, with_grad=True).grad_BN()

    assert direction(1.0).norm() > 1e-3
    torch.testing.assert_close(direction(1000.0), direction(1.0), rtol=1e-3, atol=1e-6)


def test_what_is_wrong_with_a_reward_is_told_when_it_is_scaled_too():
    def listed(images, prompts):
        return [1.0] * len(images)

    with pytest.raises(dno.RunError, match='reward "listed" returned a list for a batch of 3'):
        built(rewards=[listed], spread=3)


def test_one_sample_has_no_spread():
    with pytest.raises(dno.ConfigError, match="spread: should be 0, or at least 2"):
        built(spread=1)


def test_copies_that_cannot_even_be_bound_are_halved():
    class Narrow(FunctionSampler):
        def bind(self, prompts, seeds):
            if len(prompts) > 4:
                raise torch.OutOfMemoryError("too many prompts")
            return super().bind(prompts, seeds)

    def hidden(images, prompts):
        return bright(images, prompts)

    hidden.differentiable = False
    problem = built(
        rewards=[hidden], gradient={"samples": 8}, sampler=Narrow(paint, DRAWS), regularizers=[]
    )
    found = problem.evaluate(problem.sample.noise_BN, 0, with_grad=True)
    assert found.grad_BN().norm() > 0
    assert (found.network_evaluations, found.reward_calls) == (9, 9)
