"""Ordinary noise from which a sampler draws a picture, found by its gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dno_builtin._ordinary import Ordinary
from dno_builtin.regularizers._gaussianity import log_p_values
from dno_builtin.regularizers._permutation import PermutationPenalty
from dno_builtin.regularizers._tails import wide

from .noise_map import PipelineNoiseMap

NEAR: Final = 4 / 255
"""Mean difference of pixels up to which a picture counts as drawn."""
AIM: Final = 3 / 255
"""Where the search for it ends."""
ITERATIONS: Final = 80
LEARNING_RATE: Final = 0.04
"""Of Adam; it falls to a fifth of that."""
DECAYS: Final = (0.9, 0.95)
LEAST_LOG_P: Final = -4.6
"""log P of ordinary noise, at the least."""
LEAST_P: Final = 1e-4
"""Each of its p-values, at the least."""


@dataclass(frozen=True)
class Fitted:
    """What was found for each sample."""

    noise_BN: Tensor
    error_B: Tensor
    """Mean difference of pixels, in [0, 1]."""


def fitted(noise_BN: Tensor, picture_3HW: Tensor, bound: PipelineNoiseMap) -> Fitted:
    """Noise as ordinary as the seeds' own whose picture is nearest to the one wanted.

    Adam goes down the logarithm of the mean squared difference; after each step noise is made
    ordinary again (`Ordinary`), so that what is found has the seeds' own spectrum, norms, places
    and values, and only their phases and order are the picture's. A sample that is near enough
    stays where it is, so that its noise does not depend on its neighbours'.

    Args:
        noise_BN: where to begin.
        picture_3HW: what is to be drawn, in [0, 1].
        bound: a sampler with the seeds' noise.
    """
    ordinary = Ordinary(bound.noise_BN, bound.draws)
    noise_BN = ordinary(noise_BN)
    mean_BN = torch.zeros_like(noise_BN)
    square_BN = torch.zeros_like(noise_BN)
    best = Fitted(noise_BN, torch.full((len(noise_BN),), math.inf).to(noise_BN))

    for iteration in range(ITERATIONS + 1):
        leaf_BN = noise_BN.detach().requires_grad_()
        difference = bound(leaf_BN) - picture_3HW
        best = _better(best, noise_BN, difference.detach().abs().mean((1, 2, 3)))
        moving_B = best.error_B > AIM
        if iteration == ITERATIONS or not moving_B.any():
            break

        loss_B = difference.square().mean((1, 2, 3)).log()
        (slope_BN,) = torch.autograd.grad(loss_B.sum(), leaf_BN)
        slope_BN = slope_BN.nan_to_num()
        first, second = DECAYS
        mean_BN = first * mean_BN + (1 - first) * slope_BN
        square_BN = second * square_BN + (1 - second) * slope_BN.square()

        rate = LEARNING_RATE * (1 - 0.8 * iteration / ITERATIONS)
        done = iteration + 1
        root_BN = (square_BN / (1 - second**done)).sqrt().clamp(min=1e-12)
        moved_BN = noise_BN - rate * mean_BN / (1 - first**done) / root_BN
        noise_BN = torch.where(moving_B[:, None], ordinary(moved_BN), noise_BN)
    return best


def _better(best: Fitted, noise_BN: Tensor, error_B: Tensor) -> Fitted:
    nearer_B = error_B < best.error_B
    return Fitted(
        torch.where(nearer_B[:, None], noise_BN, best.noise_BN),
        torch.where(nearer_B, error_B, best.error_B),
    )


def unlikely(noise_BN: Tensor, bound: PipelineNoiseMap) -> list[str]:
    """What no seed would draw of some sample's noise, such as "p_ks 2e-07"; nothing if all is well.

    Args:
        noise_BN: what was found.
        bound: a sampler, for its draws.
    """
    penalty = PermutationPenalty(permutations=100, vector_length=4, unpermuted=True)
    told = []
    for noise_N in noise_BN.detach():
        generator = torch.Generator("cpu").manual_seed(0)
        log_p_1 = penalty(noise_N[None], [generator]).log_p_B
        assert log_p_1 is not None
        if not log_p_1.item() >= LEAST_LOG_P:
            told.append(f"log P {log_p_1.item():.1f}")
        for name, log_p in log_p_values(wide(noise_N), bound.draws).items():
            if not log_p.exp().item() >= LEAST_P:
                told.append(f"{name} {log_p.exp().item():.2g}")
    return told
