"""Search by drawing again."""

from __future__ import annotations

from typing import ClassVar

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class BestOfN(OptimizerConfig):
    """Fresh N(0, I) noise at each iteration; the best of all is the run's best. No gradient.

    With n iterations n + 1 samples are seen, the seed's own and n more; as a warm start of n
    iterations, n of them. The noise never leaves N(0, I), so that no regularizer is needed.
    """

    constrained: ClassVar[bool] = False

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; it remembers nothing."""
        from dno_builtin.optimizers._search import BestOf

        return BestOf()
