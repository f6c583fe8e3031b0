"""Tests by the conformance kit that name the wrong thing."""

from __future__ import annotations

from dno.plugin import BuildContext, Optimizer, OptimizerConfig
from dno.testing import OptimizerContract, RewardContract
from dno.testing.toy import Ascent


class Climb(OptimizerConfig):
    def build(self, ctx: BuildContext) -> Optimizer:
        return Ascent(0.1)


class OtherKind(RewardContract):
    config = Climb()  # wrong: an optimizer is no reward


class NoObject(OptimizerContract):
    config = Climb  # wrong: the class, not an object of it


class NoPrompts(RewardContract):
    prompts = 3  # wrong: prompts are strings
