"""Finite differences in single precision."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

STEPS = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Root mean square of the change to a row's entries. Too large, the curve shows; too small, rounding does."""
TOLERANCE = 0.03


def disagreement(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Tensor:
    """How far a gradient is from finite differences, as a share of the slope: `B` numbers, 0 where both are 0.

    Row i of `x` is moved along row i of `grad`, then along half of its entries taken by lot; so the differences are as
    large as can be. The answer is the worse of the two, each at the best pair of neighbouring step sizes, so that a
    wrong slope cannot be met by chance on its way from curvature to rounding.

    Args:
        function: `B` values for `B` rows, value i from row i alone.
        x: where, `B x ...`.
        grad: the gradient of the values' sum, like `x`.
    """
    half = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device) < 0.5
    worst_B = torch.zeros(len(x), dtype=torch.float64)
    for direction in (grad, grad * half):
        flat = direction.detach().double().flatten(1)
        length_B = flat.norm(dim=1)
        unit = (flat / length_B.clamp(min=1e-300)[:, None]).view_as(direction)
        slope_B = (grad.detach().double() * unit).flatten(1).sum(1)
        errors = []
        for step in STEPS:
            move = (step * flat.shape[1] ** 0.5 * unit).to(x.dtype)
            with torch.no_grad():
                ahead_B, behind_B = function(x.detach() + move).double(), function(x.detach() - move).double()
            found_B = (ahead_B - behind_B) / (2 * step * flat.shape[1] ** 0.5)
            errors.append((found_B - slope_B).abs() / slope_B.abs().clamp(min=1e-300))
        pairs = torch.stack([torch.maximum(a, b) for a, b in pairwise(errors)])
        error_B = pairs.amin(0).where(length_B > 0, 0.0)
        worst_B = torch.maximum(worst_B, error_B.cpu())
    return worst_B
