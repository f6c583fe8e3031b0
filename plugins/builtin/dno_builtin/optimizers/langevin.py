"""Sampling in place of climbing."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class Langevin(OptimizerConfig):
    """Langevin steps towards the density proportional to N(z; 0, I) exp(objective / temperature).

    With no reward, N(0, I) is kept exactly, whatever the step; with one, noise settles where reward
    and prior balance.
    """

    constrained: ClassVar[bool] = False

    step_size: float = Field(default=0.01, gt=0)
    """Time that one step covers: the share of the old noise that is forgotten is about half of it
    in amplitude."""
    temperature: float = Field(default=1e-4, gt=0)
    """What the objective is divided by: the lower, the further from the prior reward may pull. A
    gradient of norm g pulls the noise's mean g / temperature away from 0; the run's `max_grad_norm`
    bounds g."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; it remembers nothing."""
        from dno_builtin.optimizers._langevin import LangevinSteps

        return LangevinSteps(self.step_size, self.temperature)
