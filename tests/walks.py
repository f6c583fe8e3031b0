"""A sampler whose picture is the sum of its draws, so that coarser grids of it are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from dno.core.noise import gaussian_noise
from dno.errors import ConfigError

SHAPE = (3, 2, 2)
ENTRIES = math.prod(SHAPE)


@dataclass(frozen=True)
class Walk:
    """A picture of the sum of `steps` draws; the noise of a coarser one adds up neighbouring draws.

    `wrong` bends the coarse picture away from the fine one, by one number or one a sample. `asked`
    has the number of samples of each call.
    """

    noise_BN: Tensor
    steps: int
    wrong: float | Tensor = 0.0
    asked: list[int] = field(default_factory=list)

    @property
    def draws(self) -> Sequence[tuple[int, ...]]:
        return (SHAPE,) * self.steps

    @property
    def network_evaluations(self) -> int:
        return self.steps

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        self.asked.append(len(noise_BN))
        summed = noise_BN.view(-1, self.steps, ENTRIES).sum(1) / math.sqrt(self.steps)
        return (summed * (1 - self.wrong)).sigmoid().view(-1, *SHAPE)

    def coarser(self, steps: int) -> Coarser:
        if self.steps % steps:
            raise ConfigError(f"{steps} is not a part of {self.steps}")
        return Coarser(self, steps)


@dataclass(frozen=True)
class Coarser:
    """A walk on fewer steps."""

    fine: Walk
    steps: int
    wrong: float | Tensor = 0.0

    @cached_property
    def sample(self) -> Walk:
        return Walk(self.coarsen(self.fine.noise_BN), self.steps, self.wrong)

    def coarsen(self, noise_BN: Tensor, /) -> Tensor:
        stride = self.fine.steps // self.steps
        drawn = noise_BN.view(-1, self.steps, stride, ENTRIES)
        return (drawn.sum(2) / math.sqrt(stride)).flatten(1)

    def refine(self, noise_BN: Tensor, coarse_BM: Tensor, /) -> Tensor:
        stride = self.fine.steps // self.steps
        missing = (coarse_BM - self.coarsen(noise_BN)).view(-1, self.steps, 1, ENTRIES)
        drawn = noise_BN.view(-1, self.steps, stride, ENTRIES)
        return (drawn + missing / math.sqrt(stride)).flatten(1)


class Walker:
    """The sampler of walks."""

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> Walk:
        return Walk(gaussian_noise((SHAPE,) * 8, seeds), 8)


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))
