"""Permutation regularizer: how probable is it that noise, in any order, is Gaussian?"""

from __future__ import annotations

from pydantic import Field

from dno.plugin import BuildContext, Regularizer, RegularizerConfig


class Permutation(RegularizerConfig):
    """Log-probability that the noise is Gaussian, over random permutations of its entries.

    Tang et al. (ICML 2025, arXiv 2405.18881), section 3: the entries of one sample's noise are cut
    into vectors of length k, and the probabilities p1 and p2 that Gaussian vectors have a mean, and
    a covariance, as far off as these are bounded by concentration inequalities. The penalty is
    minus the mean over permutations of log p1 + log p2: 0 for typical noise, and large once noise
    has left the shell that N(0, I) lives on. It reports two figures, natural logs in (-inf, 0]:
    `log_p1` and `log_p2`, the least over permutations of each; its log P is the lesser of the two.
    """

    permutations: int = Field(default=100, ge=1, le=10_000)
    """Random permutations of the entries at each evaluation (b)."""
    vector_length: int = Field(default=4, ge=1, le=64)
    """Entries in each of the vectors whose mean and covariance are tested (k)."""
    unpermuted: bool = True
    """Whether the entries in their own order count too, with the weight of all permutations
    together; only they show neighbouring entries that move as one."""

    def build(self, ctx: BuildContext) -> Regularizer:
        """The regularizer; it computes wherever the noise is.

        Called with noise of fewer than `vector_length` entries a sample it raises `ConfigError`.
        """
        from dno_builtin.regularizers._permutation import PermutationPenalty

        return PermutationPenalty(
            permutations=self.permutations,
            vector_length=self.vector_length,
            unpermuted=self.unpermuted,
        )
