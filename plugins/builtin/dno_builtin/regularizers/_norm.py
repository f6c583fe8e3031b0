"""The norm regularizer's value; see `norm.py` for the formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dno.plugin import Penalty
from dno_builtin.regularizers._tails import chi2_rate, chi2_score, host, log_two_sided, wide

_SHORTEST = 1e-12
"""Square of the norm, next to the most probable one, under which the penalty is level: at 0 its log
has no slope."""


@dataclass(frozen=True)
class NormPenalty:
    """`noise_BN -> Penalty`; no randomness."""

    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Penalty:
        """Each row by itself, so that a row's bits do not depend on the others."""
        entries = noise_BN.shape[1]
        squared_B = torch.stack([wide(noise_N).square().sum() for noise_N in noise_BN])
        value_B = chi2_rate(squared_B.clamp(min=_SHORTEST * (entries - 1)), entries - 1)
        log_p_B = log_two_sided(chi2_score(host(squared_B), entries))
        return Penalty(value_B.to(noise_BN), log_p_B.to(noise_BN))
