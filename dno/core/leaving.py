"""Samples that have left a run while others go on: who is left, and what is known of all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dno.core.recorder import rows_where
from dno.core.rows import remembered
from dno.core.stages import LoopState
from dno.core.terms import Evaluation


def still_going(state: LoopState) -> list[int]:
    """The samples that have neither failed nor ended."""
    rows = range(len(state.noise_BN))
    return [row for row in rows if row not in state.failures and row not in state.ended]


def still_asked_B(state: LoopState) -> Tensor | None:
    """The samples that are still asked, where these are not all."""
    if not state.ended:
        return state.repair_B
    going_B = torch.ones(len(state.noise_BN), dtype=torch.bool)
    going_B[list(state.ended)] = False
    return going_B if state.repair_B is None else going_B & state.repair_B.to(going_B.device)


def known_of_all(state: LoopState) -> Evaluation:
    """The newest evaluation, as if samples that ended had been evaluated where they are now.

    Nobody reads what is known of these, and the phase after theirs may be on another grid.
    """
    assert state.last is not None
    known = remembered(state.last, state.history[-1], state.failures)
    if not state.ended:
        return known
    noise_BN = state.noise_BN
    if known.noise_BN.shape == noise_BN.shape:
        ended_B = torch.zeros(len(noise_BN), dtype=torch.bool)
        ended_B[list(state.ended)] = True
        noise_BN = rows_where(ended_B, noise_BN, known.noise_BN.to(noise_BN))
    return replace(known, noise_BN=noise_BN)
