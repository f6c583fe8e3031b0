"""How colourful images are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from dno.plugin import BuildContext, Reward, RewardConfig

if TYPE_CHECKING:
    from torch import Tensor


def colorfulness(images: Tensor) -> Tensor:
    """M of Hasler and Süsstrunk, "Measuring colourfulness in natural images" (2003), over 100.

    Returns `B` values >= 0 for `B x 3 x H x W` images in [0, 1]. The gradient of an exactly grey
    image is finite.
    """
    import torch

    red, green, blue = (2.55 * images).flatten(2).unbind(1)
    opponents_B2P = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    mean_B2 = opponents_B2P.mean(dim=2)
    centred_B2P = opponents_B2P - mean_B2[:, :, None]
    # Norms, for unlike the root of a sum they have a finite gradient at 0. That gradient is 0, so
    # the mean is measured from a point beside grey, too near to be seen: else nothing would move an
    # exactly grey image.
    spread_B: Tensor = torch.linalg.vector_norm(centred_B2P, dim=(1, 2))
    deviation_B = spread_B / centred_B2P.shape[2] ** 0.5
    distance_B: Tensor = torch.linalg.vector_norm(mean_B2 + 1e-5, dim=1)
    colorfulness_B: Tensor = deviation_B + 0.3 * distance_B
    return colorfulness_B


class Colorfulness(RewardConfig):
    """How colourful each image is: 0 grey, 0.33 moderately, 0.59 quite, 1.09 extremely so.

    The metric of Hasler and Süsstrunk, in hundredths of their scale.
    """

    target: float | None = Field(default=None, ge=0)
    """The colourfulness to come close to, 0 being grey; the more the better if not given."""

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; it has no weights."""

        def reward(images: Tensor, prompts: Sequence[str], /) -> Tensor:
            score_B = colorfulness(images)
            return score_B if self.target is None else -(score_B - self.target).abs()

        return reward
