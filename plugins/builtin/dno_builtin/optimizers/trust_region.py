"""Search in boxes around the best so far."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dno.plugin import BuildContext, ConfigError, Optimizer, OptimizerConfig


class TrustRegion(OptimizerConfig):
    """Boxes around the best noises so far, wider after successes and narrower after failures. No
    gradient.

    Trust-region search (Schweiger et al. 2026, arXiv 2603.14504), one proposal an iteration. The
    first `warm_up` iterations look at fresh N(0, I) noise, the seed's own among it. From then on
    the `regions` best noises seen so far are centres, and take turns. With c the centre and L the
    length of its box, a proposal moves each entry with a chance p, which is itself drawn for each
    proposal between `least_moved` and `most_moved`:

        z = (c + u) / sqrt(1 + L^2 / 12)    u uniform in [-L/2, L/2], for an entry that moves
        z = c                               for one that stays

    `patience` proposals in a row that are better than their centre make its box `factor` times as
    long, as many that are not make it as much shorter, within `shortest` and `longest`. A box that
    fails at its shortest begins again at `length`. The best of all are then the centres anew;
    boxes belong to their ranks.

    The division is not in the publication, whose noise gains L^2 / 12 of variance with each success
    in every entry that moves. With it the variance of entries stays one, and their law nearly
    Gaussian: uniform steps, however many, leave an excess kurtosis between 0 and -1.2 v / (2 + v),
    v = L^2 / 12, which is -0.03 at a length of 0.8. `keep_variance = false` searches as published.
    Instead of a Sobol sequence, which the publication's code has for up to 21,201 entries, entries
    are independent.
    """

    constrained: ClassVar[bool] = False

    regions: int = Field(default=4, ge=1)
    """Boxes searched in turn; a run's state holds one noise for each."""
    warm_up: int = Field(default=8, ge=1)
    """Noises looked at before the first box, the seed's own and fresh ones."""
    length: float = Field(default=0.8, gt=0)
    """Length of a box at first, in sigmas."""
    shortest: float = Field(default=0.05, gt=0)
    """Least length."""
    longest: float = Field(default=2.4, gt=0)
    """Greatest length."""
    factor: float = Field(default=1.5, gt=1)
    """What a length is multiplied by after successes, and divided by after failures."""
    patience: int = Field(default=3, ge=1)
    """Successes in a row, and failures in a row, that change a length."""
    least_moved: float = Field(default=0.1, gt=0, le=1)
    """Least share of the entries that a proposal moves."""
    most_moved: float = Field(default=0.9, gt=0, le=1)
    """Greatest share."""
    keep_variance: bool = True
    """Whether entries that move are scaled back to a variance of one."""

    def check(self) -> None:
        """Refuse limits in the wrong order."""
        if not self.shortest <= self.length <= self.longest:
            raise ConfigError(
                f"must be between shortest ({self.shortest:g}) and longest ({self.longest:g}), "
                f"got {self.length:g}",
                at="length",
            )
        if self.least_moved > self.most_moved:
            raise ConfigError(
                f"must be at most most_moved ({self.most_moved:g}), got {self.least_moved:g}",
                at="least_moved",
            )

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state is the centres and their boxes."""
        from dno_builtin.optimizers._trust_region import Boxes, BoxSearch

        boxes = Boxes(self.length, self.shortest, self.longest, self.factor, self.patience)
        return BoxSearch(
            regions=self.regions,
            warm_up=self.warm_up,
            boxes=boxes,
            least_moved=self.least_moved,
            most_moved=self.most_moved,
            keep_variance=self.keep_variance,
        )
