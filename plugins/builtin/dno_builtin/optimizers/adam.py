"""Adam, climbing."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class Adam(OptimizerConfig):
    """Adam (Kingma & Ba, ICLR 2015, arXiv 1412.6980), climbing, without weight decay.

    Each entry moves by up to about `lr` an iteration, whatever the gradient's size. By default the
    gradient is that of the whole objective, rewards less penalties, clipped to the run's
    `max_grad_norm`: the rule that Direct Noise Optimization was published with. On a coarser grid
    with so many times fewer draws, `lr` is larger by the root of that factor.
    """

    lr: float = Field(default=0.01, gt=0)
    """Step size."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the gradient's running mean."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the squared gradient's running mean."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the squared gradient's mean."""
    decoupled: bool = False
    """Whether the means are those of the rewards' gradient alone, unclipped, and the penalties'
    gradient p moves noise directly, by -lr p, as AdamW's decay does (Loshchilov & Hutter, ICLR
    2019, arXiv 1711.05101). Otherwise the penalty of ordinary noise, whose gradient is often the
    larger one, fills the means and makes each later step smaller."""

    def on_coarser(self, factor: float) -> Self:
        """Larger steps where there are fewer entries: a step's length is as their number's root."""
        return self.model_copy(update={"lr": self.lr * math.sqrt(factor)})

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state lives where the noise does."""
        from dno_builtin.optimizers._adam import AdamAscent

        return AdamAscent(self.lr, self.beta1, self.beta2, self.eps, self.decoupled)
