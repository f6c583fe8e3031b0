"""Optimizers that search or sample: against their own laws, and on one engine with the others."""

from __future__ import annotations

import math

import pytest
import torch
from dno_builtin.optimizers.best_of_n import BestOfN
from dno_builtin.optimizers.langevin import Langevin
from dno_builtin.optimizers.local_search import LocalSearch

import dno
from dno.core.function import FunctionSampler

SEARCHES = ["best-of-n", "local-search", "langevin"]


def mean(points, prompts):
    return points.mean(dim=1)


def climb(optimizer, iterations=20, reward=mean, seeds=1, size=50, prompts="x", **options):
    sampler = FunctionSampler(lambda z: z, [(size,)])
    parts = {"regularizer": [], "sampler": sampler, "optimizer": optimizer}
    return dno.optimize(
        prompts, reward=reward, iterations=iterations, batch=seeds, **parts, **options
    )


class Flat:
    """An objective with no slope, and Gaussian draws from a seeded stream."""

    def __init__(self, size, seed=0):
        self.size, self.generator = size, torch.Generator().manual_seed(seed)

    def value(self, noise_BN):
        return noise_BN.new_zeros(len(noise_BN))

    def score(self, noise_BN):
        return self.value(noise_BN)

    def value_and_grad(self, noise_BN):
        return self.value(noise_BN), torch.zeros_like(noise_BN)

    def gaussian(self):
        return torch.randn(1, self.size, generator=self.generator)


@pytest.mark.parametrize(
    "config", [BestOfN(), LocalSearch(beta=0.4), Langevin(step_size=0.3)], ids=SEARCHES
)
def test_without_a_slope_noise_stays_gaussian(config):
    size, optimizer = 40_000, config.build(None)
    objective = Flat(size)
    noise_BN = objective.gaussian()
    state = optimizer.init(noise_BN)
    for _ in range(30):
        before_BN = noise_BN
        noise_BN, state = optimizer.step(objective, noise_BN, state)
    # Six standard errors of a mean and of a variance over this many entries.
    assert noise_BN.mean().abs() < 6 / math.sqrt(size)
    assert (noise_BN.var() - 1).abs() < 6 * math.sqrt(2 / size)
    assert not torch.equal(noise_BN, before_BN)


def test_langevin_settles_on_the_posterior_of_a_linear_reward():
    """N(z; 0, 1) exp(g z / T) is N(g / T, 1), and the integrator has no bias where the slope is
    constant.
    """
    size, slope = 40_000, 0.02
    optimizer = Langevin(step_size=1.0, temperature=0.01).build(None)

    class Linear(Flat):
        def value_and_grad(self, noise_BN):
            return self.value(noise_BN), torch.full_like(noise_BN, slope)

    objective = Linear(size)
    noise_BN, state = objective.gaussian(), {}
    for _ in range(40):
        noise_BN, state = optimizer.step(objective, noise_BN, state)
    assert noise_BN.mean().item() == pytest.approx(slope / 0.01, abs=6 / math.sqrt(size))
    assert noise_BN.var().item() == pytest.approx(1, abs=6 * math.sqrt(2 / size))


@pytest.mark.parametrize("name", SEARCHES)
def test_the_best_is_better_than_the_start_and_one_iteration_asks_once(name):
    asked = []

    def counted(points, prompts):
        asked.append(len(points))
        return mean(points, prompts)

    result = climb(name, reward=counted)
    assert len(asked) == 21
    assert result.best.score_B > result.initial.score_B


def test_best_of_n_sees_independent_candidates_and_keeps_the_best():
    result = climb("best-of-n", 30, size=4)
    seen = torch.tensor([record.rewards["mean"][0] for record in result.history])
    assert len(set(seen.tolist())) == 31
    assert result.best.rewards["mean"].item() == pytest.approx(seen.max().item())


def test_local_search_walks_from_better_to_better():
    result = climb({"use": "local-search", "beta": 0.2}, 60)
    values = [record.rewards["mean"][0] for record in result.history]
    draws = climb("best-of-n", 60)
    assert max(values) > values[0] + 0.2
    assert result.best.score_B > draws.best.score_B


@pytest.mark.parametrize("name", SEARCHES)
def test_a_batch_of_two_is_two_of_one(name):
    both = climb(name, seeds=2, iterations=6)
    for i in range(2):
        alone = climb(name, seed=i, iterations=6)
        torch.testing.assert_close(both.best.noise_BN[i], alone.best.noise_BN[0])
        torch.testing.assert_close(both.last.noise_BN[i], alone.last.noise_BN[0])


@pytest.mark.parametrize("bad", ["beta=0", "beta=1.5"])
def test_options_out_of_range_are_refused(bad):
    name, _, value = bad.partition("=")
    with pytest.raises(dno.ConfigError, match=r"optimizer\.beta"):
        climb({"use": "local-search", name: float(value)})
