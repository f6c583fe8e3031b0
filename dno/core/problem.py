"""What one run climbs: weighted rewards less weighted penalties of each sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dno.core.asking import Asking
from dno.core.gradients import GradientConfig
from dno.core.noise import evaluation_generators
from dno.core.terms import ConstraintTerm, Evaluation, RegularizerTerm, RewardTerm, Term
from dno.protocols import NoiseMap, Regularizer, Reward


@dataclass(frozen=True)
class Problem:
    """What one run climbs: sum_i w_i reward_i(M(z), c) - sum_j v_j penalty_j(z) of each sample."""

    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    sample: NoiseMap
    """The sampler, bound to these items."""
    rewards: Sequence[RewardTerm]
    monitors: Sequence[Term[Reward]] = ()
    """Rewards that are watched and never climbed."""
    regularizers: Sequence[RegularizerTerm] = ()
    reports: Sequence[Term[Regularizer]] = ()
    """Regularizers whose figures are reported and whose penalties count for nothing."""
    constraints: Sequence[ConstraintTerm] = ()
    """What puts noise back after steps, one after the other."""
    start_BN: Tensor | None = None
    """Where to start; None: at the sampler's own noise."""
    copies: Callable[[int], NoiseMap] | None = None
    """The sampler bound to so many copies of the items, one after the other, for perturbed copies
    side by side; without it they are computed one by one."""
    rows: Callable[[Sequence[int]], NoiseMap] | None = None
    """The sampler bound to items at these places alone; without it no sample is ever asked without
    the others."""
    numbers: Sequence[int] | None = None
    """The items' numbers in the run, where they are a part of it."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """How to climb rewards that have no gradient."""
    max_grad_norm: float = 1.0
    """Bound of the gradient's norm over one sample's whole noise."""
    log_p_floor: float = -math.inf
    """log P under which an evaluation cannot be the best; -inf lets any be, whatever `p_floor`."""
    p_floor: float = 0.0
    """Under this, the least of the free p-values times their number is no ordinary noise either."""

    def number(self, row: int) -> int:
        """What messages call a sample."""
        return row if self.numbers is None else self.numbers[row]

    @property
    def optimised(self) -> Sequence[RewardTerm]:
        """The rewards that are climbed."""
        return [reward for reward in self.rewards if reward.weight]

    def evaluate(
        self,
        noise_BN: Tensor,
        evaluation: int,
        *,
        with_grad: bool,
        gamma_B: Tensor | None = None,
        passes_over: bool = False,
    ) -> Evaluation:
        """The objective at this noise, `B x N`.

        All randomness is a function of seed and `evaluation`. Gradients are those of the sum over
        the batch; samples do not see each other, so row i is the gradient of sample i.

        Args:
            noise_BN: where to evaluate.
            evaluation: its number.
            with_grad: whether to compute the gradients.
            gamma_B: weight of the regularizers that hold log P at a target; None: 1.
            passes_over: whether an evaluation of which no sample is left is an answer like others.

        Raises:
            RunError: a plugin returned a wrong shape or type; or no sample could be evaluated, and
                that is not to be passed over.
        """
        seeds = [seed for _, seed in self.items]
        generators = evaluation_generators(seeds, evaluation)
        with torch.set_grad_enabled(with_grad):
            # Its own, since the optimizer may go on to write into what it asked with.
            leaf_BN = noise_BN.detach().clone().requires_grad_(with_grad)
            asked = Asking(
                self,
                leaf_BN,
                generators,
                with_grad=with_grad,
                gamma_B=gamma_B,
                passes_over=passes_over,
                first=not evaluation,
            )
            asked.draw()

            for reward in self.rewards:
                asked.ask_reward(reward)
            if with_grad:
                for reward in self.optimised:
                    if not reward.differentiable:
                        asked.estimate_ascent(reward)
            for monitor in self.monitors:
                asked.ask_monitor(monitor)

            for regularizer in self.regularizers:
                asked.ask_regularizer(regularizer)
            for report in self.reports:
                asked.ask_report(report)
        return asked.evaluation()

    def pull(self, noise_BN: Tensor, towards: Tensor) -> tuple[Tensor, int]:
        """The gradient in the noise, `B x N`, of the sum of samples times `towards`; no reward is
        asked.

        Returns:
            It, 0 in rows where it is not finite, and the evaluations of the network that it took.

        Raises:
            RunError: the sampler failed, or its samples are cut off from the noise.
        """
        leaf_BN = noise_BN.detach().clone().requires_grad_()
        asked = Asking(
            self, leaf_BN, (), with_grad=False, with_pull=True, gamma_B=None, passes_over=True
        )
        asked.draw()
        return asked.pull(towards), asked.network_evaluations

    def clipped(self, grad_BN: Tensor) -> tuple[Tensor, Tensor]:
        """A gradient, its rows scaled down to `max_grad_norm`, and their norms before."""
        norm_B = torch.linalg.vector_norm(grad_BN, dim=1)
        tiny = torch.finfo(norm_B.dtype).tiny
        factor_B = (self.max_grad_norm / norm_B.clamp_min(tiny)).clamp(max=1)
        return grad_BN * factor_B[:, None], norm_B

    @property
    def kept(self) -> frozenset[str]:
        """P-values that the constraints keep as they were at the start, which prove nothing."""
        if not self.constraints:
            return frozenset()
        # The last alone, since it may undo what those before it kept.
        return frozenset(getattr(self.constraints[-1].call, "keeps", ()))

    def healthy_B(self, evaluation: Evaluation) -> Tensor:
        """Which samples may be a run's best: their noise could have been drawn, and was evaluated.

        log P is above its floor, and so are the free p-values, by Bonferroni's bound.
        """
        healthy_B = torch.ones_like(evaluation.reward_B, dtype=torch.bool)
        healthy_B[list(evaluation.failures)] = False
        if self.log_p_floor == -math.inf:
            return healthy_B

        log_p_B = evaluation.log_p_B
        if log_p_B is not None:
            healthy_B &= log_p_B >= self.log_p_floor
        p_B = self._least_p_B(evaluation)
        if p_B is not None:
            healthy_B &= p_B >= self.p_floor
        return healthy_B

    def _least_p_B(self, evaluation: Evaluation) -> Tensor | None:
        """The least free p-value of each sample times their number; None where there is none."""
        # What two regularizers report by one name has the regularizer's before it.
        own = {name: name.rpartition(".")[2] for name in evaluation.figures}
        free = [
            evaluation.figures[name]
            for name, figure in own.items()
            if figure.startswith("p_") and figure not in self.kept
        ]
        if not free:
            return None
        return torch.stack(free).amin(0) * len(free)

    def score_B(self, evaluation: Evaluation) -> Tensor:
        """What candidates are compared by: the weighted rewards, -inf for one that is not healthy.

        Penalties do not count, except where they are all that there is to climb.
        """
        scored_B = evaluation.reward_B if self.optimised else -evaluation.penalty_B
        return scored_B.where(self.healthy_B(evaluation), -math.inf)
