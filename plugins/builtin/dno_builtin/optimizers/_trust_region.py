"""Trust-region search; see `trust_region.py` for the rule.

Letters, beside those of `dno.protocols`:
    R  regions
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dno.plugin import Objective, State

FRESH = -1
"""In place of a region: a proposal that is drawn from N(0, I)."""


@dataclass(frozen=True)
class Boxes:
    """How the lengths of boxes follow successes and failures."""

    length: float
    shortest: float
    longest: float
    factor: float
    patience: int

    def after(
        self, won_B: Tensor, length_B: Tensor, wins_B: Tensor, losses_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A box's length, and its successes and failures in a row, after one proposal more."""
        wins_B = torch.where(won_B, wins_B + 1, 0.0)
        losses_B = torch.where(won_B, 0.0, losses_B + 1)
        grows_B = wins_B >= self.patience
        shrinks_B = losses_B >= self.patience
        again_B = shrinks_B & (length_B <= self.shortest)

        longer_B = (length_B * self.factor).clamp(max=self.longest)
        shorter_B = (length_B / self.factor).clamp(min=self.shortest)
        length_B = torch.where(grows_B, longer_B, length_B)
        length_B = torch.where(shrinks_B, shorter_B, length_B)
        length_B = torch.where(again_B, self.length, length_B)
        return length_B, torch.where(grows_B, 0.0, wins_B), torch.where(shrinks_B, 0.0, losses_B)


@dataclass(frozen=True)
class BoxSearch:
    """Proposals in boxes around the best so far.

    State: `centres_BRN`, the best noises, best first; `score_BR`, their scores, -inf for one that
    is not filled yet; `length_BR`, `wins_BR`, `losses_BR`, the boxes by rank; `seen`, the
    proposals evaluated; `region`, the one that the proposal in hand is from, -1 for fresh noise.
    """

    proposes: ClassVar[bool] = True
    regions: int
    warm_up: int
    boxes: Boxes
    least_moved: float
    most_moved: float
    keep_variance: bool

    def init(self, noise_BN: Tensor, /) -> State:
        """Nothing evaluated yet."""
        each_BR = noise_BN.new_zeros(len(noise_BN), self.regions)
        return {
            "centres_BRN": noise_BN[:, None].repeat(1, self.regions, 1),
            "score_BR": torch.full_like(each_BR, -math.inf),
            "length_BR": torch.full_like(each_BR, self.boxes.length),
            "wins_BR": each_BR,
            "losses_BR": each_BR,
            "seen": torch.tensor(0),
            "region": torch.tensor(FRESH),
        }

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """Evaluate this proposal, keep it if it is among the best, propose the next."""
        score_B = objective.score(noise_BN).to(noise_BN)
        state = self._learnt(state, score_B)
        state = _ranked(state, noise_BN, score_B)

        seen = int(state["seen"]) + 1
        region = FRESH
        proposal_BN = objective.gaussian()
        if seen >= self.warm_up:
            region = (seen - self.warm_up) % self.regions
            proposal_BN = self._in_box(state, region, proposal_BN, objective)
        return proposal_BN, {
            **state,
            "seen": torch.tensor(seen),
            "region": torch.tensor(region),
        }

    def _learnt(self, state: State, score_B: Tensor) -> State:
        """The state with the box of the proposal in hand longer or shorter."""
        region = int(state["region"])
        if region == FRESH:
            return state
        won_B = score_B > state["score_BR"][:, region]
        names = ("length_BR", "wins_BR", "losses_BR")
        found = self.boxes.after(won_B, *(state[name][:, region] for name in names))

        changed = dict(state)
        for name, value_B in zip(names, found, strict=True):
            value_BR = state[name].clone()
            value_BR[:, region] = value_B
            changed[name] = value_BR
        return changed

    def _in_box(self, state: State, region: int, drawn_BN: Tensor, objective: Objective) -> Tensor:
        """A proposal in one region's box, made of Gaussian draws."""
        centre_BN = state["centres_BRN"][:, region]
        length_B1 = state["length_BR"][:, region, None]
        step_BN = (_uniform(drawn_BN) - 0.5) * length_B1
        moved_BN = centre_BN + step_BN
        if self.keep_variance:
            moved_BN = moved_BN / (1 + length_B1.square() / 12).sqrt()

        within = self.most_moved - self.least_moved
        share_B1 = self.least_moved + within * _uniform(objective.gaussian()[:, :1])
        moves_BN = _uniform(objective.gaussian()) < share_B1
        return torch.where(moves_BN, moved_BN, centre_BN)


def _ranked(state: State, noise_BN: Tensor, score_B: Tensor) -> State:
    """The state with a noise put among the centres, where it is better than one of them."""
    score_BR = torch.cat([state["score_BR"], score_B[:, None]], dim=1)
    # Of equals the one that was there first.
    score_BR, order_BR = torch.sort(score_BR, dim=1, descending=True, stable=True)
    regions = order_BR.shape[1] - 1
    kept_BR = order_BR[:, :regions]

    rows = []
    for centres_RN, noise_N, kept_R in zip(state["centres_BRN"], noise_BN, kept_BR, strict=True):
        candidates_RN = torch.cat([centres_RN, noise_N[None]])
        rows.append(candidates_RN[kept_R])
    return {**state, "centres_BRN": torch.stack(rows), "score_BR": score_BR[:, :regions]}


def _uniform(gaussian: Tensor) -> Tensor:
    """N(0, 1) entries as uniform ones in [0, 1]."""
    uniform: Tensor = torch.special.ndtr(gaussian)
    return uniform
