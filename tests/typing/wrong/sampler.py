"""Samplers and noise maps with something missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dno.plugin import BuildContext, NoiseMap, Reward, Sampler, SamplerConfig, gaussian_noise


@dataclass(frozen=True)
class Map:
    noise_BN: Tensor
    draws: Sequence[tuple[int, ...]]

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        return noise_BN


@dataclass(frozen=True)
class NoDraws:
    noise_BN: Tensor

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        return noise_BN


@dataclass(frozen=True)
class OneDraw:
    noise_BN: Tensor
    draws: tuple[int, ...]

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        return noise_BN


class MethodDraws:
    def __init__(self, noise_BN: Tensor) -> None:
        self.noise_BN = noise_BN

    def draws(self) -> Sequence[tuple[int, ...]]:
        return [(2,)]

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        return noise_BN


@dataclass(frozen=True)
class NoNoise:
    draws: Sequence[tuple[int, ...]]

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        return noise_BN


@dataclass(frozen=True)
class NoCall:
    noise_BN: Tensor
    draws: Sequence[tuple[int, ...]]

    def samples(self, noise_BN: Tensor) -> Tensor:
        return noise_BN


@dataclass(frozen=True)
class Prompted(Map):
    def __call__(self, noise_BN: Tensor, prompts: object) -> Tensor:  # wrong: takes noise alone
        return noise_BN


@dataclass(frozen=True)
class Pictures:
    noise_BN: Tensor
    draws: Sequence[tuple[int, ...]]

    def __call__(self, noise_BN: Tensor, /) -> list[Tensor]:
        return list(noise_BN)


def accept_map(noise_map: NoiseMap) -> None: ...


def maps(noise_BN: Tensor) -> None:
    accept_map(Map(noise_BN, [(2,)]))
    accept_map(Map(noise_BN, [2]))  # wrong: a draw's shape is a tuple
    accept_map(NoDraws(noise_BN))  # wrong: no draws
    accept_map(OneDraw(noise_BN, (2,)))  # wrong: one shape, not one for each draw
    accept_map(MethodDraws(noise_BN))  # wrong: draws is no attribute
    accept_map(NoNoise([(2,)]))  # wrong: no starting noise
    accept_map(NoCall(noise_BN, [(2,)]))  # wrong: cannot be called
    accept_map(Prompted(noise_BN, [(2,)]))  # wrong: wants prompts
    accept_map(Pictures(noise_BN, [(2,)]))  # wrong: samples are one tensor


class Right:
    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> Map:
        return Map(gaussian_noise([(2,)], seeds), [(2,)])


class Seedless:
    def bind(self, prompts: Sequence[str]) -> Map:
        return Right().bind(prompts, [0])


class OneSample:
    def bind(self, prompts: str, seeds: int) -> Map:
        return Right().bind([prompts], [seeds])


class OtherNames:
    def bind(self, texts: Sequence[str], numbers: Sequence[int]) -> Map:
        return Right().bind(texts, numbers)


class BindsTensor:
    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return gaussian_noise([(2,)], seeds)


class BindsHalf:
    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> NoDraws:
        return NoDraws(gaussian_noise([(2,)], seeds))


class Unbound:
    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Map:
        return Right().bind(prompts, seeds)


def accept(sampler: Sampler) -> None: ...


accept(Right())
accept(Right)  # wrong: the class, not an object of it
accept(Seedless())  # wrong: bind takes no seeds
accept(OneSample())  # wrong: bind takes one prompt alone
# Prompts and seeds may be given by name; mypy does not compare names.
accept(OtherNames())  # wrong (pyright): other names
accept(BindsTensor())  # wrong: a tensor is no map
accept(BindsHalf())  # wrong: the map has no draws
accept(Unbound())  # wrong: no bind


class SeedlessConfig(SamplerConfig):
    def build(self, ctx: BuildContext) -> Sampler:
        return Seedless()  # wrong: bind takes no seeds


class MapConfig(SamplerConfig):
    def build(self, ctx: BuildContext) -> NoiseMap:  # wrong: a map is no sampler
        return Map(gaussian_noise([(2,)], [0]), [(2,)])


class RewardingConfig(SamplerConfig):
    def build(self, ctx: BuildContext) -> Reward:  # wrong: a reward is no sampler
        raise NotImplementedError


class Weighted(SamplerConfig):
    def build(self, ctx: BuildContext) -> Sampler:
        return Right()


Weighted(weight=2)  # wrong: samplers have no weight
SamplerConfig()  # wrong: the base cannot be built
