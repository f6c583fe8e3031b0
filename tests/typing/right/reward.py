"""Rewards: a function, a callable value, and one whose gradient is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dno.plugin import BuildContext, ConfigError, Reward, RewardConfig


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


class Brightness(RewardConfig):
    def build(self, ctx: BuildContext) -> Reward:
        return brightness


@dataclass(frozen=True)
class Colour:
    blue: float
    device: torch.device

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        red, green, blue = images.to(self.device).mean(dim=(2, 3)).unbind(1)
        return green - (1 - self.blue) * red - self.blue * blue


class Greenness(RewardConfig):
    blue: float = 0.5
    """Share of blue in what green is compared with."""
    weight: float = 2.0

    def check(self) -> None:
        if not 0 <= self.blue <= 1:
            raise ConfigError("blue must be in [0, 1]", at="blue")

    def build(self, ctx: BuildContext) -> Colour:
        return Colour(self.blue, ctx.device)


class Words(RewardConfig):
    differentiable: ClassVar[bool] = False

    def build(self, ctx: BuildContext) -> Reward:
        return lambda images, prompts: torch.tensor(
            [float(len(prompt.split())) for prompt in prompts]
        )


greenness: Reward = Greenness(blue=0.2, weight=3).build(
    BuildContext(torch.device("cpu"), torch.float32)
)
