"""The whiteness regularizer's value; see `whiteness.py` for the formula.

Letters, beside those of `dno.protocols`:
    S  sums of products of neighbours, over all scales of one draw
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from dno.plugin import ConfigError, Penalty
from dno_builtin.regularizers._maps import as_map, maps
from dno_builtin.regularizers._tails import chi2_rate, chi2_score, host, log_upper, wide

SIDE = 4
"""Least side along which neighbours are compared: around a side of 2 those before and behind are
the same."""
ENTRIES = 128
"""Least entries of a draw at a scale: a sum over fewer is not normal enough for a p-value."""

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


class Scale(NamedTuple):
    """One size at which a draw is looked at."""

    height: int
    width: int
    halved_height: int
    """How often the height was halved to get here; the width next."""
    halved_width: int
    shifts: tuple[tuple[int, int], ...]
    """Where the neighbours are: rows down, columns to the right."""


class Plan(NamedTuple):
    """What is computed for draws of one shape."""

    scales: tuple[Scale, ...]
    whitening_SS: Tensor
    """Makes the S standardised sums independent."""
    variance: float
    """Variance of the sum of their squares."""


@functools.cache
def plan(channels: int, height: int, width: int) -> Plan:
    """The scales for draws of this shape, and the moments of their sums under white noise.

    Take neighbours s at one scale and t at another that is 2^k times coarser along an axis. Two
    entries that are one apart lie in adjacent blocks with frequency a = 2^-k, else in one and the
    same. Multiplied over both axes, that is the part f of the finer products that a coarser one
    contains, and the covariance of the standardised sums is f times the root of the ratio of their
    numbers of entries: exact where sides are halved without remainder.

    The sums over n entries are nearly normal. Of the squares of two of one scale the fourth
    cumulant adds 12 / n to the covariance, and 18 / n to the variance of one: 48 tr(A A B B) of
    their circulant matrices A and B.
    """
    scales = []
    h, w, down, right = height, width, 0, 0
    while channels * h * w >= ENTRIES:
        shifts = tuple(
            (y, x) for y, x in _NEIGHBOURS if (not y or h >= SIDE) and (not x or w >= SIDE)
        )
        if shifts:
            scales.append(Scale(h, w, down, right, shifts))
        halve_h, halve_w = h >= 2 * SIDE, w >= 2 * SIDE
        if not (halve_h or halve_w):
            break
        h, w, down, right = h >> halve_h, w >> halve_w, down + halve_h, right + halve_w
    sums = [(scale, shift) for scale in scales for shift in scale.shifts]
    covariance = torch.eye(len(sums), dtype=torch.float64)
    for i, (fine, (y, x)) in enumerate(sums):
        for j, (coarse, (block_y, block_x)) in enumerate(sums):
            ratio = coarse.height * coarse.width / (fine.height * fine.width)
            if ratio < 1:
                tall, wide = (
                    coarse.halved_height - fine.halved_height,
                    coarse.halved_width - fine.halved_width,
                )
                part = sum(
                    _lands(y, sign * block_y, tall) * _lands(x, sign * block_x, wide)
                    for sign in (1, -1)
                )
                covariance[i, j] = covariance[j, i] = part * math.sqrt(ratio)
    variance = 0.0
    for scale in scales:
        k, n = len(scale.shifts), channels * scale.height * scale.width
        variance += 2 * k + (18 * k + 12 * k * (k - 1)) / n
    return Plan(tuple(scales), torch.linalg.inv(torch.linalg.cholesky(covariance)), variance)


def _lands(shift: int, block_shift: int, halved: int) -> float:
    """How often two entries that are `shift` apart lie in blocks that are `block_shift` apart,
    along one axis.
    """
    if not shift:
        return float(not block_shift)
    across = 0.5**halved
    return across if block_shift == shift else (1 - across) * (not block_shift)


def looks_at(draws: Sequence[tuple[int, ...]]) -> bool:
    """Whether there is anything to compare in these draws."""
    return any(len(plan(*as_map(shape)).whitening_SS) for shape in draws)


def _halved(maps_KChw: Tensor, axis: int) -> Tensor:
    """Sums of every two entries over sqrt(2); an odd one at the end is left out."""
    pairs = maps_KChw.shape[axis] // 2
    of_two = maps_KChw.narrow(axis, 0, 2 * pairs).reshape(
        *maps_KChw.shape[:axis], pairs, 2, *maps_KChw.shape[axis + 1 :]
    )
    return of_two.sum(axis + 1) * math.sqrt(0.5)


def independent_sums(maps_KChw: Tensor) -> Tensor:
    """The sums of each draw, made independent and of variance 1: `K x S`."""
    shape, sums = plan(*maps_KChw.shape[1:]), []
    for scale in shape.scales:
        if maps_KChw.shape[2] != scale.height:
            maps_KChw = _halved(maps_KChw, 2)
        if maps_KChw.shape[3] != scale.width:
            maps_KChw = _halved(maps_KChw, 3)
        for shift in scale.shifts:
            products = maps_KChw * maps_KChw.roll(shift, (2, 3))
            sums.append(products.sum((1, 2, 3)) / math.sqrt(maps_KChw[0].numel()))
    return torch.stack(sums, 1) @ shape.whitening_SS.T.to(maps_KChw)


@dataclass(frozen=True)
class WhitenessPenalty:
    """`noise_BN -> Penalty`; no randomness."""

    draws: tuple[tuple[int, ...], ...] = ()

    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Penalty:
        """Each row by itself, so that a row's bits do not depend on the others.

        Raises:
            ConfigError: the noise came without draws, and is too short for a line of its own.
        """
        draws = self.draws or ((noise_BN.shape[1],),)
        if not looks_at(draws):
            raise ConfigError(
                f"the whiteness regularizer needs {ENTRIES} entries, but a sample has "
                f"{noise_BN.shape[1]}"
            )
        rows = [self._row(wide(noise_N), draws) for noise_N in noise_BN]
        dof = rows[0].dof
        length_B = torch.stack([row.length for row in rows])
        value_B = chi2_rate(length_B.clamp(min=dof), dof)
        log_p_B = log_upper(chi2_score(host(length_B), dof))
        return Penalty(value_B.to(noise_BN), log_p_B.to(noise_BN))

    def _row(self, noise_N: Tensor, draws: Sequence[tuple[int, ...]]) -> _Length:
        length, dof, variance = noise_N.new_zeros(()), 0, 0.0
        for group in maps(noise_N, draws):
            shape = plan(*group.shape[1:])
            if shape.scales:
                sums_KS = independent_sums(group)
                length = length + sums_KS.square().sum()
                dof += sums_KS.numel()
                variance += len(group) * shape.variance
        # Satterthwaite: the chi-squared variable, times a number, of this mean and variance.
        factor = variance / (2 * dof)
        return _Length(length / factor, dof / factor)


class _Length(NamedTuple):
    """One sample's Q and D."""

    length: Tensor
    dof: float
