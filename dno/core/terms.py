"""What an evaluation asks, by role, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from dno.protocols import Constraint, Regularizer, Reward

T = TypeVar("T")


@dataclass(frozen=True)
class Term(Generic[T]):
    """Something that is asked at every evaluation, and the name of its answers in records."""

    name: str
    call: T


@dataclass(frozen=True)
class RewardTerm(Term[Reward]):
    """A reward in the objective."""

    weight: float = 1.0
    """0: reported, and not climbed."""
    differentiable: bool = True
    scale: Tensor | float = 1.0
    """Another factor, one for all samples or `B` of them."""


@dataclass(frozen=True)
class RegularizerTerm(Term[Regularizer]):
    """A penalty in the objective."""

    weight: float = 1.0
    """0: reported, and not taken off."""
    log_p_target: float | None = None
    """Where set, `gamma_B` is another factor of the weight, which holds log P there."""


@dataclass(frozen=True)
class ConstraintTerm(Term[Constraint]):
    """What puts noise back after steps."""

    every: int = 1
    """Steps from one time to the next; 0: once, after the last."""

    def acts_after(self, steps: int, of: int) -> bool:
        """Whether noise is put back when so many of the steps of a phase are done."""
        if not self.every:
            return steps == of
        return steps % self.every == 0 or steps == of


@dataclass(frozen=True)
class Evaluation:
    """All that one evaluation of the objective gave; tensors are detached."""

    noise_BN: Tensor
    samples: Tensor
    reward_B: Tensor
    """Weighted sum of the rewards that are climbed."""
    penalty_B: Tensor
    """Weighted sum of the penalties that are taken off."""
    rewards: Mapping[str, Tensor]
    monitors: Mapping[str, Tensor]
    penalties: Mapping[str, Tensor]
    log_p: Mapping[str, Tensor]
    """By the regularizer that reports it."""
    gamma_B: Tensor | None
    """Weight of the penalties that hold log P at a target."""
    figures: Mapping[str, Tensor]
    reward_grad_BN: Tensor | None
    """None where only the value was asked for."""
    penalty_grad_BN: Tensor | None
    failures: Mapping[int, str]
    """Why rows could not be evaluated; their values are nan and their gradients 0."""
    network_evaluations: int
    """Forward passes of the denoising network per sample."""
    reward_calls: int
    """Times that optimised rewards were asked about each sample."""

    @property
    def objective_B(self) -> Tensor:
        """Rewards less penalties."""
        return self.reward_B - self.penalty_B

    @property
    def log_p_B(self) -> Tensor | None:
        """The least log P that any regularizer reports; None where none does."""
        return torch.stack(list(self.log_p.values())).amin(0) if self.log_p else None

    def grad_BN(self) -> Tensor:
        """The objective's gradient, unclipped."""
        assert self.reward_grad_BN is not None
        assert self.penalty_grad_BN is not None
        return self.reward_grad_BN - self.penalty_grad_BN
