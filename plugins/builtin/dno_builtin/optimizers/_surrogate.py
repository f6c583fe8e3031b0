"""Ascent on a model of the reward; see `surrogate.py` for the formula.

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
class SurrogateAscent:
    """Proposals around the noise, and a step up the line through all that was seen.

    State: `shown_BRD`, the samples remembered, oldest first; `score_BR`, their scores; and that of
    the step's rule.
    """

    proposes: ClassVar[bool] = True
    warm_up: int
    proposals: int
    size: float
    memory: int
    model: LinearModel
    rule: SphereAscent
    shell: ShellRetraction

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing seen yet."""
        return {
            **self.rule.init(noise_BN),
            "shown_BRD": noise_BN.new_zeros(len(noise_BN), 0, 0),
            "score_BR": noise_BN.new_zeros(len(noise_BN), 0),
        }

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Look around, fit, step; in the first iteration, look at fresh noise."""
        if not state["score_BR"].shape[1]:
            return self._warmed_up(objective, noise_BN, state)

        kept = math.sqrt(1 - self.size**2)
        looks = []
        for _ in range(self.proposals):
            proposal_BN = kept * noise_BN + self.size * objective.gaussian()
            looks.append(objective.look(proposal_BN))
        # Last, so that the sampler's graph does not lie beside the proposals.
        here = objective.look(noise_BN, with_pull=True)
        shown_BRD, score_BR = self._remembered(state, [*looks, here])

        rows = zip(shown_BRD, score_BR, strict=True)
        slope_BD = torch.stack([self.model.slope(*row) for row in rows])
        assert here.pull is not None
        uphill_BN = here.pull(slope_BD.view_as(here.samples)).to(noise_BN)

        reward_B = here.score_B.to(noise_BN)
        step_B = self.rule.lengths(state["step_B"], reward_B - state["reward_B"])
        directions = zip(uphill_BN, noise_BN, strict=True)
        direction_BN = torch.stack([self.rule.direction(*one) for one in directions])
        moved_BN = noise_BN + step_B[:, None] * direction_BN
        return self.shell.retract(moved_BN, self.shell.init(noise_BN)), {
            "step_B": step_B,
            "reward_B": reward_B,
            "shown_BRD": shown_BRD,
            "score_BR": score_BR,
        }

    def _warmed_up(
        self, objective: Objective, noise_BN: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """The best of the noise and fresh draws."""
        seen = [noise_BN]
        seen += [objective.gaussian() for _ in range(self.warm_up - 1)]
        looks = [objective.look(one_BN) for one_BN in seen]
        shown_BRD, score_BR = self._remembered(state, looks)

        score_MB = torch.stack([look.score_B for look in looks])
        best_B = score_MB.argmax(dim=0).to(noise_BN.device)
        rows = torch.arange(len(noise_BN), device=noise_BN.device)
        moved_BN = torch.stack(seen)[best_B, rows]
        return moved_BN, {**state, "shown_BRD": shown_BRD, "score_BR": score_BR}

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
