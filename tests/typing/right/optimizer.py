"""An optimizer that keeps a memory, and one without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import BuildContext, Objective, Optimizer, OptimizerConfig, State


@dataclass(frozen=True)
class Momentum:
    lr: float

    def init(self, noise_BN: Tensor) -> State:
        return {"velocity": torch.zeros_like(noise_BN)}

    def step(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[Tensor, State]:
        _, gradient_BN = objective.value_and_grad(noise_BN)
        velocity = 0.9 * state["velocity"] + gradient_BN
        return noise_BN + self.lr * velocity, {"velocity": velocity}


class MomentumConfig(OptimizerConfig):
    lr: float = 0.1

    def build(self, ctx: BuildContext) -> Optimizer:
        return Momentum(self.lr)


class RandomWalk:
    def init(self, noise_BN: Tensor, /) -> dict[str, Tensor]:
        return {}

    def step(
        self, objective: Objective, noise_BN: Tensor, state: State, /
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tried_BN = (noise_BN + objective.gaussian()) / 2**0.5
        better_B = objective.value(tried_BN) > objective.value(noise_BN)
        return torch.where(better_B[:, None], tried_BN, noise_BN), {}


class RandomWalkConfig(OptimizerConfig):
    def build(self, ctx: BuildContext) -> RandomWalk:
        return RandomWalk()
