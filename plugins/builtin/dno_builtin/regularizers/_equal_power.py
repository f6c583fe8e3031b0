"""Bartlett's test that several parts of the noise have the same power, for parts of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dno_builtin.regularizers._tails import log_gamma_upper


@dataclass(frozen=True)
class Spread:
    """How far the powers of parts lie apart, and what to expect of that under white noise.

    Bartlett's statistic (Proc. R. Soc. A 160, 1937) of parts with n_i entries and mean squares s_i,
    n and s those of all: B = n log s - sum n_i log s_i. It does not depend on s. Of a chi-squared
    variable X with m degrees of freedom the cumulants of log X are psi(m / 2) + log 2, psi'(m / 2),
    psi''(m / 2); the total is independent of the shares; so the cumulants of B are exactly

        k1 = f(n) - sum f(n_i), f(m) = m (psi(m / 2) - log(m / 2))
        k2 = sum n_i^2 psi'(n_i / 2) - n^2 psi'(n / 2)
        k3 = n^3 psi''(n / 2) - sum n_i^3 psi''(n_i / 2)

    and its distribution is nearly the gamma distribution, moved, with these three (Pearson's type
    III). With many entries in each of g parts that is chi-squared with g - 1 degrees of freedom.
    """

    statistic: Tensor
    mean: Tensor
    variance: Tensor
    third: Tensor
    """The third cumulant."""

    @classmethod
    def of(cls, power: Tensor, count: Tensor) -> Spread:
        """That of parts with these sums of squares over so many entries."""
        total = count.sum()
        # nan where there is no noise at all.
        relative = (power / count) / (power.sum() / total)

        return cls(
            statistic=-(count * relative.log()).sum(),
            mean=_mean(total) - _mean(count).sum(),
            variance=_variance(count).sum() - _variance(total),
            third=_third(total) - _third(count).sum(),
        )

    def within(self, coarser: Spread) -> Spread:
        """What lies inside the parts of a coarser division: independent of what lies between them,
        which is the coarser's own.
        """
        return Spread(
            self.statistic - coarser.statistic,
            self.mean - coarser.mean,
            self.variance - coarser.variance,
            self.third - coarser.third,
        )

    def log_p(self) -> Tensor:
        """Natural log of the probability of parts that lie so far apart."""
        scale = self.third / (2 * self.variance)
        shape = self.variance / scale.square()
        # No noise in a part is an infinite distance, and so is none anywhere.
        statistic = self.statistic.nan_to_num(float("inf"))
        return log_gamma_upper((statistic - self.mean) / scale + shape, shape)


# What a part of m entries adds to the cumulants: those of m log X.


def _mean(m: Tensor) -> Tensor:
    """Less m log m."""
    log_mean: Tensor = torch.special.digamma(m / 2)
    return m * (log_mean - (m / 2).log())


def _variance(m: Tensor) -> Tensor:
    trigamma: Tensor = torch.special.polygamma(1, m / 2)
    return m.square() * trigamma


def _third(m: Tensor) -> Tensor:
    tetragamma: Tensor = torch.special.polygamma(2, m / 2)
    return m**3 * tetragamma
