"""Gradients that a float16 network can carry: scaled up as they enter it, and down as they leave.

float16 has no number below 6e-8, and few below 6e-5; the gradient of a picture's score for one
entry of a latent is smaller than that. Each row is scaled by a power of two of its own, so that
nothing is rounded, that no row depends on another, and that nothing has to be remembered between
steps, unlike the growing and shrinking scales that training uses (Micikevicius et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .samplers._diffusers.nests import each, tensors

_LEAST_EXPONENT = -100
"""Gradients below 2 to that power are left as small as they are."""


class Lift:
    """One call of a network, and the scale that its gradients have while they are inside.

    What is given to `enter` and `leave` is in float32 or better; the network is in between.
    """

    def __init__(self) -> None:
        self._rows: int | None = None
        self._scale: Tensor | None = None

    def enter(self, value: Any) -> Any:
        """The same nest of arguments, whose gradients are scaled down again."""
        inputs = [tensor for tensor in tensors(value) if tensor.requires_grad]
        self._rows = _common_rows(inputs)
        if not inputs:
            return value
        return _replaced(value, inputs, _enter(self, *inputs))

    def leave(self, value: Any) -> Any:
        """The same nest of answers, whose gradients are scaled up."""
        answers = [tensor for tensor in tensors(value) if tensor.requires_grad]
        if _common_rows(answers) != self._rows:
            self._rows = None
        if not answers:
            return value
        return _replaced(value, answers, _leave(self, *answers))

    def up(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the answers, the largest entry of each row from one to two."""
        if self._rows is None:
            largest = torch.stack([_finite(grad).abs().amax() for grad in grads]).amax()
        else:
            rows = [_finite(grad).abs().reshape(self._rows, -1).amax(dim=1) for grad in grads]
            largest = torch.stack(rows).amax(dim=0)
        exponent = largest.log2().floor().clamp(min=_LEAST_EXPONENT)
        self._scale = torch.exp2(-exponent)
        return [grad * self._of(grad) for grad in grads]

    def down(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the arguments, as they are."""
        return [grad / self._of(grad) for grad in grads]

    def _of(self, grad: Tensor) -> Tensor:
        assert self._scale is not None
        if self._rows is None:
            return self._scale
        return self._scale.reshape(-1, *[1] * (grad.ndim - 1))


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lift: Lift, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.lift = lift
        return tuple(tensor.view_as(tensor) for tensor in inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *ctx.lift.down(grads)


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lift: Lift, *answers: Tensor) -> tuple[Tensor, ...]:
        ctx.lift = lift
        return tuple(tensor.view_as(tensor) for tensor in answers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *ctx.lift.up(grads)


_enter: Callable[..., tuple[Tensor, ...]] = _Enter.apply
_leave: Callable[..., tuple[Tensor, ...]] = _Leave.apply


def _common_rows(given: Sequence[Tensor]) -> int | None:
    """Rows of all the tensors; None where they have not as many."""
    rows = {tensor.shape[:1] for tensor in given}
    if len(rows) != 1:
        return None
    (shape,) = rows
    return shape[0] if shape else None


def _finite(grad: Tensor) -> Tensor:
    """The gradient where it is a number: a sick row must not decide for the others."""
    return torch.where(grad.isfinite(), grad, 0.0)


def _replaced(value: Any, old: Sequence[Tensor], new: Sequence[Tensor]) -> Any:
    """The same nest with some of its tensors replaced."""
    by_identity = {id(tensor): made for tensor, made in zip(old, new, strict=True)}
    return each(value, lambda tensor: by_identity.get(id(tensor), tensor))
