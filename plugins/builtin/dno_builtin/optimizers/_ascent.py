"""Normalised ascent on the Gaussian shell; see `ascent.py` for the formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import Objective, State
from dno_builtin._blocks import Group, Layout, energies, inner

AFTER_FALL = 0.7
AFTER_RISE = 1.1
LEAST = 0.1
"""Of the longest step."""
ROUNDING = 1e-10
"""Part of a block's energy that float32 cannot tell from 0."""


@dataclass(frozen=True)
class SphereAscent:
    """Steps along the reward's gradient, tangent in every block.

    State: `step_B`, the length of each sample's next step; `reward_B`, its reward where the last
    step began, -inf before the first.
    """

    layout: Layout
    longest: float
    equal: float

    def init(self, noise_BN: Tensor, /) -> State:
        """The longest steps, and no reward yet."""
        like_B = noise_BN[:, 0]
        return {
            "step_B": torch.full_like(like_B, self.longest),
            "reward_B": torch.full_like(like_B, -math.inf),
        }

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One step, from one gradient."""
        slopes = objective.slopes(noise_BN)
        reward_B = slopes.reward_B.to(noise_BN)
        step_B = self._lengths(state["step_B"], reward_B - state["reward_B"])

        moved = []
        for noise_N, grad_N, pull_N, step in zip(
            noise_BN, slopes.reward_grad_BN, slopes.penalty_grad_BN, step_B, strict=True
        ):
            direction_N = self.direction(grad_N, noise_N)
            bounded_N = pull_N / pull_N.norm().clamp(min=1)
            moved.append(noise_N + step * (direction_N - bounded_N))
        return torch.stack(moved), {"step_B": step_B, "reward_B": reward_B}

    def _lengths(self, step_B: Tensor, rise_B: Tensor) -> Tensor:
        """Each sample's next step, after a rise or fall of its reward."""
        factor_B = torch.ones_like(step_B)
        factor_B = torch.where(rise_B > 0, AFTER_RISE, factor_B)
        factor_B = torch.where(rise_B < 0, AFTER_FALL, factor_B)
        return (step_B * factor_B).clamp(LEAST * self.longest, self.longest)

    def direction(self, grad_N: Tensor, noise_N: Tensor) -> Tensor:
        """Where one sample goes, of length 1; 0 where the gradient is."""
        size = grad_N.abs().amax()
        if not size:
            return torch.zeros_like(noise_N)

        # Of a size at which squares neither overflow nor vanish, whatever the reward's unit.
        uphill = self.layout.blocks(grad_N.to(noise_N) / size)
        here = self.layout.blocks(noise_N)
        groups = self.layout.groups(noise_N)
        turns = [self._turn(*three) for three in zip(groups, uphill, here, strict=True)]

        length = torch.stack([turn.norm() for turn in turns]).norm()
        if not length:
            return torch.zeros_like(noise_N)
        return self.layout.noise([turn / length for turn in turns], noise_N)

    def _turn(self, group: Group, uphill_KCF2: Tensor, here_KCF2: Tensor) -> Tensor:
        """The gradient's part that turns the blocks of one group, made equal as far as is asked."""
        tiny = torch.finfo(uphill_KCF2.dtype).tiny
        along = inner(uphill_KCF2, here_KCF2) / energies(here_KCF2).clamp(min=tiny)
        turn_KCF2 = uphill_KCF2 - along * here_KCF2

        # A block of one entry cannot turn: what is left of it is rounding, which must not be made
        # equal to what the others do.
        power = energies(turn_KCF2)
        turns = power > ROUNDING * energies(uphill_KCF2)
        mean = power.clamp(min=tiny) / group.entries(power)
        return turn_KCF2 * torch.where(turns, mean.pow(-self.equal / 2), 0.0)
