"""Gaussianity report: in which respects does noise still look like N(0, I)?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dno.plugin import BuildContext, Regularizer, RegularizerConfig


class Gaussianity(RegularizerConfig):
    """Reports p-values of each sample's whole noise under N(0, I) and penalises nothing.

    Four figures in [0, 1], each uniform over Gaussian noise of some hundred entries or more:

    - `p_mean`: the mean of all entries, two-sided.
    - `p_norm`: the squared norm, two-sided, chi-squared.
    - `p_covariance`: the second moments of vectors of 4 consecutive entries. The squared distance
      of their 10 different elements from the identity's, each in its own standard deviation, is
      chi-squared.
    - `p_spectrum`: whether the power of all draws' maps is the same in 8 bands of spatial
      frequency, by Bartlett's test of equal variances (Proc. R. Soc. A 160, 1937). The last two
      axes of a draw are a map; one axis is a line.

    Noise that is too small for one of them has 1 there. A p-value near 0 is evidence against
    Gaussian noise in that respect; one of 0.03 among thirty is not.
    """

    weight: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """Without effect: the penalty is 0 whatever the noise."""

    def build(self, ctx: BuildContext) -> Regularizer:
        """The report; it computes wherever the noise is."""
        from dno_builtin.regularizers._gaussianity import GaussianityReport

        return GaussianityReport(tuple(ctx.draws))
