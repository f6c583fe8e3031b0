"""One rehearsed call of a pipeline, watched: what is drawn, and what reaches the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError

from .draws import Draws
from .ledger import Ledger
from .modules import Function
from .nests import each, tensors


class SharedDrawError(ConfigError):
    """A draw is not one of its own for each of several samples."""


class Watch:
    """One rehearsed call: what it has drawn and asked of its networks so far.

    Args:
        name: the pipeline's class, for messages.
        items: rows that each draw must have; where there is but one, all of a draw is its own.
        moves: whether each draw moves; None: all do.
        ledger: what each network answers to each form of its arguments.
    """

    def __init__(
        self,
        name: str,
        items: int,
        moves: Sequence[bool] | None,
        ledger: Ledger,
    ) -> None:
        self._name = name
        self._items = items
        self._moves = moves
        self._ledger = ledger
        self._generator = torch.Generator().manual_seed(0)

        self.draws = Draws()
        """To be active during the call; tells whether anything drew but for the tape."""
        self.leaves: list[Tensor] = []
        """The draws; those that move require a gradient."""
        self.step: list[int] = []
        """Steps that came before each draw."""
        self.steps = 0
        """Steps that the scheduler has taken."""
        self.before: int | None = None
        """Draws that came before the first step; None where there was no step yet."""
        self.depends: list[bool] = []
        """Whether each call of a network or decoder depended on a draw that moves."""
        self.calls: list[tuple[Any, bool]] = []
        """The form of each of those calls that did, and whether it decodes."""
        self.rows = 0
        """Rows that went through the denoising networks in those calls."""

    def stepping(self) -> None:
        """Note that the scheduler begins a step."""
        if self.before is None:
            self.before = len(self.leaves)

    def stepped(self) -> None:
        """Note that the scheduler has taken a step."""
        self.steps += 1

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Gaussian noise for the next draw, a leaf of its own.

        Raises:
            SharedDrawError: it is not a draw of its own for each sample.
        """
        if self._items > 1 and shape[:1] != (self._items,):
            raise SharedDrawError(
                f"{self._name} draws noise of shape {shape} for {self._items} samples: not "
                "a draw of its own for each, so that they cannot be optimised side by side",
                at="model",
            )

        with self.draws.aside():
            leaf = torch.randn(shape, generator=self._generator)
        leaf.requires_grad_(self._next_moves())
        self.leaves.append(leaf)
        self.step.append(self.steps)
        return leaf

    def _next_moves(self) -> bool:
        if self._moves is None:
            return True
        index = len(self.leaves)
        return index < len(self._moves) and self._moves[index]

    def answer(self, function: Function, decodes: bool, args: Any, kwargs: Any) -> Any:
        """Answer for a network or decoder."""
        inputs = [tensor for tensor in tensors((args, kwargs)) if tensor.requires_grad]
        self.depends.append(bool(inputs))
        if inputs and not decodes:
            self.rows += _rows((*args, *kwargs.values()))

        form, known = self._ledger.answer(function, args, kwargs)
        if not inputs:
            return each(known, Tensor.clone)
        self.calls.append((form, decodes))

        def stand_in(like: Tensor) -> Tensor:
            return _stand_in(like, inputs, self._generator)

        # Out of the tape's sight: its numbers are not draws of the sampler.
        with torch._C.DisableTorchFunction(), self.draws.aside():
            return each(known, stand_in)

    def acting_on(self, images: Tensor) -> list[bool]:
        """Whether each draw can act on the images."""
        weights = torch.rand(images.shape, generator=self._generator) + 0.5
        with torch.enable_grad():
            total = (images * weights.to(images)).sum()

        moving = [leaf for leaf in self.leaves if leaf.requires_grad]
        slopes = iter(torch.autograd.grad(total, moving, allow_unused=True))
        acts = []
        for leaf in self.leaves:
            slope = None
            if leaf.requires_grad:
                slope = next(slopes)
            # NaN counts as acting: what is wrong with such a model is for the image to show.
            acts.append(slope is not None and bool((slope != 0).any()))
        return acts


def _rows(arguments: Sequence[Any]) -> int:
    """Rows of a network's batch: of its first tensor that depends on the noise, or of a list."""
    for value in arguments:
        if not any(tensor.requires_grad for tensor in tensors(value)):
            continue
        if isinstance(value, (list, tuple)):
            return len(value)
        return len(next(tensors(value)))
    return 0


def _stand_in(like: Tensor, inputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Fixed numbers of that form, each of which seems to depend a little on every entry of inputs.

    Args:
        like: an answer of the network, for its shape, dtype and device.
        inputs: what went into the network and has a gradient.
        generator: where the numbers come from.
    """
    if not like.is_floating_point():
        return like

    def random(shape: Sequence[int], low: float) -> Tensor:
        return torch.rand(shape, generator=generator) + low

    # Positive weights, so that nothing cancels.
    sums = []
    for tensor in inputs:
        weights = random(tensor.shape, 0.5).to(tensor)
        sums.append((tensor * weights).sum() / math.sqrt(tensor.numel()))
    seen = torch.stack(sums).sum()

    # A map whose norm is about a hundredth, so that gradients through a thousand of them neither
    # overflow nor vanish.
    slope = random(like.shape, 0.5).to(like) * (0.01 / math.sqrt(like.numel()))

    # Numbers from -2 to 2, so that an image is clamped in part only.
    values = 4 * random(like.shape, -0.5).to(like)
    return values + slope * (seen - seen.detach())
