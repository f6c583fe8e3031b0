"""How much contrast images have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dno.plugin import BuildContext, Reward, RewardConfig

if TYPE_CHECKING:
    from torch import Tensor


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Root-mean-square contrast: `B` values in [0, 0.5] from `B x 3 x H x W`.

    The standard deviation over pixels (Peli, "Contrast in complex images", JOSA A 1990) of the luma
    0.2126 R + 0.7152 G + 0.0722 B (ITU-R BT.709), with R, G and B clamped to the [0, 1] that a
    screen can show. A flat image has contrast 0 and gradient 0.
    """
    import torch

    red, green, blue = images.clamp(0, 1).unbind(1)
    luma_BP = (0.2126 * red + 0.7152 * green + 0.0722 * blue).flatten(1)
    centred_BP = luma_BP - luma_BP.mean(dim=1, keepdim=True)
    # Unlike `std`, this has a finite gradient where all pixels are equal.
    deviation_B: Tensor = torch.linalg.vector_norm(centred_BP, dim=1) / math.sqrt(luma_BP.shape[1])
    return deviation_B


class Contrast(RewardConfig):
    """Standard deviation of each image's luma, in [0, 0.5]: 0 is flat, 0.5 half black and half
    white.
    """

    judges = "image"
    weightless = True

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; it has no weights."""
        return contrast
