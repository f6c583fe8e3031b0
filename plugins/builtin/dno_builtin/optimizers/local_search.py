"""Search near the best so far."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class LocalSearch(OptimizerConfig):
    """A proposal near the best noise so far at each iteration, kept if it is better. No gradient.

    The proposal is sqrt(1 - beta^2) z + beta xi with xi from N(0, I): where z is Gaussian noise of
    variance one, so is it, however often it is made (the preconditioned Crank-Nicolson proposal,
    Cotter et al. 2013, arXiv 1202.0709).
    """

    constrained: ClassVar[bool] = False

    beta: float = Field(default=0.3, gt=0, le=1)
    """How much of a proposal is new: 1 is `best-of-n`."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state is the best noise so far and its value."""
        from dno_builtin.optimizers._search import Nearby

        return Nearby(self.beta)
