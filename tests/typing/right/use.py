"""What a registry loads has the type of its kind, and a script may pass any object of the right
form.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import dno
from dno.plugin import BuildContext, Penalty, Reward, RewardConfig, Sampler
from dno.registry.registry import REGULARIZERS, REWARDS, SAMPLERS, Registry


def load(ctx: BuildContext, noise_BN: Tensor) -> Tensor:
    sampler: Sampler = SAMPLERS.load("ddim")().build(ctx)
    reward: Reward = REWARDS.load("clip")(weight=2).build(ctx)
    penalty = REGULARIZERS.load("norm")().build(ctx)(noise_BN, [])
    value_B = penalty.value_B if isinstance(penalty, Penalty) else penalty
    return reward(sampler.bind(["a frog"], [0])(noise_BN), ["a frog"]) - value_B


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean(dim=(1, 2))


def script() -> Tensor:
    own = Registry("rewards", RewardConfig)
    result = dno.optimize(
        "a frog", reward=[(redness, 2), "brightness", own.load("clip")()], iterations=2
    )
    return result.best.samples
