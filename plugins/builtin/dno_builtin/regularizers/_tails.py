"""Tails of the normal, the chi-squared and Kolmogorov's law, as logs that do not underflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

IMPOSSIBLE = -1e30
"""The least log of a probability: a float32 still holds it."""
UNTESTED = torch.zeros((), dtype=torch.float64)
"""The log of 1: what is told of noise that is too small to tell."""
_LEAST_KNOWN = 1e-280
"""Under this a probability in float64 has few digits left."""


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


def log_gamma_upper(x: Tensor, shape: float | Tensor) -> Tensor:
    """Natural log of P(G >= x) for G ~ Gamma(shape, 1).

    Far out, where the probability underflows, it is the first term of Legendre's continued
    fraction, x^shape e^-x / ((x + 1 - shape) Gamma(shape)) (DLMF 8.9.2).
    """
    x = x.clamp(0, 1e300)
    a = torch.as_tensor(shape, dtype=x.dtype).expand_as(x)
    known: Tensor = torch.special.gammaincc(a, x)

    fraction = (x + 1 - a).clamp(min=1)
    far = a * x.clamp(min=1).log() - x - fraction.log() - torch.lgamma(a)
    log_p = known.log().where(known > _LEAST_KNOWN, far)
    return log_p.clamp(IMPOSSIBLE, 0)


def log_gamma_lower(x: Tensor, shape: float | Tensor) -> Tensor:
    """Natural log of P(G <= x) for G ~ Gamma(shape, 1).

    Where the probability underflows, it is x^shape e^-x / Gamma(shape + 1) times the geometric
    series 1 / (1 - x / (shape + 1)), which the terms of DLMF 8.7.1 nearly are.
    """
    x = x.clamp(0, 1e300)
    a = torch.as_tensor(shape, dtype=x.dtype).expand_as(x)
    known: Tensor = torch.special.gammainc(a, x)

    series = (1 - x / (a + 1)).clamp(min=1e-3)
    near = a * x.log() - x - series.log() - torch.lgamma(a + 1)
    log_p = known.log().where(known > _LEAST_KNOWN, near)
    return log_p.clamp(IMPOSSIBLE, 0)


def log_chi2_upper(x: Tensor, dof: float) -> Tensor:
    """Natural log of P(chi-squared >= x)."""
    return log_gamma_upper(x / 2, dof / 2)


def log_chi2_two_sided(x: Tensor, dof: float) -> Tensor:
    """Natural log of twice the smaller of the two tails of a chi-squared variable beyond x."""
    upper = log_gamma_upper(x / 2, dof / 2)
    lower = log_gamma_lower(x / 2, dof / 2)
    return (math.log(2) + torch.minimum(upper, lower)).clamp(IMPOSSIBLE, 0)


def log_kolmogorov(distance: Tensor, entries: int) -> Tensor:
    """Natural log of P(D >= distance), D the greatest distance between the distribution function of
    so many independent entries and the one that they come from.

    Kolmogorov (1933) gave the limit; here of x = d + 1 / (6 sqrt n) + (d - 1) / (4 n), d =
    sqrt(n) D, which is right to order n^-3/2 (Vrbik, Pioneer J. Theor. Appl. Stat. 15, 2018).
    """
    d = math.sqrt(entries) * distance
    x = (d + 1 / (6 * math.sqrt(entries)) + (d - 1) / (4 * entries)).clamp(min=1e-3)

    # Above 0.8 his series, below it the one that Jacobi's identity turns it into.
    k = torch.arange(1, 8, dtype=x.dtype)
    sign = 1 - 2 * ((k - 1) % 2)
    alternating = (sign * (-2 * (k.square() - 1) * x.square()[..., None]).exp()).sum(-1)
    upper = math.log(2) - 2 * x.square() + alternating.clamp(min=1e-300).log()

    odd = 2 * k - 1
    below = (-((odd * math.pi) ** 2) / (8 * x.square()[..., None])).exp().sum(-1)
    lower = torch.log1p(-(below * math.sqrt(2 * math.pi) / x).clamp(max=1))

    return upper.where(x > 0.8, lower).clamp(IMPOSSIBLE, 0)


def log_least(log_p_K: Tensor) -> Tensor:
    """Natural log of the p-value of the least of K independent ones: 1 - (1 - p)^K (Sidak, J. Am.
    Stat. Assoc. 62, 1967).
    """
    count = len(log_p_K)
    least = log_p_K.amin()
    known = torch.expm1(count * torch.log1p(-least.exp()))
    # Far out K p, to all digits.
    combined = (-known).log().where(least > math.log(1e-12), least + math.log(count))
    return combined.clamp(IMPOSSIBLE, 0)
