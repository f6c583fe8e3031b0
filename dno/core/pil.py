"""Rewards that look at PIL pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dno.errors import RunError
from dno.media import pictures

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PilReward:
    """A function of PIL pictures as a reward; `pil_reward` makes one."""

    function: Callable[..., Any]
    takes_prompts: bool
    differentiable: ClassVar[bool] = False

    @property
    def __name__(self) -> str:
        """What records call it."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores of `B x 3 x H x W` images in [0, 1], on their device.

        Raises:
            RunError: the function gives something else than a number for each picture.
        """
        import torch

        shown = pictures(images)
        scores = self.function(shown, list(prompts)) if self.takes_prompts else self.function(shown)
        found = torch.as_tensor(scores, dtype=torch.float32, device=images.device).flatten()
        if len(found) != len(images):
            raise RunError(
                f"{self.__name__} gave {len(found)} scores for {len(images)} pictures; it should "
                "give one for each"
            )
        return found


def pil_reward(function: Callable[..., Any]) -> PilReward:
    """A reward made of a function of PIL pictures, as most scorers are written.

        >>> reward = dno.pil_reward(lambda pictures: [p.size[0] for p in pictures])
        >>> dno.optimize("a cat", reward=reward)  # doctest: +SKIP

    It has no gradient, so one is estimated.

    Args:
        function: takes a list of B pictures, or that and a list of B prompts, and returns B
            numbers, higher for better ones: a list, an array or a tensor.
    """
    return PilReward(function, _takes_two(function))


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether it wants prompts beside the pictures."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # Written in C, with no signature to look at.
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in places if p.default is p.empty]
    named = any(p.name in ("prompts", "prompt", "texts", "captions") for p in places[1:])
    return len(needed) > 1 or named
