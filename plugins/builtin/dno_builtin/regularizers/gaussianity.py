"""Gaussianity report: in which respects does noise still look like N(0, I)?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dno.plugin import BuildContext, Regularizer, RegularizerConfig
from dno_builtin.regularizers._figures import Figure


class Gaussianity(RegularizerConfig):
    """Reports p-values of each sample's whole noise under N(0, I) and penalises nothing.

    Twelve figures in [0, 1], each uniform over Gaussian noise. Of all entries:

    - `p_mean`: their mean, two-sided.
    - `p_norm`: the squared norm, two-sided, chi-squared.
    - `p_skewness`: their skewness, two-sided (D'Agostino, Biometrika 57, 1970).
    - `p_kurtosis`: their kurtosis, two-sided (Anscombe and Glynn, Biometrika 70, 1983). Both say
      nothing of mean and variance.
    - `p_ks`: the greatest distance of their distribution function from that of N(0, 1)
      (Kolmogorov 1933, for few entries as in Vrbik 2018).

    Of how they go together:

    - `p_covariance`: the second moments of vectors of 4 consecutive entries. Their Cholesky
      factor's 10 elements are independent and of known law (Bartlett, Proc. R. Soc. Edinburgh 53,
      1933); their squares, as normal scores, add up to chi-squared.
    - `p_channels`: the second moments of the channels of draws of each shape, likewise. Channels
      are what a draw has before the last two axes, or before the last of a draw of two; 1 where
      there is one channel, or too few entries of each.

    And whether these have the same power, by Bartlett's test of equal variances (Proc. R. Soc. A
    160, 1937) with its exact first three cumulants; the norm does not matter to any of them:

    - `p_spectrum`: 8 bands of spatial frequency of all draws' maps. The last two axes of a draw
      are a map; a draw of two axes is a sequence of channels, and one of one is a line.
    - `p_together`: octaves of temporal frequency, of the cosine transform over draws of one shape.
      Draws that move together have too much at frequency 0, or at low ones.
    - `p_draw_norms`: the draws.
    - `p_places`: up to 8 x 8 parts of the maps, and single places inside each part, over draws and
      channels; the less likely of both (Sidak 1967).

    And of each draw `p_ks_draws`: as `p_ks`, the least of all draws (Sidak). One draw that differs
    shows there; what all draws have a little of shows in `p_ks`.

    Noise that is too small for one of them has 1 there. A p-value near 0 is evidence against
    Gaussian noise in that respect; one of 0.03 among thirty is not. The least that is reported is
    1.2e-38.
    """

    weight: Annotated[float, Field(ge=0)] | Literal["auto"] = 0.0
    """Without effect: the penalty is 0 whatever the noise."""

    health: tuple[Figure, ...] = ()
    """Figures that decide which noise is healthy: log P is then the log of the least of them times
    their number (Bonferroni), so that a draw of N(0, I) lies under a floor of -4.6 in at most 1 of
    100 cases, under -9.2 in 1 of 10,000. Without any, no log P is reported."""

    def build(self, ctx: BuildContext) -> Regularizer:
        """The report; it computes wherever the noise is."""
        from dno_builtin.regularizers._gaussianity import GaussianityReport

        return GaussianityReport(tuple(ctx.draws), self.health)
