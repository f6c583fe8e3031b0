"""The retraction onto the Gaussian shell; see `shell.py` for what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dno.plugin import State
from dno_builtin._blocks import Group, Layout, energies

ENTRIES = 4
"""What a channel needs for each channel that there is, so that their covariance is kept."""
OFF = 3e-4
"""How far, relative to what they should be, norms and covariances may be when a round begins that
is to be the last; it brings them nearer by as much again and more."""
ROUNDS = 50
"""The most, for noise so small that what is kept leaves it hardly a way to move."""
NEAR = 1.01
"""How far out, in reaches, noise may lie."""
SHORTER = 8
"""How often a move is made shorter for that."""
NOTHING = 1e-30
"""A sum of squares below which there is nothing to scale; a quotient by it is finite."""


@dataclass(frozen=True)
class Kept:
    """What the draws of one shape keep of the start."""

    covariance_CC: Tensor
    """Sums of products of channels, float64, on the CPU."""
    energy: Tensor
    """Of each block, `K x 1 x F x 1`."""
    square: Tensor
    """Squared norm of each draw, `K x 1 x 1 x 1`."""


@dataclass(frozen=True)
class ShellRetraction:
    """Noise put back onto the spheres that its start lies on; state: `start_BN`, the start."""

    layout: Layout
    reach: float
    rounds: int
    keeps: ClassVar[frozenset[str]] = frozenset(
        {"p_norm", "p_spectrum", "p_together", "p_channels", "p_draw_norms"}
    )
    """Figures of the report of Gaussianity that stay the start's by construction."""

    def init(self, noise_BN: Tensor, /) -> State:
        """The start; what is kept of it is computed when it is asked for."""
        return {"start_BN": noise_BN}

    @torch.no_grad()
    def retract(self, noise_BN: Tensor, state: State, /) -> Tensor:
        """Each row by itself, so that a row's bits do not depend on the others."""
        start_BN = state["start_BN"].to(noise_BN)
        rows = [self._row(*pair) for pair in zip(noise_BN, start_BN, strict=True)]
        return torch.stack(rows)

    def _row(self, noise_N: Tensor, start_N: Tensor) -> Tensor:
        if not noise_N.isfinite().all():
            # The engine sets a sample aside that has become infinite; there is nothing to put back.
            return noise_N

        groups = self.layout.groups(start_N)
        blocks = self.layout.blocks(start_N)
        kept = [_kept(*pair) for pair in zip(groups, blocks, strict=True)]

        move_N = noise_N - start_N
        if self.reach:
            move_N = move_N * (self.reach / move_N.norm().clamp(min=self.reach))
        back_N = self._on_spheres(start_N + move_N, kept)
        if not self.reach:
            return back_N

        # Spheres are round: noise at a distance from the start lies a little further away once it
        # is on them.
        for _ in range(SHORTER):
            distance = (back_N - start_N).norm()
            if distance <= NEAR * self.reach:
                break
            move_N = move_N * (self.reach / distance)
            back_N = self._on_spheres(start_N + move_N, kept)
        return back_N

    def _on_spheres(self, noise_N: Tensor, kept: list[Kept]) -> Tensor:
        groups = self.layout.groups(noise_N)
        put_back = []
        for group, blocks_KCF2, one in zip(groups, self.layout.blocks(noise_N), kept, strict=True):
            for done in range(1, ROUNDS + 1):
                blocks_KCF2, off = _round(blocks_KCF2, one, group)
                if done >= self.rounds and off <= OFF:
                    break
            put_back.append(_with_energies(blocks_KCF2, one))
        return self.layout.noise(put_back, noise_N)


def _kept(group: Group, blocks_KCF2: Tensor) -> Kept:
    draws = group.draw_by_draw(blocks_KCF2)
    return Kept(
        covariance_CC=_covariance(blocks_KCF2),
        energy=energies(blocks_KCF2),
        square=draws.square().sum((1, 2, 3), keepdim=True),
    )


def _covariance(blocks_KCF2: Tensor) -> Tensor:
    """Sums of products of channels over all else; the transform leaves them as they are."""
    channels = blocks_KCF2.flatten(2)
    products_CC = (channels @ channels.mT).sum(0)
    return products_CC.cpu().double()


def _round(blocks_KCF2: Tensor, kept: Kept, group: Group) -> tuple[Tensor, float]:
    """Channels, energies and draws set, one after the other; how far off first and last were."""
    off = 0.0
    if group.entries_a_channel >= ENTRIES * group.channels:
        found_CC = _covariance(blocks_KCF2)
        map_CC = _least_map(found_CC, kept.covariance_CC).to(blocks_KCF2)
        blocks_KCF2 = (map_CC @ blocks_KCF2.flatten(2)).view_as(blocks_KCF2)
        whole = kept.covariance_CC.norm().clamp(min=NOTHING)
        off = float((found_CC - kept.covariance_CC).norm() / whole)

    blocks_KCF2 = _with_energies(blocks_KCF2, kept)

    draws = group.draw_by_draw(blocks_KCF2)
    square = draws.square().sum((1, 2, 3), keepdim=True)
    draws = draws * _factor(kept.square, square)
    longest = kept.square.amax().clamp(min=NOTHING)
    off = max(off, float((square - kept.square).abs().amax() / longest))
    return group.over_draws(draws), off


def _least_map(found_CC: Tensor, wanted_CC: Tensor) -> Tensor:
    """The symmetric A with A S A = S0 that moves least, of covariances S found and S0 wanted.

    The optimal transport between N(0, S) and N(0, S0): Dowson and Landau, J. Multivariate Anal. 12
    (1982).
    """
    root_CC = _power(found_CC, 0.5)
    inverse_CC = _power(found_CC, -0.5)
    middle_CC = _power(root_CC @ wanted_CC @ root_CC, 0.5)
    return inverse_CC @ middle_CC @ inverse_CC


def _power(matrix_CC: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric matrix, which must not be negative; directions without any stay so."""
    values, vectors = torch.linalg.eigh(matrix_CC)
    present = values > 1e-12 * values.amax()
    powers = torch.where(present, values, 1.0).pow(exponent) * present
    power_CC: Tensor = (vectors * powers) @ vectors.mT
    return power_CC


def _with_energies(blocks_KCF2: Tensor, kept: Kept) -> Tensor:
    """The blocks with the energies that are kept; one without a direction stays as it is."""
    return blocks_KCF2 * _factor(kept.energy, energies(blocks_KCF2))


def _factor(wanted: Tensor, found: Tensor) -> Tensor:
    """What to scale by for one sum of squares in place of another."""
    return (wanted / found.clamp(min=NOTHING)).sqrt()
