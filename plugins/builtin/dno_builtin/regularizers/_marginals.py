"""Tests of the law of single entries, whatever their order: skewness, kurtosis, Kolmogorov's."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dno_builtin.regularizers._tails import host, log_two_sided


class Shape(NamedTuple):
    """Moments of n entries about their mean, which say nothing of mean and variance."""

    entries: int
    skewness: Tensor
    """m3 / m2^1.5."""
    kurtosis: Tensor
    """m4 / m2^2; 3 under N(0, I)."""


def shape_of(noise_N: Tensor) -> Shape:
    """The skewness and kurtosis of all entries."""
    centred_N = noise_N - noise_N.mean()
    # So that no power overflows; neither figure depends on the scale.
    centred_N = centred_N / centred_N.abs().amax()
    squared_N = centred_N.square()

    n = len(noise_N)
    second = host(squared_N.sum()) / n
    third = host(squared_N @ centred_N) / n
    fourth = host(squared_N @ squared_N) / n
    return Shape(n, third / second**1.5, fourth / second.square())


def log_p_skewness(shape: Shape) -> Tensor:
    """Two-sided; D'Agostino (Biometrika 57, 1970) makes it nearly N(0, 1) from 8 entries on."""
    n = shape.entries
    variance = 6 * (n - 2) / ((n + 1) * (n + 3))
    fourth = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))

    w_squared = math.sqrt(2 * (fourth - 1)) - 1
    delta = 1 / math.sqrt(math.log(w_squared) / 2)
    alpha = math.sqrt(2 / (w_squared - 1))
    score = delta * torch.asinh(shape.skewness / math.sqrt(variance) / alpha)
    return log_two_sided(_known(score))


def log_p_kurtosis(shape: Shape) -> Tensor:
    """Two-sided; Anscombe and Glynn (Biometrika 70, 1983) make it nearly N(0, 1) from 20 entries
    on.
    """
    n = shape.entries
    mean = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    standard = (shape.kurtosis - mean) / math.sqrt(variance)

    skewed = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9))
    skewed *= math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    dof = 6 + 8 / skewed * (2 / skewed + math.sqrt(1 + 4 / skewed**2))

    # Wilson and Hilferty's cube root. Kurtoses that the fit holds impossible are as far out as it
    # goes.
    ratio = (1 - 2 / dof) / (1 + standard * math.sqrt(2 / (dof - 4))).clamp(min=1e-6)
    score = (1 - 2 / (9 * dof) - ratio.pow(1 / 3)) / math.sqrt(2 / (9 * dof))
    return log_two_sided(_known(score))


def _known(score: Tensor) -> Tensor:
    """Entries that are all alike have no shape: that is as unlike Gaussian ones as can be."""
    return score.nan_to_num(math.inf)


def kolmogorov_distance(noise_KN: Tensor) -> Tensor:
    """Kolmogorov's distance of each row from N(0, 1), `K`, exactly and without sorting the rows.

    Entries are counted in cells of equal probability. At the cells' edges the distance is then
    known, and inside a cell it is at most what the counts on both sides allow: only the entries of
    cells in which it may be the greatest are sorted, few of all.
    """
    rows, n = noise_KN.shape
    cells = max(1, round(16 * math.sqrt(n)))
    # In float32, whose rounding moves the distance by 1e-7.
    place_KN = torch.special.ndtr(noise_KN.float())
    cell_KN = (place_KN * cells).long().clamp(max=cells - 1)
    cell_KN += cells * torch.arange(rows, device=noise_KN.device)[:, None]

    count_KM = torch.bincount(cell_KN.flatten(), minlength=rows * cells).view(rows, cells)
    up_to_KM = count_KM.cumsum(1)
    before_KM = up_to_KM - count_KM
    edge_M = torch.arange(1, cells + 1, device=noise_KN.device, dtype=torch.float32) / cells

    at_edges_K = (up_to_KM / n - edge_M).abs().amax(1)
    above_KM = up_to_KM / n - (edge_M - 1 / cells)
    below_KM = edge_M - before_KM / n
    # As much as rounding may take away.
    open_KM = torch.maximum(above_KM, below_KM) > at_edges_K[:, None] - 1e-6
    open_KM &= count_KM > 0

    inside = open_KM.flatten()[cell_KN.flatten()]
    cell_S = cell_KN.flatten()[inside]
    place_S = place_KN.flatten()[inside]
    row_S = cell_S // cells
    # Sorted by row and place; float64 has room for both.
    order_S = (row_S + place_S.clamp(max=1 - 2**-24).double()).argsort()
    cell_S = cell_S[order_S]
    place_S = place_S[order_S]

    opened = count_KM.flatten() * open_KM.flatten()
    first = opened.cumsum(0) - opened
    within_S = torch.arange(len(cell_S), device=noise_KN.device) - first[cell_S]
    rank_S = before_KM.flatten()[cell_S] + within_S
    distance_S = torch.maximum((rank_S + 1) / n - place_S, place_S - rank_S / n)
    return at_edges_K.scatter_reduce(0, row_S, distance_S, "amax")
