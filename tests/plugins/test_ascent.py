"""Normalised ascent: its direction by another way, its pace, and what the penalties do to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from dno_builtin._blocks import Layout
from dno_builtin.optimizers._ascent import SphereAscent
from dno_builtin.optimizers.ascent import Ascent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from dno.plugin import BuildContext, Optimizer, Slopes, gaussian_noise

Draws = tuple[tuple[int, ...], ...]
DRAWS: Draws = ((4, 6, 6),) * 5


def built(draws: Draws = DRAWS, **options: float) -> Optimizer:
    context = BuildContext(device=torch.device("cpu"), dtype=torch.float32, draws=draws)
    return Ascent(**options).build(context)


@dataclass
class Given:
    """An objective that answers with what it was made with."""

    grad_BN: Tensor
    reward_B: Tensor | None = None
    pull_BN: Tensor | None = None

    def slopes(self, noise_BN: Tensor) -> Slopes:
        nothing_B = torch.zeros(len(noise_BN))
        reward_B = nothing_B if self.reward_B is None else self.reward_B
        pull_BN = torch.zeros_like(noise_BN) if self.pull_BN is None else self.pull_BN
        return Slopes(reward_B, self.grad_BN, nothing_B, pull_BN)


def moved(noise_BN: Tensor, grad_BN: Tensor, draws: Draws = DRAWS, **options: float) -> Tensor:
    optimizer = built(draws, **options)
    there_BN, _ = optimizer.step(Given(grad_BN), noise_BN, optimizer.init(noise_BN))
    return there_BN - noise_BN


def dct(count: int) -> Tensor:
    """The DCT-II of unit vectors, by an FFT of four times the length."""
    long = torch.zeros(count, 4 * count, dtype=torch.complex128)
    for place in range(count):
        long[place, 2 * place + 1] = 1
        long[place, 4 * count - 2 * place - 1] = 1
    waves = torch.fft.fft(long).real[:, :count].T
    return waves / waves.norm(dim=1, keepdim=True)


def direction_block_by_block(noise_N: Tensor, grad_N: Tensor, draws: Draws, equal: float) -> Tensor:
    """The formula of the docstring, one block after the other over a full complex FFT."""
    count = len(draws)
    channels, height, width = draws[0]
    waves = dct(count).to(torch.complex128)

    def turned(row: Tensor) -> Tensor:
        maps = torch.fft.fft2(row.double().view(count, *draws[0]), norm="ortho")
        return torch.einsum("jk,kchw->jchw", waves, maps)

    noise, grad = turned(noise_N), turned(grad_N)
    there = torch.zeros_like(grad)
    for j in range(count):
        for y in range(height):
            for x in range(width):
                pair = {(y, x), (-y % height, -x % width)}
                z = torch.stack([noise[j, :, a, b] for a, b in pair])
                g = torch.stack([grad[j, :, a, b] for a, b in pair])
                inner = (g.conj() * z).sum().real
                t = g - inner / z.abs().square().sum() * z
                entries = channels * len(pair)
                power = t.abs().square().sum()
                if power > 1e-9 * g.abs().square().sum():
                    u = t * (power / entries) ** (-equal / 2)
                    for place, (a, b) in enumerate(pair):
                        there[j, :, a, b] = u[place]
    back = torch.fft.ifft2(torch.einsum("jk,jchw->kchw", waves, there), norm="ortho").real
    return (back / back.norm()).flatten()


@pytest.mark.parametrize("equal", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("draws", [((3, 4, 5),) * 3, ((1, 4, 4),) * 2], ids=["colour", "grey"])
def test_a_step_is_the_formula_of_the_docstring(draws, equal):
    noise_BN = gaussian_noise(draws, [1])
    grad_BN = gaussian_noise(draws, [2]) * torch.linspace(0.1, 2, noise_BN.shape[1])
    step_BN = moved(noise_BN, grad_BN, draws, step=2.0, equal=equal)
    expected = direction_block_by_block(noise_BN[0], grad_BN[0], draws, equal)
    torch.testing.assert_close(step_BN[0].double(), 2 * expected, rtol=2e-3, atol=2e-4)


@given(
    unit=st.floats(1e-12, 1e12),
    step=st.floats(0.1, 20),
    seed=st.integers(0, 999),
    kind=st.booleans(),
)
def test_a_step_has_its_length_whatever_the_gradients_unit(unit, step, seed, kind):
    draws = ((2, 4, 4), (3, 5), (2, 4, 4)) if kind else ((20,),)
    noise_BN = gaussian_noise(draws, [seed])
    grad_BN = gaussian_noise(draws, [seed + 1])
    step_BN = moved(noise_BN, unit * grad_BN, draws, step=step)
    assert step_BN.norm().item() == pytest.approx(step, rel=1e-3)
    torch.testing.assert_close(
        step_BN, moved(noise_BN, grad_BN, draws, step=step), rtol=1e-3, atol=1e-3
    )


def test_a_small_step_leaves_the_norm_and_gains_what_it_should():
    """For a linear reward a step of 1 along its gradient is one of its standard deviations."""
    noise_BN = gaussian_noise(DRAWS, [1])
    grad_BN = 7 * gaussian_noise(DRAWS, [2])
    step_BN = moved(noise_BN, grad_BN, step=0.01, equal=0)
    assert (step_BN * noise_BN).sum().abs() < 1e-4 * noise_BN.norm()
    deviation = grad_BN.norm()
    gain = (step_BN * grad_BN).sum() / deviation
    # What points along the noise in each of its blocks, of 4 or 8 entries, is left out.
    assert 0.008 < gain <= 0.01


def test_penalties_pull_beside_the_reward_and_no_further_than_a_step():
    noise_BN = gaussian_noise(DRAWS, [1]).repeat(3, 1)
    grad_BN = gaussian_noise(DRAWS, [2]).repeat(3, 1)
    pull_BN = gaussian_noise(DRAWS, [3]).repeat(3, 1)
    pull_BN = pull_BN / pull_BN.norm(dim=1, keepdim=True) * torch.tensor([[0.0], [0.2], [50.0]])
    optimizer = built(step=4.0)
    state = optimizer.init(noise_BN)
    plain_BN, _ = optimizer.step(Given(grad_BN), noise_BN, state)
    there_BN, _ = optimizer.step(Given(grad_BN, pull_BN=pull_BN), noise_BN, state)
    away_BN = there_BN - plain_BN
    expected_BN = -4 * pull_BN * torch.tensor([[1.0], [1.0], [1 / 50]])
    torch.testing.assert_close(away_BN, expected_BN, rtol=1e-3, atol=1e-5)


def test_each_sample_has_its_own_pace():
    noise_BN = gaussian_noise(DRAWS, [1, 2])
    grad_BN = gaussian_noise(DRAWS, [3, 4])
    optimizer = built(step=5.0)
    state = optimizer.init(noise_BN)
    rewards = [(0.0, 0.0), (-1.0, 1.0), (-2.0, 2.0), (-1.5, 1.0), (-1.5, 1.5), (-1.5, 2.0)]
    factors_first = [1, 0.7, 0.7, 1.1, 1, 1]
    factors_second = [1, 1, 1, 0.7, 1.1, 1.1]
    first = second = 5.0
    for reward, one, two in zip(rewards, factors_first, factors_second, strict=True):
        there_BN, state = optimizer.step(Given(grad_BN, torch.tensor(reward)), noise_BN, state)
        first = min(first * one, 5.0)
        second = min(second * two, 5.0)
        lengths = (there_BN - noise_BN).norm(dim=1).tolist()
        assert lengths == pytest.approx([first, second], rel=1e-4)


def test_the_pace_never_falls_under_a_tenth():
    noise_BN = gaussian_noise(DRAWS, [1])
    grad_BN = gaussian_noise(DRAWS, [3])
    optimizer = built(step=5.0)
    state = optimizer.init(noise_BN)
    for fall in range(20):
        there_BN, state = optimizer.step(
            Given(grad_BN, torch.tensor([-1.0 * fall])), noise_BN, state
        )
    assert (there_BN - noise_BN).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_where_one_sample_is_flat_or_failed_the_other_goes_on():
    noise_BN = gaussian_noise(DRAWS, [1, 2])
    grad_BN = gaussian_noise(DRAWS, [3, 4])
    grad_BN[0] = 0
    optimizer = built()
    answer = Given(grad_BN, torch.tensor([-math.inf, 1.0]))
    there_BN, state = optimizer.step(answer, noise_BN, optimizer.init(noise_BN))
    there_BN, state = optimizer.step(answer, there_BN, state)
    assert torch.equal(there_BN[0], noise_BN[0])
    assert (there_BN[1] - noise_BN[1]).norm() > 5
    assert not any(value.isnan().any() for value in state.values())


def test_blocks_of_one_entry_do_not_turn():
    """One channel, one frequency that is its own mirror image: nothing but rounding is tangent."""
    draws = ((1, 1, 1),) * 6
    noise_BN = gaussian_noise(draws, [1])
    optimizer = SphereAscent(Layout(draws), 5.0, 1.0)
    uphill = Given(gaussian_noise(draws, [2]))
    there_BN, _ = optimizer.step(uphill, noise_BN, optimizer.init(noise_BN))
    assert torch.equal(there_BN, noise_BN)


@pytest.mark.parametrize("options", [{"step": 0}, {"equal": 1.1}, {"equal": -0.1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        Ascent(**options)
