"""Whiteness regularizer: do neighbouring entries of a draw move together?"""

from __future__ import annotations

from dno.plugin import BuildContext, ConfigError, Regularizer, RegularizerConfig


class Whiteness(RegularizerConfig):
    """Correlation between neighbours in each draw's maps, at many scales.

    The last two axes of a draw are a map, those before them channels; a draw of one axis is a line.
    Maps are also looked at in half their size, a quarter and so on, as sums over blocks scaled so
    that Gaussian noise stays N(0, 1), as long as their sides are at least 4 and a draw has at least
    128 entries. At every scale, products of neighbours (across, down, on both diagonals, around the
    edges) are summed over map and channels. Under Gaussian noise the covariance of these sums is
    known; with it they are made independent, of variance 1. The sum of their squares over all
    draws, divided by a number a little above 1 that gives it the variance of one, is a chi-squared
    variable Q with D degrees of freedom. The penalty is minus the log of Chernoff's bound on the
    chance of so large a Q, (Q - D - D log(Q / D)) / 2 where Q > D and 0 elsewhere: 0.25 on average
    over Gaussian noise, and growing without bound as neighbours become alike, or opposite. Its log
    P is the natural log of the p-value of Q, by the approximation of Wilson and Hilferty. Sums of
    squared autocorrelations at many resolutions are from StyleGAN2's projection of images (Karras
    et al., CVPR 2020, arXiv 1912.04958, appendix D).
    """

    def build(self, ctx: BuildContext) -> Regularizer:
        """The regularizer; it computes wherever the noise is.

        Raises:
            ConfigError: no draw is large enough.
        """
        from dno_builtin.regularizers._whiteness import ENTRIES, SIDE, WhitenessPenalty, looks_at

        if ctx.draws and not looks_at(ctx.draws):
            shapes = ", ".join("x".join(map(str, shape)) for shape in sorted(set(ctx.draws)))
            raise ConfigError(
                f"the whiteness regularizer needs draws of at least {ENTRIES} entries, in maps "
                "with a side of at least "
                f"{SIDE}, but these are {shapes}; choose another regularizer"
            )
        return WhitenessPenalty(tuple(ctx.draws))
