"""How dark images are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dno.plugin import BuildContext, Reward, RewardConfig

if TYPE_CHECKING:
    from torch import Tensor


def darkness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """1 - mean over channels and pixels: `B` values in [0, 1] from `B x 3 x H x W` in [0, 1]."""
    return 1 - images.mean(dim=(1, 2, 3))


class Darkness(RewardConfig):
    """1 - mean pixel value of each image, in [0, 1]: 0 is white, 1 is black."""

    judges = "image"
    weightless = True

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; it has no weights."""
        return darkness
