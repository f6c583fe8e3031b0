"""Gradient ascent's update, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import Objective, State


@dataclass(frozen=True)
class GradientAscent:
    """The update of `torch.optim.SGD(maximize=True)`, from and to plain tensors.

    State: `velocity_BN`, the sum of past gradients, each weighted by momentum ** its age.
    """

    lr: float
    momentum: float

    def init(self, noise_BN: Tensor, /) -> State:
        """No update made yet."""
        return {"velocity_BN": torch.zeros_like(noise_BN)}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One update, from one gradient."""
        _, grad_BN = objective.value_and_grad(noise_BN)
        velocity_BN = self.momentum * state["velocity_BN"] + grad_BN
        return noise_BN + self.lr * velocity_BN, {"velocity_BN": velocity_BN}
