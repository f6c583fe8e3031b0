"""Gradient ascent with momentum."""

from __future__ import annotations

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class SGD(OptimizerConfig):
    """Gradient ascent with momentum.

    With gradients clipped to norm g, a sample's whole noise moves by at most lr * g / (1 -
    momentum) an iteration.
    """

    lr: float = Field(default=0.1, gt=0)
    """Step size."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """How much of the last move each move keeps."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state lives where the noise does."""
        from dno_builtin.optimizers._sgd import GradientAscent

        return GradientAscent(self.lr, self.momentum)
