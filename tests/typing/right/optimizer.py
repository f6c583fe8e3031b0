"""An optimizer that keeps a memory, one without, and one that weighs rewards against penalties."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import BuildContext, Objective, Optimizer, OptimizerConfig, Slopes, State


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
        better_B = objective.score(tried_BN) > objective.score(noise_BN)
        return torch.where(better_B[:, None], tried_BN, noise_BN), {}


class RandomWalkConfig(OptimizerConfig):
    def build(self, ctx: BuildContext) -> RandomWalk:
        return RandomWalk()


class Projected:
    """Climbs the rewards across the direction in which the penalties rise."""

    def init(self, noise_BN: Tensor, /) -> State:
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        slopes: Slopes = objective.slopes(noise_BN)
        away_BN = torch.nn.functional.normalize(slopes.penalty_grad_BN, dim=1)
        along_B = (slopes.reward_grad_BN * away_BN).sum(dim=1, keepdim=True)
        worth_B = slopes.reward_B - slopes.penalty_B
        climbs_B = worth_B.isfinite()
        moved_BN = noise_BN + 0.1 * (slopes.reward_grad_BN - along_B * away_BN)
        return torch.where(climbs_B[:, None], moved_BN, noise_BN), state


class ProjectedConfig(OptimizerConfig):
    def build(self, ctx: BuildContext) -> Optimizer:
        return Projected()
