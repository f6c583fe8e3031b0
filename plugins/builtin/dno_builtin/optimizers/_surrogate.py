"""Search along a model of the reward; see `surrogate.py` for the formula.

Letters, beside those of `dno.protocols`:
    R  samples remembered        D  entries of one sample
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dno.plugin import Look, Objective, State
from dno_builtin.constraints._shell import ShellRetraction

from ._ascent import SphereAscent

AFTER_RISE = 1.3
AFTER_FALL = 0.7
LEAST = 0.1
MOST = 2.0
"""Of the first step."""


@dataclass(frozen=True)
class LinearModel:
    """A line through scores, by ridge regression."""

    ridge: float

    def slope(self, shown_RD: Tensor, score_R: Tensor) -> Tensor:
        """The scores' slope in the samples, `D`; 0 where they tell nothing.

        Args:
            shown_RD: the samples.
            score_R: their scores, -inf for those that teach nothing.
        """
        taught_R = score_R.isfinite()
        if int(taught_R.sum()) < 2:
            return torch.zeros_like(shown_RD[0])
        offset_RD = shown_RD[taught_R] - shown_RD[taught_R].mean(dim=0)
        gain_R = score_R[taught_R].double()
        gain_R = gain_R - gain_R.mean()

        products_RR = (offset_RD @ offset_RD.T).double().cpu()
        size = products_RR.diagonal().mean()
        if not size or not gain_R.any():
            return torch.zeros_like(shown_RD[0])
        system_RR = products_RR + self.ridge * size * torch.eye(len(products_RR)).double()
        weight_R = torch.linalg.solve(system_RR, gain_R.cpu())
        slope_D: Tensor = weight_R.to(offset_RD) @ offset_RD
        return slope_D


@dataclass(frozen=True)
class SurrogateSearch:
    """Proposals around the best so far, some of them steps up the line through all that was seen.

    State: `centre_BN`, the best noise so far; `best_B`, its score, -inf before the first healthy
    one; `step_B`, the length of the next step; `shown_BRD`, the samples remembered, oldest first;
    `score_BR`, their scores.
    """

    proposes: ClassVar[bool] = True
    warm_up: int
    proposals: int
    size: float
    step_size: float
    memory: int
    model: LinearModel
    rule: SphereAscent
    shell: ShellRetraction

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing seen yet."""
        like_B = noise_BN[:, 0]
        return {
            "centre_BN": noise_BN,
            "best_B": torch.full_like(like_B, -math.inf),
            "step_B": torch.full_like(like_B, self.step_size),
            "shown_BRD": noise_BN.new_zeros(len(noise_BN), 0, 0),
            "score_BR": noise_BN.new_zeros(len(noise_BN), 0),
        }

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Look at the step in hand and around the best, fit, and make the next step."""
        first = not state["score_BR"].shape[1]
        before_B = state["best_B"]
        state, look = self._looked(objective, noise_BN, state)
        step_B = state["step_B"]
        if not first:
            step_B = self._lengths(step_B, state["best_B"] > before_B)

        looks = [look]
        for _ in range(self.warm_up - 1 if first else self.proposals):
            proposal_BN = objective.gaussian()
            if not first:
                proposal_BN = self._near(state["centre_BN"], proposal_BN)
            state, look = self._looked(objective, proposal_BN, state)
            looks.append(look)

        shown_BRD, score_BR = self._remembered(state, looks)
        state = {**state, "step_B": step_B, "shown_BRD": shown_BRD, "score_BR": score_BR}
        return self._next(objective, state, looks[0].samples), state

    def _looked(self, objective: Objective, noise_BN: Tensor, state: State) -> tuple[State, Look]:
        """The state with this noise as the centre where it is better, and what was seen."""
        look = objective.look(noise_BN)
        score_B = look.score_B.to(noise_BN)
        better_B = score_B > state["best_B"]
        centre_BN = torch.where(better_B[:, None], noise_BN, state["centre_BN"])
        best_B = torch.where(better_B, score_B, state["best_B"])
        return {**state, "centre_BN": centre_BN, "best_B": best_B}, look

    def _lengths(self, step_B: Tensor, better_B: Tensor) -> Tensor:
        """Each sample's next step, after one that was better or not."""
        factor_B = torch.where(better_B, AFTER_RISE, AFTER_FALL).to(step_B)
        return (step_B * factor_B).clamp(LEAST * self.step_size, MOST * self.step_size)

    def _near(self, centre_BN: Tensor, drawn_BN: Tensor) -> Tensor:
        return math.sqrt(1 - self.size**2) * centre_BN + self.size * drawn_BN

    def _next(self, objective: Objective, state: State, like: Tensor) -> Tensor:
        """The next step from the best noise; a proposal near it where the line is flat."""
        centre_BN = state["centre_BN"]
        rows = zip(state["shown_BRD"], state["score_BR"], strict=True)
        slope_BD = torch.stack([self.model.slope(*row) for row in rows])
        flat_B = ~slope_BD.any(dim=1).to(centre_BN.device)
        proposal_BN = self._near(centre_BN, objective.gaussian())
        if flat_B.all():
            return proposal_BN

        uphill_BN = objective.pull(centre_BN, slope_BD.view_as(like)).to(centre_BN)
        pairs = zip(uphill_BN, centre_BN, strict=True)
        direction_BN = torch.stack([self.rule.direction(*pair) for pair in pairs])
        moved_BN = centre_BN + state["step_B"][:, None] * direction_BN
        moved_BN = self.shell.retract(moved_BN, self.shell.init(centre_BN))
        return torch.where(flat_B[:, None], proposal_BN, moved_BN)

    def _remembered(self, state: State, looks: list[Look]) -> tuple[Tensor, Tensor]:
        """The last samples and scores, with those of this iteration."""
        new_BRD = torch.stack([look.samples.flatten(1) for look in looks], dim=1)
        new_BR = torch.stack([look.score_B for look in looks], dim=1).to(new_BRD)
        shown_BRD = state["shown_BRD"]
        if not shown_BRD.shape[1]:
            shown_BRD = new_BRD[:, :0]
        shown_BRD = torch.cat([shown_BRD, new_BRD], dim=1)[:, -self.memory :]
        score_BR = torch.cat([state["score_BR"], new_BR], dim=1)[:, -self.memory :]
        return shown_BRD, score_BR
