"""Regularizers: one tells only its penalty, others a figure or log P too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from dno.plugin import BuildContext, Penalty, Regularizer, RegularizerConfig


def mean_square(noise_BN: Tensor, generators: Sequence[Generator]) -> Tensor:
    return (noise_BN.square().mean(dim=1) - 1).square()


class MeanSquare(RegularizerConfig):
    def build(self, ctx: BuildContext) -> Regularizer:
        return mean_square


class Projection:
    """Along a random direction each."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Penalty:
        directions = [
            torch.randn(noise_BN.shape[1], generator=generator) for generator in generators
        ]
        along_B = self.sign * (noise_BN * torch.stack(directions).to(noise_BN)).mean(dim=1)
        return Penalty(along_B.square(), figures={"along": along_B.detach()})


class ProjectionConfig(RegularizerConfig):
    sign: float = 1.0

    def build(self, ctx: BuildContext) -> Regularizer:
        return Projection(self.sign)


class Length:
    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Penalty:
        away_B = noise_BN.square().mean(dim=1) - 1
        score_B = away_B.detach() * (noise_BN.shape[1] / 2) ** 0.5
        return Penalty(value_B=away_B.square(), log_p_B=-score_B.square() / 2)


def log_p(penalty: Penalty) -> Tensor:
    if penalty.log_p_B is None:
        return torch.zeros_like(penalty.value_B)
    return penalty.log_p_B


either: list[RegularizerConfig] = [
    MeanSquare(weight="auto", log_p_target=-5),
    ProjectionConfig(weight=2),
]
