"""Tests by the conformance kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from dno.plugin import BuildContext, Optimizer, OptimizerConfig, Reward, RewardConfig
from dno.testing import OptimizerContract, RewardContract
from dno.testing.toy import Ascent


class Judge(RewardConfig):
    folder: Path

    def build(self, ctx: BuildContext) -> Reward:
        return lambda images, prompts: images.mean(dim=(1, 2, 3))


class Climb(OptimizerConfig):
    def build(self, ctx: BuildContext) -> Optimizer:
        return Ascent(0.1)


class CheckJudge(RewardContract):
    prompts = ("a cat", "a dog")
    sizes = ((16, 16),)

    @pytest.fixture(autouse=True)
    def make(self, tmp_path: Path) -> None:
        self.config = Judge(folder=tmp_path)


class CheckClimb(OptimizerContract):
    config = Climb()
    steps = 5
