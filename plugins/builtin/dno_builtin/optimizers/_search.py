"""Methods that look at values alone. Each iteration's noise is a candidate; the engine keeps the
best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import Objective, State


@dataclass(frozen=True)
class BestOf:
    """Independent draws from N(0, I). State: none."""

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing to remember."""
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Evaluate this candidate, draw the next."""
        objective.value(noise_BN)
        return objective.gaussian(), state


@dataclass(frozen=True)
class Nearby:
    """Gaussian proposals around the best so far.

    State: `centre_BN`, the best noise so far; `value_B`, its objective, -inf before the first
    evaluation.
    """

    beta: float

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing evaluated yet."""
        return {"centre_BN": noise_BN, "value_B": noise_BN.new_full((len(noise_BN),), -math.inf)}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Evaluate this proposal, keep it if it is better, propose the next."""
        value_B = objective.value(noise_BN).to(noise_BN)
        better_B = value_B > state["value_B"]
        centre_BN = torch.where(better_B[:, None], noise_BN, state["centre_BN"])
        value_B = torch.where(better_B, value_B, state["value_B"])
        proposal_BN = math.sqrt(1 - self.beta**2) * centre_BN + self.beta * objective.gaussian()
        return proposal_BN, {"centre_BN": centre_BN, "value_B": value_B}
