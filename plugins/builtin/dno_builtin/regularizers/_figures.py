"""Names of the p-values that the report of Gaussianity gives."""

from __future__ import annotations

from typing import Literal, get_args

Figure = Literal[
    "p_mean",
    "p_norm",
    "p_covariance",
    "p_spectrum",
    "p_together",
    "p_channels",
    "p_draw_norms",
    "p_places",
    "p_skewness",
    "p_kurtosis",
    "p_ks",
    "p_ks_draws",
]

FIGURES: tuple[Figure, ...] = get_args(Figure)
