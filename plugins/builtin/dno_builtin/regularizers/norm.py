"""Norm regularizer: is the noise as long as Gaussian noise is?"""

from __future__ import annotations

from dno.plugin import BuildContext, Regularizer, RegularizerConfig


class Norm(RegularizerConfig):
    """Log-density of the norm of each sample's whole noise, under its maximum.

    The norm r of N Gaussian entries follows the chi distribution with N degrees of freedom, whose
    log-density is (N - 1) log r - r^2 / 2 and a constant, greatest at r^2 = N - 1. The penalty is
    how far it lies under that: 0 there, 0.5 on average over Gaussian noise, and near there about
    the squared distance of r. It holds the norm alone: noise of the right length may still be far
    from Gaussian. The same prior as in Samuel et al. (NeurIPS 2023, arXiv 2306.08687) and in ReNO,
    Eyring et al. (NeurIPS 2024, arXiv 2406.04312). Its log P is the natural log of the two-sided
    p-value of r^2 under the chi-squared distribution, by the approximation of Wilson and Hilferty.
    """

    def build(self, ctx: BuildContext) -> Regularizer:
        """The regularizer; it computes wherever the noise is."""
        from dno_builtin.regularizers._norm import NormPenalty

        return NormPenalty()
