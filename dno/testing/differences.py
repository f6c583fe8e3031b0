"""Finite differences in single precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TOLERANCE = 0.03
STEPS = (0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Change to the entry of a row that changes most. Too large, the curve shows; too small, rounding
does."""


def disagreement(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Tensor:
    """How far a gradient is from finite differences along several directions: `B` numbers, 0 where
    both are 0.

    Each is a share of the slope along the direction and of a third of the gradient's length, since
    the slope may be 0. It is the worst of all directions, each at the best two neighbouring step
    sizes, so that a wrong slope cannot be met by chance on its way from curvature to rounding; step
    sizes that follow two good ones are not tried. No entry of `x` moves by more than 0.03.

    Args:
        function: `B` values for `B` rows, value i from row i alone.
        x: where, `B x ...`.
        grad: the gradient of the values' sum, like `x`.
    """
    x, grad = x.detach(), grad.detach().double()
    worst_B = torch.zeros(len(x), dtype=torch.float64)
    for direction in _directions(x, grad):
        largest_B = direction.flatten(1).abs().amax(1).clamp(min=1e-300)
        unit = direction / largest_B.view(-1, *[1] * (x.dim() - 1))
        slope_B = (grad * unit).flatten(1).sum(1)
        scale_B = slope_B.abs() + grad.flatten(1).norm(dim=1) * unit.flatten(1).norm(dim=1) / 3
        best_B, last_B = torch.full_like(worst_B, torch.inf), torch.full_like(worst_B, torch.inf)
        for step in STEPS:
            move = (step * unit).to(x.dtype)
            with torch.no_grad():
                found_B = (function(x + move).double() - function(x - move).double()) / (2 * step)
            error_B = ((found_B - slope_B).abs() / scale_B.clamp(min=1e-300)).where(
                scale_B > 0, 0.0
            )
            error_B = error_B.nan_to_num(nan=torch.inf).cpu()
            best_B, last_B = torch.minimum(best_B, torch.maximum(error_B, last_B)), error_B
            if (best_B <= TOLERANCE).all():
                break
        worst_B = torch.maximum(worst_B, best_B)
    return worst_B


def _directions(x: Tensor, grad: Tensor) -> Iterator[Tensor]:
    """Along the gradient, where differences are largest, and elsewhere, where a part may have been
    lost.
    """
    random = torch.Generator().manual_seed(0)
    yield grad
    yield grad * (torch.rand(x.shape, generator=random) < 0.5).to(x.device)
    yield x.double()
    yield torch.ones_like(grad)
    # The same for all of a row's entries but along its first axis: a colour.
    yield torch.randn(x.shape[:2] + (1,) * (x.dim() - 2), generator=random).to(grad).expand_as(grad)
