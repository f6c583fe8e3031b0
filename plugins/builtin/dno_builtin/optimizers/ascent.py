"""Normalised ascent, in sigmas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig

LONGEST: Final = 5.0
SHARE: Final = 1 / 8


class Ascent(OptimizerConfig):
    """A step of a given length along the reward's gradient, in each sample's own pace. No momentum.

    The noise is looked at in blocks, each of one temporal and one pair of spatial frequencies (see
    the constraint `shell`), of n_b entries. With g the reward's gradient at z, and |.| over one
    sample's whole noise:

        t_b = g_b - <g_b, z_b> / |z_b|^2 z_b            turns each block and keeps its energy
        u_b = t_b (|t_b|^2 / n_b)^(-equal / 2)
        z  <- z + s u / |u|  -  s p min(1, 1 / |p|)     p: the gradient of the weighted penalties

    The gradient's length and the reward's unit are without effect: for a reward that is linear in
    the noise, a step of s raises it by up to s of its standard deviations. The penalties, where any
    regularizer weighs, pull beside the reward and do not share its length: by their own slope, and
    by no more than a step. A sample's s starts at `step`, is multiplied by 0.7 after an iteration
    that found its reward lower than the one before and by 1.1 after one that found it higher, and
    stays between `step` / 10 and `step`. Where the gradient is 0, noise stays where it is.
    """

    step: Annotated[float | None, Field(gt=0)] = None
    """Length of the longest step, in sigmas: N(0, I) has one in each direction. 5 if not given, and
    an eighth of the root of the number of entries where that is less: a sample's noise is about as
    long as that root."""
    equal: float = Field(default=0.5, ge=0, le=1)
    """How far the blocks are made equal: at 0 they turn as the gradient says, at 1 all turn alike,
    however little the reward depends on them."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state lives where the noise does."""
        from dno_builtin._blocks import Layout
        from dno_builtin.optimizers._ascent import SphereAscent

        layout = Layout(tuple(ctx.draws))
        layout.check_it_turns()
        return SphereAscent(layout, self.step or _usual(ctx.draws), self.equal)


def _usual(draws: Sequence[tuple[int, ...]]) -> float:
    """The longest step for noise of these draws."""
    entries = sum(math.prod(shape) for shape in draws)
    return min(LONGEST, SHARE * math.sqrt(entries)) if entries else LONGEST
