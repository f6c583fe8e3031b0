"""The `curve` observer's options."""

from __future__ import annotations

from dno.plugin import BuildContext, ObserverConfig


class Curve(ObserverConfig):
    """One picture of the whole run: reward and log P by iteration, beside the first and the best
    sample.

    Written as `curve.png` into the run folder when the run ends; a run without a folder gets none.
    """

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        from dno_builtin.observers._curve import CurveObserver

        return CurveObserver()
