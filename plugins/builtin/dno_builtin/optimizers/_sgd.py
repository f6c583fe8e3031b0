"""Gradient ascent's update, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import Objective, State


@dataclass(frozen=True)
class GradientAscent:
    """The update of `torch.optim.SGD(maximize=True)`, from and to plain tensors.

    State: `velocity_BN`, the sum of past gradients, each weighted by momentum ** its age;
    `length_B`, the length of the first reward gradient, 0 before there is one.
    """

    lr: float
    momentum: float
    nesterov: bool = False
    clip: float = 0.0
    own_scale: bool = False

    def init(self, noise_BN: Tensor, /) -> State:
        """No update made yet."""
        return {
            "velocity_BN": torch.zeros_like(noise_BN),
            "length_B": torch.zeros_like(noise_BN[:, 0]),
        }

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One update, from one gradient."""
        length_B = state["length_B"]
        if self.own_scale:
            slopes = objective.slopes(noise_BN)
            found_B = torch.linalg.vector_norm(slopes.reward_grad_BN, dim=1)
            length_B = torch.where(length_B > 0, length_B, found_B.to(length_B))
            unit_B = torch.where(length_B > 0, length_B, 1.0)
            grad_BN = slopes.reward_grad_BN / unit_B[:, None] - slopes.penalty_grad_BN
        else:
            _, grad_BN = objective.value_and_grad(noise_BN)
        if self.clip:
            grad_BN = _cut(grad_BN, self.clip)

        velocity_BN = self.momentum * state["velocity_BN"] + grad_BN
        move_BN = velocity_BN
        if self.nesterov:
            move_BN = grad_BN + self.momentum * velocity_BN
        return noise_BN + self.lr * move_BN, {"velocity_BN": velocity_BN, "length_B": length_B}


def _cut(grad_BN: Tensor, longest: float) -> Tensor:
    """The gradients, none longer than that."""
    length_B = torch.linalg.vector_norm(grad_BN, dim=1)
    factor_B: Tensor = longest / length_B.clamp(min=longest)
    return grad_BN * factor_B[:, None]
