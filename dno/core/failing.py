"""Samples of a run that cannot go on while others can: which, why, and where they are left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from dno.core.recorder import Recorder, rows_where
from dno.core.result import StepRecord
from dno.core.stages import LoopState

PATIENCE: Final = 10
"""So many proposals of a search in a row that cannot be evaluated, and their sample has failed."""


def failures_of(
    asked: Recorder, history: Sequence[StepRecord], ended: Mapping[int, int]
) -> dict[int, str]:
    """Why samples that had not ended could not go on, by row."""
    found = {**_given_up(asked.passed_over, history), **asked.failures}
    return {row: why for row, why in found.items() if row not in ended}


def with_failed_frozen(state: LoopState, *, coarse: bool) -> LoopState:
    """The state with failed samples back at noise at which they could be evaluated."""
    if not state.failures:
        return state
    assert state.initial is not None
    failed_B = torch.zeros(len(state.noise_BN), dtype=torch.bool)
    failed_B[list(state.failures)] = True
    best = state.coarse_best if coarse else state.best
    assert best is not None
    # Where nothing was found, the start will do: such a sample has no result.
    instead_BN = state.noise_BN.nan_to_num() if coarse else state.initial.noise_BN
    found_B = best.score_B > -math.inf
    rest_BN = rows_where(found_B, best.noise_BN, instead_BN.to(best.noise_BN))
    noise_BN = rows_where(failed_B, rest_BN.to(state.noise_BN), state.noise_BN)
    return replace(state, noise_BN=noise_BN)


def _given_up(passed_over: Mapping[int, str], history: Sequence[StepRecord]) -> dict[int, str]:
    """The samples of which no proposal can be evaluated any more, by row, and why."""
    latest = history[-PATIENCE:]
    found = {}
    for row, why in passed_over.items():
        if len(latest) == PATIENCE and all(math.isnan(record.reward[row]) for record in latest):
            found[row] = f"{why} (nor could {PATIENCE - 1} proposals before it be evaluated)"
    return found
