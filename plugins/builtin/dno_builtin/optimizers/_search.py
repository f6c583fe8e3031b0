"""Methods that look at scores alone. Each iteration's noise is a candidate; the engine keeps the
best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dno.plugin import Objective, State


@dataclass(frozen=True)
class BestOf:
    """Independent draws from N(0, I). State: none."""

    proposes: ClassVar[bool] = True

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing to remember."""
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Evaluate this candidate, draw the next."""
        objective.score(noise_BN)
        return objective.gaussian(), state


@dataclass(frozen=True)
class Nearby:
    """Gaussian proposals around the best so far.

    State: `centre_BN`, the best noise so far; `score_B`, its score, -inf before the first healthy
    evaluation.
    """

    proposes: ClassVar[bool] = True
    beta: float

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing evaluated yet."""
        nothing_B = noise_BN.new_full((len(noise_BN),), -math.inf)
        return {"centre_BN": noise_BN, "score_B": nothing_B}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Evaluate this proposal, keep it if it is better, propose the next."""
        score_B = objective.score(noise_BN).to(noise_BN)
        better_B = score_B > state["score_B"]
        centre_BN = torch.where(better_B[:, None], noise_BN, state["centre_BN"])
        best_B = torch.where(better_B, score_B, state["score_B"])

        kept = math.sqrt(1 - self.beta**2)
        proposal_BN = kept * centre_BN + self.beta * objective.gaussian()
        return proposal_BN, {"centre_BN": centre_BN, "score_B": best_B}
