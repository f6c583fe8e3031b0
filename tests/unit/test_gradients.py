"""Estimated directions of ascent, against the exact gradient of the same reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_problems import brightness, climb

from dno.core.gradients import GradientConfig
from dno.core.problem import Problem
from dno.core.terms import RewardTerm
from dno.media import pictures
from dno.testing.toy import ToySampler

METHODS = ("hybrid-2", "hybrid-1", "zo")
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


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_two_is_two_of_one(method):
    config = GradientConfig(method=method)
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
