"""Search along a model of the reward that is learnt on the way."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dno.plugin import BuildContext, Optimizer, OptimizerConfig


class Surrogate(OptimizerConfig):
    """Search around the best so far, and up a line fitted to all that was seen.

    For rewards without a gradient: it looks at scores alone, and goes back through the sampler,
    which has one. The first iteration looks at `warm_up` noises, the seed's own and fresh ones.
    Each one after that looks at a step from the best noise z so far and at `samples` proposals near
    it, sqrt(1 - size^2) z + size xi with xi from N(0, I), as `local-search` does. Whatever is
    better becomes z. The last `memory` samples x_i that were asked about, and their scores r_i, are
    remembered, and a line is fitted to them by ridge regression, in its dual form, with
    d_i = x_i - mean(x) and K_ij = d_i . d_j:

        a = (K + ridge mean(diag K) I)^-1 (r - mean(r))
        w = sum_i a_i d_i                                   the reward's slope in the samples
        g = (dM/dz)^T w                                     its slope in the noise

    The step goes along g as that of `ascent` does, 1.3 times as long after one that was better and
    0.7 times after one that was not, between a tenth and twice `step`. With one iteration's memory
    and a large ridge, g is the estimate hybrid-2 with the baseline of the copies (see
    `dno.core.gradients`); here no reward call is forgotten.

    Noise stays Gaussian as drawn: proposals have the law of z, and after a step the energy of each
    block, the norm of each draw and the covariance of the channels are put back to what they were
    in z (see the constraint `shell`), which leaves the directions free.

    An iteration asks the reward 1 + `samples` times, the first `warm_up` times, and draws as many
    samples, and one more with its gradient, about which no reward is asked. Noise that is not
    healthy teaches nothing. Where all scores are equal, a proposal takes the step's place.
    """

    constrained: ClassVar[bool] = False

    warm_up: int = Field(default=8, ge=1)
    """Noises looked at first, the seed's own among them."""
    samples: int = Field(default=2, ge=0)
    """Proposals at each iteration, besides the step."""
    size: float = Field(default=0.6, gt=0, le=1)
    """How much of a proposal is new: 1 is a fresh draw."""
    step: float = Field(default=8.0, gt=0)
    """Length of the first step, in sigmas."""
    equal: float = Field(default=0.5, ge=0, le=1)
    """How far the blocks of noise are made equal in a step; see `ascent`."""
    memory: int = Field(default=48, ge=2)
    """Samples remembered, the last ones; a run's state holds them."""
    ridge: float = Field(default=0.1, gt=0)
    """How far the fit is kept from following each score, in units of the mean of K's diagonal."""

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state is what it remembers, where the samples are."""
        from dno_builtin._blocks import Layout
        from dno_builtin.constraints._shell import ShellRetraction
        from dno_builtin.optimizers._ascent import SphereAscent
        from dno_builtin.optimizers._surrogate import LinearModel, SurrogateSearch

        layout = Layout(tuple(ctx.draws))
        return SurrogateSearch(
            warm_up=self.warm_up,
            proposals=self.samples,
            size=self.size,
            step_size=self.step,
            memory=self.memory,
            model=LinearModel(self.ridge),
            rule=SphereAscent(layout, self.step, self.equal),
            shell=ShellRetraction(layout, reach=0.0, rounds=3),
        )
