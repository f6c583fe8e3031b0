"""Estimated directions of ascent, against the exact gradient of the same reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_problems import brightness, climb

from dno.core.gradients import Baseline, GradientConfig
from dno.core.problem import Problem
from dno.core.terms import RewardTerm
from dno.errors import ConfigError
from dno.media import pictures
from dno.runs.run_config import RunConfig
from dno.testing.toy import ToySampler

METHODS = ("hybrid-2", "hybrid-1", "zo")
BASELINES: tuple[Baseline, ...] = ("copies", "pairs", "start")
SEEDS = (3, 4)


@dataclass
class Counting:
    """A reward that hides its gradient and counts what it is asked."""

    asked: int = 0

    def __call__(self, images, prompts):
        assert not images.requires_grad
        self.asked += len(images)
        return brightness(images.double(), prompts).float()


def gradient(config, seeds=SEEDS, size=4, reward=None, number=0, extra=()):
    items = [("x", seed) for seed in seeds]
    sample = ToySampler(size).bind(*zip(*items, strict=True))
    terms = [RewardTerm("hidden", reward or Counting(), differentiable=False), *extra]
    problem = Problem(items, sample, terms, gradient=config, max_grad_norm=1e9)
    return problem.evaluate(sample.noise_BN, number, with_grad=True)


def exact(seeds=SEEDS, size=4):
    items = [("x", seed) for seed in seeds]
    sample = ToySampler(size).bind(*zip(*items, strict=True))
    problem = Problem(items, sample, [RewardTerm("seen", brightness)], max_grad_norm=1e9)
    return problem.evaluate(sample.noise_BN, 0, with_grad=True)


@pytest.mark.parametrize("method", METHODS)
def test_more_samples_point_closer_to_the_exact_gradient(method):
    truth = exact()

    def cosine(samples):
        config = GradientConfig(method=method, samples=samples, size=0.05)
        found = [gradient(config, number=number).grad_BN() for number in range(3)]
        return (
            torch.stack([torch.cosine_similarity(g, truth.grad_BN(), dim=1) for g in found])
            .mean()
            .item()
        )

    few, some, many = cosine(4), cosine(64), cosine(2048)
    assert 0 < few < some < many
    assert many > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_reward_is_asked_once_a_copy_and_its_value_is_its_own(method):
    hidden = Counting()
    evaluation = gradient(GradientConfig(method=method, samples=5), reward=hidden)
    assert hidden.asked == len(SEEDS) * (1 + 5)
    torch.testing.assert_close(evaluation.objective_B, exact().objective_B)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_two_is_two_of_one(method, baseline):
    config = GradientConfig(method=method, baseline=baseline)
    both = gradient(config).grad_BN()
    for i, seed in enumerate(SEEDS):
        torch.testing.assert_close(both[i], gradient(config, seeds=(seed,)).grad_BN()[0])


def test_rewards_with_a_gradient_keep_their_exact_one_beside_an_estimate():
    config = GradientConfig(samples=2)
    alone = gradient(config).grad_BN()
    mixed = gradient(config, extra=[RewardTerm("seen", brightness, 10.0)]).grad_BN()
    torch.testing.assert_close(mixed, alone + 10 * exact().grad_BN())


def test_zeroth_order_alone_runs_the_sampler_without_a_graph():
    grads = []

    class Watched(Counting):
        def __call__(self, images, prompts):
            grads.append(torch.is_grad_enabled())
            return super().__call__(images, prompts)

    gradient(GradientConfig(method="zo"), reward=Watched())
    assert not any(grads)


@pytest.mark.parametrize("method", METHODS)
def test_a_reward_outside_of_torch_climbs(method):
    def redness(images, prompts):
        return torch.tensor(
            [np.asarray(picture)[..., 0].mean() / 255 for picture in pictures(images)]
        ).float()

    items = [("x", seed) for seed in range(4)]
    sample = ToySampler(8).bind(*zip(*items, strict=True))
    gradient = GradientConfig(method=method, samples=16, size=0.1)
    problem = Problem(
        items, sample, [RewardTerm("redness", redness, differentiable=False)], gradient=gradient
    )
    outcome = climb(problem, 30)
    assert outcome.error is None
    for before, after in zip(
        outcome.history[0].objective, outcome.history[-1].objective, strict=True
    ):
        assert after > before + 0.02


ENTRIES, COPIES, SIZE = 6, 8, 0.5
"""A problem whose samples are its noise."""
ROWS = 2000
"""Estimates that a mean and a variance are taken over."""


def estimates(baseline, curvature, method="zo", chunk=None):
    """Estimates at 0 of r(z) = a.z - curvature |z|^2 / 2, one a row; and a."""
    slope_N = torch.linspace(-1, 1, ENTRIES)

    def reward(rows):
        return rows @ slope_N - curvature * rows.square().sum(1) / 2

    config = GradientConfig(
        method=method, baseline=baseline, samples=COPIES, size=SIZE, chunk=chunk
    )
    noise_BN = torch.zeros(ROWS, ENTRIES)
    generators = [torch.Generator().manual_seed(row) for row in range(ROWS)]
    found = config.estimated(
        lambda rows: rows, reward, noise_BN, noise_BN, torch.zeros(ROWS), generators
    )
    # A copy's way is measured in the samples' own unit there.
    return found / SIZE**2 if method == "hybrid-2" else found, slope_N


def variance(baseline, curvature):
    """Total variance of an estimate, in closed form.

    With y = a.xi - (mu h / 2) |xi|^2, h the curvature, of moments E|xi|^2 = n, E|xi|^4 = n (n + 2)
    and E|xi|^6 = n (n + 2) (n + 4), n the entries and q the copies. That of the copies' baseline is
    the variance of a sample covariance, (m22 - m11^2) / q + (m20 m02 + m11^2) / (q (q - 1)).
    """
    n, q = ENTRIES, COPIES
    slope = torch.linspace(-1, 1, n).square().sum().item()
    bend = (SIZE * curvature / 2) ** 2
    if baseline == "start":
        return (slope * (n + 1) + bend * n * (n + 2) * (n + 4)) / q
    if baseline == "pairs":
        return 2 * slope * (n + 1) / q
    fourth = slope * (n + 2) + bend * n * (2 * n + 8)
    own = n * (slope + bend * 2 * n)
    return (fourth - slope) / q + (own + slope) / (q * (q - 1))


@pytest.mark.parametrize("curvature", [0.0, 1.0], ids=["linear", "quadratic"])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("method", METHODS)
def test_expectation_and_variance_are_those_of_the_closed_forms(method, baseline, curvature):
    found, slope_N = estimates(baseline, curvature, method)
    expected = variance(baseline, curvature)
    assert float(found.var(dim=0).sum()) == pytest.approx(expected, rel=0.12)
    # Five standard errors of the mean of an entry, as if it had all the variance.
    assert (found.mean(dim=0) - slope_N).abs().max() < 5 * (expected / ROWS) ** 0.5


def test_baselines_lower_the_variance_where_a_perturbation_costs_and_not_where_r_is_linear():
    bent = {baseline: variance(baseline, 2.0) for baseline in BASELINES}
    assert bent["copies"] < 0.6 * bent["start"]
    assert bent["pairs"] < 0.6 * bent["start"]
    straight = {baseline: variance(baseline, 0.0) for baseline in BASELINES}
    assert straight["start"] < straight["copies"] < straight["pairs"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("baseline", BASELINES)
def test_copies_side_by_side_change_nothing(baseline, chunk):
    whole, _ = estimates(baseline, 1.0)
    parts, _ = estimates(baseline, 1.0, chunk=chunk)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_one_copy_is_compared_with_the_sample_itself():
    found = gradient(GradientConfig(samples=1))
    as_published = gradient(GradientConfig(samples=1, baseline="start"))
    assert found.grad_BN().any()
    torch.testing.assert_close(found.grad_BN(), as_published.grad_BN())


def test_pairs_need_an_even_number_of_copies():
    gradient = {"samples": 3, "baseline": "pairs"}
    with pytest.raises(ConfigError, match="must be even") as found:
        RunConfig.parse({"prompts": "x", "rewards": "jpeg", "gradient": gradient})
    assert found.value.at == "gradient.samples"


@pytest.mark.parametrize("baseline", ["copies", "pairs"])
def test_hybrid_1_rises_where_every_perturbation_of_the_picture_costs(baseline):
    """A file grows by any grain in the picture: what hybrid-1 as published fell by."""

    def smooth(images, prompts):
        grain = (images[..., 1:] - images[..., :-1]).square().mean(dim=(1, 2, 3))
        return brightness(images, prompts) - 5 * grain

    def cosine(choice):
        config = GradientConfig(method="hybrid-1", samples=32, size=0.3, baseline=choice)
        items = [("x", seed) for seed in SEEDS]
        sample = ToySampler(8).bind(*zip(*items, strict=True))
        found = []
        for differentiable in (False, True):
            terms = [RewardTerm("smooth", smooth, differentiable=differentiable)]
            posed = Problem(items, sample, terms, gradient=config, max_grad_norm=1e9)
            grads = [
                posed.evaluate(sample.noise_BN, number, with_grad=True).grad_BN()
                for number in range(6)
            ]
            found.append(torch.stack(grads))
        return float(torch.cosine_similarity(*found, dim=2).mean())

    assert cosine(baseline) > 2 * cosine("start")
