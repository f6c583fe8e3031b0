"""The ring: a diffusion model whose every part is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import dno
from dno.testing.toy import RingMap, RingSampler


def bound(ring: RingSampler, count: int) -> RingMap:
    return ring.bind([""] * count, range(count))


def to_nearest(ring: RingSampler, points: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest centre and which one it is."""
    found = torch.cdist(points.double(), ring.centres()).min(1)
    return found.values, found.indices


@pytest.mark.parametrize(
    "ring",
    [RingSampler(), RingSampler(eta=0), RingSampler(modes=5, radius=2, std=0.2, steps=100)],
    ids=str,
)
def test_samples_are_distributed_as_the_data(ring: RingSampler) -> None:
    count = 4000
    sample = bound(ring, 1)
    points = sample(
        torch.randn(count, sample.noise_BN.shape[1], generator=torch.Generator().manual_seed(0))
    )
    distance, mode = to_nearest(ring, points)
    # In units of std the distance has Rayleigh's distribution. DDIM's steps of finite size cost 8 %
    # of it at eta 1.
    for quantile, expected in ((0.25, 0.759), (0.5, 1.177), (0.75, 1.665), (0.99, 3.035)):
        assert (distance / ring.std).quantile(quantile).item() == pytest.approx(expected, rel=0.12)
    share = torch.bincount(mode, minlength=ring.modes) / count
    error = math.sqrt((1 - 1 / ring.modes) / ring.modes / count)
    assert (share - 1 / ring.modes).abs().max() < 4 * error


@pytest.mark.parametrize("level", [1e-3, 0.4, 0.99])
def test_the_noise_estimate_is_the_gradient_of_the_log_density(level: float) -> None:
    ring = RingSampler()
    points = torch.randn(
        50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    (score,) = torch.autograd.grad(ring.log_density(points, level).sum(), points)
    torch.testing.assert_close(ring.noise_estimate(points, level), -math.sqrt(1 - level) * score)


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_the_density_is_one_in_all(level: float) -> None:
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    density = RingSampler().log_density(torch.cartesian_prod(axis, axis), level).exp()
    assert density.sum().item() * 0.02**2 == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gradients_are_finite_differences(eta: float) -> None:
    ring = RingSampler(steps=6, eta=eta)
    sample = bound(ring, 2)
    assert torch.autograd.gradcheck(sample, sample.noise_BN.double().requires_grad_())


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_every_draw_acts(eta: float) -> None:
    ring = RingSampler(steps=12, eta=eta)
    sample = bound(ring, 1)
    assert sample.noise_BN.shape == (1, sum(math.prod(shape) for shape in sample.draws))
    assert len(sample.draws) == (12 if eta else 1)
    jacobian = torch.autograd.functional.jacobian(sample, sample.noise_BN.double())
    assert isinstance(jacobian, Tensor)
    assert (jacobian.view(2, -1, 2).abs().amax((0, 2)) > 1e-6).all()


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    sample = bound(RingSampler(), 2)
    noise_BN = sample.noise_BN.requires_grad_()
    together = sample(noise_BN)
    (gradient_BN,) = torch.autograd.grad(together.sum(), noise_BN)
    for i in range(2):
        row = sample.noise_BN[i : i + 1].detach().requires_grad_()
        alone = sample(row)
        (gradient_1N,) = torch.autograd.grad(alone.sum(), row)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient_1N[0], gradient_BN[i], rtol=1e-5, atol=1e-7)


def test_noise_is_a_function_of_the_seed() -> None:
    ring = RingSampler()
    assert torch.equal(ring.bind(["a", "b"], [3, 4]).noise_BN[1], ring.bind(["c"], [4]).noise_BN[0])


def test_its_noise_can_be_optimised() -> None:
    result = dno.optimize(
        "a point",
        reward=lambda points, prompts: points[:, 0],
        sampler=RingSampler(steps=10),
        iterations=20,
        paper=True,
        lr=0.05,
    )
    assert result.last.rewards["lambda"] > result.initial.rewards["lambda"]
    assert result.last.samples.shape == (1, 2)
    assert result.history[0].network_evaluations == 10
