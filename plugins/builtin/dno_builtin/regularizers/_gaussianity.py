"""P-values of noise under N(0, I); see `gaussianity.py` for what they test."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dno.plugin import Penalty
from dno_builtin.regularizers._maps import maps
from dno_builtin.regularizers._tails import chi2_score, host, log_two_sided, wide

_VECTOR = 4
_BANDS = 8


def chi2_upper(x: Tensor, dof: int) -> Tensor:
    """P(chi-squared >= x)."""
    p: Tensor = torch.special.gammaincc(torch.full_like(x, dof / 2), x / 2)
    return p


def p_mean(noise_N: Tensor) -> Tensor:
    """Two-sided, of sqrt(N) times the mean, which is N(0, 1)."""
    return log_two_sided(host(noise_N.sum()) / math.sqrt(noise_N.numel())).exp()


def p_norm(noise_N: Tensor) -> Tensor:
    """Two-sided, of the squared norm, which is chi-squared with N degrees of freedom."""
    return log_two_sided(chi2_score(host(noise_N.square().sum()), noise_N.numel())).exp()


def p_covariance(noise_N: Tensor) -> Tensor:
    """Of the mean outer product of m vectors: its diagonal less 1 has variance 2 / m, the rest 1 /
    m; 1 without any.
    """
    m = noise_N.numel() // _VECTOR
    if not m:
        return torch.ones((), dtype=torch.float64)
    table_mk = noise_N[: m * _VECTOR].view(m, _VECTOR)
    deviation = host(table_mk.T @ table_mk) / m - torch.eye(_VECTOR, dtype=torch.float64)
    # Both triangles, so that each element beside the diagonal counts twice: the same weight over
    # its variance.
    return chi2_upper(deviation.square().sum() * (m / 2), _VECTOR * (_VECTOR + 1) // 2)


def p_spectrum(groups: Sequence[Tensor]) -> Tensor:
    """Bartlett's test that the power is the same in all bands.

    A band's power, summed over frequencies of both signs, is chi-squared under white noise with as
    many degrees of freedom as there are such frequencies; it is independent of the other bands'. 1
    where all is in one band.
    """
    power, count = (
        torch.zeros(_BANDS, dtype=torch.float64),
        torch.zeros(_BANDS, dtype=torch.float64),
    )
    for maps_KChw in groups:
        K, C, h, w = maps_KChw.shape
        band, times = _bands(h, w)
        spectrum = torch.fft.rfft2(maps_KChw, norm="ortho")
        summed = host(torch.view_as_real(spectrum).square().sum((0, 1, 4)))
        power.index_add_(0, band, (times * summed).flatten())
        count.index_add_(0, band, K * C * times.flatten())
    power, count = power[count > 0], count[count > 0]
    bands, total = len(count), count.sum()
    if bands < 2:
        return torch.ones((), dtype=torch.float64)
    statistic = total * (power.sum() / total).log() - (count * (power / count).log()).sum()
    correction = 1 + ((1 / count).sum() - 1 / total) / (3 * (bands - 1))
    # Where there is no noise at all the logs cancel to nan: that is no flat spectrum either.
    return chi2_upper((statistic / correction).clamp(min=0).nan_to_num(math.inf), bands - 1)


@functools.cache
def _bands(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Of each frequency of a real transform: its band, flat; how often the whole one has it, `h x
    (w // 2 + 1)`.
    """
    radius = torch.fft.fftfreq(h, dtype=torch.float64)[:, None].hypot(
        torch.fft.rfftfreq(w, dtype=torch.float64)
    )
    band = (radius * (2 * _BANDS)).long().clamp(max=_BANDS - 1)
    times = torch.full_like(radius, 2)
    times[:, 0] = 1
    if w % 2 == 0:
        times[:, -1] = 1
    return band.flatten(), times


@dataclass(frozen=True)
class GaussianityReport:
    """`noise_BN -> Penalty` of zeros, with p-values; no randomness."""

    draws: tuple[tuple[int, ...], ...] = ()

    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Penalty:
        """Each row by itself."""
        with torch.no_grad():
            rows = [self._row(wide(noise_N)) for noise_N in noise_BN]
        figures = {name: torch.stack([row[name] for row in rows]).to(noise_BN) for name in rows[0]}
        # An empty sum, so that the zeros still have a gradient.
        return Penalty(noise_BN[:, :0].sum(1), figures=figures)

    def _row(self, noise_N: Tensor) -> dict[str, Tensor]:
        return {
            "p_mean": p_mean(noise_N),
            "p_covariance": p_covariance(noise_N),
            "p_norm": p_norm(noise_N),
            "p_spectrum": p_spectrum(maps(noise_N, self.draws)),
        }
