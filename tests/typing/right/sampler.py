"""A sampler with read-only properties, and one whose map is a plain value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dno.plugin import BuildContext, NoiseMap, Sampler, SamplerConfig, gaussian_noise


class SquareMap:
    network_evaluations = 0

    def __init__(self, size: int, seeds: Sequence[int]) -> None:
        self._size, self._seeds = size, seeds

    @property
    def draws(self) -> Sequence[tuple[int, ...]]:
        return [(3, self._size, self._size)]

    @property
    def noise_BN(self) -> Tensor:
        return gaussian_noise(self.draws, self._seeds)

    def __call__(self, noise_BN: Tensor) -> Tensor:
        return noise_BN.reshape(-1, 3, self._size, self._size).sigmoid()


@dataclass(frozen=True)
class Squares:
    size: int

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> NoiseMap:
        return SquareMap(self.size, seeds)


class SquaresConfig(SamplerConfig):
    size: int = 32
    """Height and width in pixels."""

    def build(self, ctx: BuildContext) -> Sampler:
        return Squares(self.size)


@dataclass
class PointMap:
    noise_BN: Tensor
    draws: list[tuple[int]]

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        return 2 * noise_BN


class Points:
    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> PointMap:
        draws = [(2,)]
        return PointMap(gaussian_noise(draws, seeds), draws)


class PointsConfig(SamplerConfig):
    def build(self, ctx: BuildContext) -> Points:
        return Points()
