"""Adam, climbing."""

from __future__ import annotations

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class Adam(OptimizerConfig):
    """Adam (Kingma & Ba, ICLR 2015, arXiv 1412.6980), climbing, without weight decay.

    Each entry moves by up to about `lr` an iteration, whatever the gradient's size.
    """

    lr: float = Field(default=0.01, gt=0)
    """Step size."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay rate of the gradient's running mean."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay rate of the squared gradient's running mean."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the squared gradient's mean."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state lives where the noise does."""
        from dno_builtin.optimizers._adam import AdamAscent

        return AdamAscent(self.lr, self.beta1, self.beta2, self.eps)
