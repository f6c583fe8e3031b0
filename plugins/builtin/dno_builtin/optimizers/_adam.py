"""Adam's update, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import Objective, State


@dataclass(frozen=True)
class AdamAscent:
    """The update of `torch.optim.Adam(maximize=True)`, from and to plain tensors.

    State: `step`, the updates made so far; `mean_BN` and `square_BN`, the running means of the
    gradient and of its square.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    decoupled: bool = False

    def init(self, noise_BN: Tensor, /) -> State:
        """No update made yet."""
        zeros = torch.zeros_like(noise_BN)
        return {"step": torch.tensor(0), "mean_BN": zeros, "square_BN": zeros}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One update, from one gradient."""
        if not self.decoupled:
            _, grad_BN = objective.value_and_grad(noise_BN)
            return self._moved(noise_BN, grad_BN, state)

        slopes = objective.slopes(noise_BN)
        moved_BN, memory = self._moved(noise_BN, slopes.reward_grad_BN, state)
        return moved_BN - self.lr * slopes.penalty_grad_BN, memory

    def _moved(self, noise_BN: Tensor, grad_BN: Tensor, state: State) -> tuple[Tensor, State]:
        step = state["step"] + 1
        mean_BN = state["mean_BN"].lerp(grad_BN, 1 - self.beta1)
        square_BN = self.beta2 * state["square_BN"] + (1 - self.beta2) * grad_BN.square()
        count = int(step)
        scale_BN = (square_BN / (1 - self.beta2**count)).sqrt() + self.eps
        moved_BN = noise_BN + self.lr / (1 - self.beta1**count) * mean_BN / scale_BN
        return moved_BN, {"step": step, "mean_BN": mean_BN, "square_BN": square_BN}
