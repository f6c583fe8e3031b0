"""Noise made as ordinary as a true draw."""

from __future__ import annotations

import math

import pytest
import torch
from dno_builtin._ordinary import Ordinary
from dno_builtin.regularizers._gaussianity import log_p_values
from dno_builtin.regularizers._tails import wide
from torch import Tensor

DRAWS = ((4, 8, 8),) * 11
ENTRIES = sum(map(math.prod, DRAWS))


def gaussian(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, ENTRIES, generator=torch.Generator().manual_seed(seed))


def spoilt(noise_BN: Tensor) -> dict[str, Tensor]:
    """Noise that has left N(0, I) in several ways."""
    bump = torch.ones(len(noise_BN), len(DRAWS), *DRAWS[0])
    bump[..., :4, :4] += 2
    together = gaussian(len(noise_BN), 5).view_as(bump)[:, :1]
    return {
        "places": noise_BN * bump.flatten(1),
        "together": noise_BN + (0.7 * together).expand_as(bump).flatten(1),
        "skewed": noise_BN + 0.3 * noise_BN.square(),
        "small": 0.5 * noise_BN,
    }


def least(noise_N: Tensor) -> float:
    return min(float(log_p) for log_p in log_p_values(wide(noise_N), DRAWS).values())


@pytest.mark.parametrize("name", spoilt(torch.zeros(1, ENTRIES)))
def test_noise_that_has_left_is_as_ordinary_as_the_draw_it_is_likened_to(name: str) -> None:
    like_BN = gaussian(2, 0)
    noise_BN = spoilt(like_BN + 0.3 * gaussian(2, 1))[name]
    ordinary = Ordinary(like_BN, DRAWS)
    ordinary_BN = ordinary(ordinary(ordinary(noise_BN)))
    for before_N, after_N, like_N in zip(noise_BN, ordinary_BN, like_BN, strict=True):
        assert least(before_N) < math.log(1e-6)
        assert least(after_N) > math.log(1e-3)
        # And it is no copy of it.
        assert (after_N - like_N).norm() > 10


def test_it_stays_near_what_it_was_given() -> None:
    like_BN = gaussian(1, 0)
    noise_BN = like_BN + 0.05 * gaussian(1, 1)
    moved = (Ordinary(like_BN, DRAWS)(noise_BN) - noise_BN).norm()
    assert moved < (noise_BN - like_BN).norm()


def test_true_draws_stay_where_they_are() -> None:
    like_BN = gaussian(2, 0)
    torch.testing.assert_close(Ordinary(like_BN, DRAWS)(like_BN), like_BN, atol=1e-3, rtol=0)


def test_a_row_does_not_see_the_others() -> None:
    like_BN = gaussian(2, 0)
    noise_BN = spoilt(gaussian(2, 1))["together"]
    both = Ordinary(like_BN, DRAWS)(noise_BN)
    for i in range(2):
        alone = Ordinary(like_BN[i : i + 1], DRAWS)(noise_BN[i : i + 1])
        assert torch.equal(both[i], alone[0])
