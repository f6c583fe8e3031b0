"""The permutation regularizer's value and gradient in closed form.

Letters, beside those of `dno.protocols`:
    k  length of a vector                    m  vectors, floor(N / k)
    b  random permutations                   r  rows (vectors) that are in no chunk
    L  chunks in a column                    l  entries in a chunk, with m = L l + r
    c  chunks in all, k L

Noise entries in some order fill a table of m rows (the vectors) and k columns. For a permutation
drawn uniformly it does not matter in which order the places of that table are filled, nor do fixed
rearrangements after it make it less uniform. So one uniform permutation is drawn and its columns
are cut into L chunks of l entries each; each of the b permutations then rearranges whole chunks.
Each of them is exactly uniform by itself, which is all that the penalty's mean depends on, and yet
the sums over rows that all of them need are sums of entries of two small tables: the sums of the c
chunks and their inner products. The gradient goes back the same way: one product with the chunks,
whatever b is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from dno.plugin import ConfigError, Penalty


class Shuffle(NamedTuple):
    """b permutations of N entries that differ in where they put whole chunks."""

    order: Tensor
    """`N`: one uniform permutation: first the c chunks, then the columns of r entries, then the N -
    m k entries that are left out (after the permutation, so that each entry is as likely to be)."""
    slots: Tensor
    """`b x k x L`: which chunk each permutation puts into each place; 0 .. c-1 in some order, b
    times."""
    length: int
    """Entries in a chunk, l."""

    def tables(self) -> Tensor:
        """Which noise entry each permutation puts into which row and column: `b x m x k`."""
        b, k, L = self.slots.shape
        chunked, used = k * L * self.length, self.order.numel() // k * k
        columns = self.order[:chunked].view(k * L, self.length)[self.slots].flatten(2)
        rest = self.order[chunked:used].view(1, k, -1).expand(b, -1, -1)
        return torch.cat([columns, rest], dim=2).mT


def draw_shuffle(
    entries: int,
    vector_length: int,
    permutations: int,
    generator: Generator,
    chunks: int | None = None,
) -> Shuffle:
    """Draw the permutations for one sample's noise.

    Args:
        entries: N.
        vector_length: k, at most N.
        permutations: b.
        generator: where all randomness comes from; on the CPU, so that every device gets the same.
        chunks: L, at most m; by default one that leaves few rows out of the chunks.
    """
    k, m = vector_length, entries // vector_length
    L = chunks or _chunks(m, k)
    order = torch.randperm(entries, generator=generator)
    slots = [torch.randperm(k * L, generator=generator) for _ in range(permutations)]
    return Shuffle(order, torch.stack(slots).view(-1, k, L), m // L)


def _chunks(m: int, k: int) -> int:
    # Cost grows with k L. Permutations that share chunks are a little alike: with k L = 256 the
    # mean over b = 100 varies as that over some 70 independent ones (and 60 with half as many
    # chunks).
    low = max(8, 256 // k)
    if m <= 2 * low:
        return m  # Chunks of one entry: nothing is shared.
    # Rows in no chunk are in the same place in all permutations: few of them are worth more chunks.
    return min(range(low, 2 * low + 1), key=lambda L: (m % L) / m + L / (16 * low))


class _LogProbs(NamedTuple):
    """log p1 and log p2 of tables, and the gradient of their sum in the tables' statistics."""

    log_p1: Tensor
    log_p2: Tensor
    d_mean: Tensor
    d_second: Tensor

    @classmethod
    def of(cls, mean_bk: Tensor, second_bkk: Tensor, m: int) -> _LogProbs:
        """From the mean of the rows, and the mean of their outer products."""
        k = mean_bk.shape[1]
        if not (mean_bk.isfinite().all() and second_bkk.isfinite().all()):
            # For the engine to report; `eigh` would raise.
            nan_b = mean_bk.new_full((len(mean_bk),), math.nan)
            return cls(nan_b, nan_b, mean_bk * math.nan, second_bkk * math.nan)
        log_p1 = math.log(2) - mean_bk.square().sum(1) * (m / (2 * k))
        deviation, axis = torch.linalg.eigh(second_bkk - torch.eye(k, dtype=second_bkk.dtype))
        # The spectral norm of a symmetric matrix is its largest eigenvalue's size, at either end.
        low = -deviation[:, 0] > deviation[:, -1]
        spectral = torch.where(low, -deviation[:, 0], deviation[:, -1])
        axis_bk = torch.where(low[:, None], axis[:, :, 0], axis[:, :, -1])
        root = (1 + spectral).sqrt()
        excess = (root - 1 - math.sqrt(k / m)).clamp(min=0)
        log_p2 = math.log(2) - excess.square() * (m / 2)
        d_mean = mean_bk * torch.where(log_p1 < 0, -m / k, 0.0)[:, None]
        d_spectral = torch.where(log_p2 < 0, -m * excess / (2 * root), 0.0) * torch.where(
            low, -1.0, 1.0
        )
        d_second = d_spectral[:, None, None] * axis_bk[:, :, None] * axis_bk[:, None, :]
        return cls(log_p1.clamp(max=0), log_p2.clamp(max=0), d_mean, d_second)


@dataclass(frozen=True)
class _Row:
    """One sample's result."""

    log_likelihood: Tensor
    """R, of no dimension."""
    log_p1: Tensor
    log_p2: Tensor
    gradient: Tensor | None
    """dR/dnoise, `N`; None where it was not asked for."""


def _host(x: Tensor) -> Tensor:
    # Two steps, since not every device has float64.
    return x.cpu().double()


def _shuffled(noise_N: Tensor, shuffle: Shuffle, with_grad: bool) -> _Row:
    """R over the permutations; everything of the noise's size stays on its device."""
    slots_bkL, length = shuffle.slots, shuffle.length
    b, k, L = slots_bkL.shape
    c, m = k * L, noise_N.numel() // k
    places = shuffle.order[: m * k].to(noise_N.device)
    table = noise_N.index_select(0, places)
    chunks_cl, rest_kr = table[: c * length].view(c, length), table[c * length :].view(k, -1)

    # The two small tables, on the CPU: exact float64 there, and no race of additions in the
    # gradient.
    sums_c, gram_cc = _host(chunks_cl.sum(1)), _host(chunks_cl @ chunks_cl.T)
    pairs_bkkL = slots_bkL[:, :, None] * c + slots_bkL[:, None]
    mean_bk = (sums_c[slots_bkL].sum(2) + _host(rest_kr.sum(1))) / m
    second_bkk = (gram_cc.flatten()[pairs_bkkL].sum(3) + _host(rest_kr @ rest_kr.T)) / m

    probs = _LogProbs.of(mean_bk, second_bkk, m)
    value = (probs.log_p1 + probs.log_p2).mean()
    if not with_grad:
        return _Row(value, probs.log_p1.min(), probs.log_p2.min(), None)
    grad_N = torch.zeros_like(noise_N)
    if value != 0:
        d_mean, d_second = probs.d_mean / (b * m), probs.d_second / (b * m)
        d_sums = sums_c.new_zeros(c).index_add_(
            0, slots_bkL.flatten(), d_mean[:, :, None].expand_as(slots_bkL).flatten()
        )
        d_gram = sums_c.new_zeros(c * c).index_add_(
            0, pairs_bkkL.flatten(), d_second[..., None].expand_as(pairs_bkkL).flatten()
        )
        d_chunks = torch.addmm(
            d_sums[:, None].to(table), 2 * d_gram.view(c, c).to(table), chunks_cl
        )
        d_rest = torch.addmm(
            d_mean.sum(0)[:, None].to(table), 2 * d_second.sum(0).to(table), rest_kr
        )
        grad_N.scatter_(0, places, torch.cat([d_chunks.flatten(), d_rest.flatten()]))
    return _Row(value, probs.log_p1.min(), probs.log_p2.min(), grad_N)


def _unshuffled(noise_N: Tensor, k: int, with_grad: bool) -> _Row:
    """R of the entries in their own order, the last N - m k left out."""
    m = noise_N.numel() // k
    table_mk = noise_N[: m * k].view(m, k)
    mean_1k, second_1kk = _host(table_mk.mean(0))[None], _host(table_mk.T @ table_mk)[None] / m
    probs = _LogProbs.of(mean_1k, second_1kk, m)
    value = (probs.log_p1 + probs.log_p2)[0]
    grad_N = None
    if with_grad:
        grad_N = torch.zeros_like(noise_N)
        if value != 0:
            d_mean, d_second = probs.d_mean.to(noise_N) / m, probs.d_second[0].to(noise_N) / m
            grad_N[: m * k] = torch.addmm(d_mean, table_mk, 2 * d_second).flatten()
    return _Row(value, probs.log_p1[0], probs.log_p2[0], grad_N)


class _Closed(torch.autograd.Function):
    """A value whose gradient was computed with it."""

    @staticmethod
    def forward(ctx: Any, noise_BN: Tensor, value_B: Tensor, grad_BN: Tensor) -> Tensor:
        ctx.save_for_backward(grad_BN)
        return value_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, None, None]:
        (grad_BN,) = ctx.saved_tensors
        return grad_B[:, None] * grad_BN, None, None


@dataclass(frozen=True)
class PermutationPenalty:
    """`noise_BN -> Penalty`: minus R(z), and log P(z) with its two parts."""

    permutations: int
    vector_length: int
    unpermuted: bool

    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Penalty:
        """Each row with its own generator; a row's result does not depend on the others.

        The gradient is worked out along with the value, and only where autograd wants one.

        Raises:
            ConfigError: a row has fewer than `vector_length` entries.
        """
        if noise_BN.shape[1] < self.vector_length:
            raise ConfigError(
                f"the permutation regularizer cuts noise into vectors of {self.vector_length} "
                "entries, but a "
                f"sample has {noise_BN.shape[1]}; choose a shorter vector_length or no such "
                "regularizer"
            )
        with_grad = torch.is_grad_enabled() and noise_BN.requires_grad
        with torch.no_grad():
            # Next to sampling this is cheap, so it need not lean on the run's precision. MPS has no
            # float64.
            wide = torch.float32 if noise_BN.device.type == "mps" else torch.float64
            rows = [
                self._row(noise_N.to(wide), generator, with_grad)
                for noise_N, generator in zip(noise_BN.detach(), generators, strict=True)
            ]
            value_B = torch.stack([0 - row.log_likelihood for row in rows]).to(noise_BN)
            log_p1_B = torch.stack([row.log_p1 for row in rows]).to(noise_BN)
            log_p2_B = torch.stack([row.log_p2 for row in rows]).to(noise_BN)
            grads = [-row.gradient for row in rows if row.gradient is not None]
        if with_grad:
            slopes_BN = torch.stack(grads).to(noise_BN)
            value_B = _Closed.apply(noise_BN, value_B, slopes_BN)  # type: ignore[no-untyped-call]
        log_p_B = torch.minimum(log_p1_B, log_p2_B)
        return Penalty(value_B, log_p_B, {"log_p1": log_p1_B, "log_p2": log_p2_B})

    def _row(self, noise_N: Tensor, generator: Generator, with_grad: bool) -> _Row:
        shuffle = draw_shuffle(noise_N.numel(), self.vector_length, self.permutations, generator)
        row = _shuffled(noise_N, shuffle, with_grad)
        if not self.unpermuted:
            return row
        own = _unshuffled(noise_N, self.vector_length, with_grad)
        return _Row(
            log_likelihood=row.log_likelihood + own.log_likelihood,
            log_p1=torch.minimum(row.log_p1, own.log_p1),
            log_p2=torch.minimum(row.log_p2, own.log_p2),
            gradient=None
            if row.gradient is None or own.gradient is None
            else row.gradient + own.gradient,
        )
