"""Noise made as ordinary as a true draw, in all that tests of Gaussian noise look at.

The shell keeps energies, channels and norms (see `constraints/shell.py`). What it leaves free is
taken from the true draw as well: the power of each place of the maps, by a factor for each, and
each draw's values, which are put in the place of others of the same rank. The three are done in
turn, as in the making of surrogate data with a given spectrum and given values (Schreiber and
Schmitz, Phys. Rev. Lett. 77, 1996).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dno_builtin._blocks import Layout
from dno_builtin.constraints._shell import ShellRetraction


@dataclass(frozen=True)
class Ordinary:
    """`noise_BN -> noise_BN`: near what it was given, and as ordinary as another noise.

    Args:
        like_BN: true draws, one row for each of the noise.
        draws: shape of each draw of a row, the same for all.
    """

    like_BN: Tensor
    draws: Sequence[tuple[int, ...]]

    def __call__(self, noise_BN: Tensor) -> Tensor:
        """Each row by itself."""
        shell = ShellRetraction(Layout(tuple(self.draws)), reach=0.0, rounds=1)
        start = shell.init(self.like_BN)
        noise_BN = shell.retract(noise_BN, start)
        noise_BN = self._with_values(self._with_places(noise_BN))
        return shell.retract(noise_BN, start)

    def _with_places(self, noise_BN: Tensor) -> Tensor:
        """The power of each place of the maps, over draws and channels."""
        likely = self._maps(self.like_BN).square().sum((1, 2), keepdim=True)
        found = self._maps(noise_BN).square().sum((1, 2), keepdim=True)
        scaled = self._maps(noise_BN) * (likely / found.clamp(min=1e-30)).sqrt()
        return scaled.flatten(1)

    def _with_values(self, noise_BN: Tensor) -> Tensor:
        """The values of each draw, in the order that the noise has there."""
        values = self._maps(self.like_BN).flatten(2).sort(dim=2).values
        order = self._maps(noise_BN).flatten(2).argsort(dim=2)
        placed = torch.empty_like(values).scatter_(2, order, values)
        return placed.flatten(1)

    def _maps(self, noise_BN: Tensor) -> Tensor:
        """`B x K x C x h w`."""
        places = math.prod(self.draws[0][-2:])
        return noise_BN.view(len(noise_BN), len(self.draws), -1, places)
