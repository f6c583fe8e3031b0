"""Gradient ascent with momentum."""

from __future__ import annotations

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class SGD(OptimizerConfig):
    """Gradient ascent with Nesterov momentum, its gradient clipped: what ReNO climbs with.

    Defaults are those of ReNO (Eyring et al., NeurIPS 2024, arXiv 2406.04312), whose rewards are
    weighted until their gradients are longer than the clip. Here that is the reward's own scale:
    its gradient counts in units of its length where the climb starts. With v the velocity and g the
    gradient, cut to length `clip`:

        v <- momentum v + g
        z <- z + lr (g + momentum v)        without nesterov: z + lr v

    A sample's whole noise moves by at most lr clip / (1 - momentum) an iteration: 5 sigmas.
    """

    lr: float = Field(default=5.0, gt=0)
    """Step size."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """How much of the last move each move keeps."""
    nesterov: bool = True
    """Whether the gradient counts as it will once this move is made; it needs momentum."""
    clip: float = Field(default=0.1, ge=0)
    """Greatest length of the gradient of one sample's whole noise; 0: no other limit than the run's
    `max_grad_norm`, and none where `own_scale` is set."""
    own_scale: bool = True
    """Whether each sample's reward gradient is divided by its length at the first step that found
    one, so that the reward's unit is without effect. Penalties are taken off as they are."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state lives where the noise does."""
        from dno_builtin.optimizers._sgd import GradientAscent

        return GradientAscent(self.lr, self.momentum, self.nesterov, self.clip, self.own_scale)
