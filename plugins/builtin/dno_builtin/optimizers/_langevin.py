"""Langevin dynamics with the Gaussian prior's pull solved exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dno.plugin import Objective, State


@dataclass(frozen=True)
class LangevinSteps:
    """Steps of dz = (-z + grad / temperature) dt / 2 + dW, over a time `step_size` each. State:
    none.

    With the gradient held over the step, this is an Ornstein-Uhlenbeck process around grad /
    temperature, whose transition is Gaussian and known in full: its mean moves there by a factor 1
    - a, a = exp(-step_size / 2), and its variance is 1 - a^2.
    """

    step_size: float
    temperature: float

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing to remember."""
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One step, from one gradient and one Gaussian draw."""
        _, grad_BN = objective.value_and_grad(noise_BN)
        kept = math.exp(-self.step_size / 2)
        pull_BN = (1 - kept) / self.temperature * grad_BN
        return kept * noise_BN + pull_BN + math.sqrt(1 - kept**2) * objective.gaussian(), state
