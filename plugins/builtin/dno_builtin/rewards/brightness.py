"""How bright images are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dno.plugin import BuildContext, Reward, RewardConfig

if TYPE_CHECKING:
    from torch import Tensor


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Mean over channels and pixels: `B` values in [0, 1] from `B x 3 x H x W` in [0, 1]."""
    return images.mean(dim=(1, 2, 3))


class Brightness(RewardConfig):
    """Mean pixel value of each image, in [0, 1]: 0 is black, 1 is white."""

    judges = "image"
    weightless = True

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; it has no weights."""
        return brightness
