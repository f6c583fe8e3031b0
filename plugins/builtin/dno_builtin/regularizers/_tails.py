"""Tails of the normal and the chi-squared distribution, as logs that do not underflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wide(noise: Tensor) -> Tensor:
    """The same noise in float64, for sums over many entries; in float32 where the device has
    nothing wider.
    """
    return noise if noise.device.type == "mps" else noise.double()


def host(statistic: Tensor) -> Tensor:
    """A detached float64 copy on the CPU, where every special function exists."""
    return statistic.detach().cpu().double()


def log_upper(score: Tensor) -> Tensor:
    """Natural log of P(Z >= score) for Z ~ N(0, 1)."""
    log_p: Tensor = torch.special.log_ndtr(-score)
    return log_p


def log_two_sided(score: Tensor) -> Tensor:
    """Natural log of P(|Z| >= |score|) for Z ~ N(0, 1)."""
    return (math.log(2) + log_upper(score.abs())).clamp(max=0)


def chi2_score(x: Tensor, dof: float) -> Tensor:
    """What x ~ chi-squared becomes as a nearly N(0, 1) variable, increasing in x.

    Wilson and Hilferty, PNAS 17 (1931): the cube root of x / dof is nearly normal.
    """
    variance = 2 / (9 * dof)
    return ((x / dof).pow(1 / 3) - (1 - variance)) / math.sqrt(variance)


def chi2_rate(x: Tensor, dof: float) -> Tensor:
    """(x - dof - dof log(x / dof)) / 2: 0 at x = dof, about (x - dof)^2 / (4 dof) near it, linear
    in x far above.

    Minus the log of Chernoff's bound of both tails of a chi-squared variable with `dof` degrees of
    freedom, and what the log density of a chi variable with dof + 1 of them lies under its maximum
    where its square is x.
    """
    if dof == 0:
        return x / 2
    return (x - dof - dof * (x / dof).log()) / 2
