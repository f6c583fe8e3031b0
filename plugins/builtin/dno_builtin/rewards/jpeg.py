"""How well images compress."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from dno.plugin import BuildContext, Reward, RewardConfig, pictures

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class JpegSize:
    """Minus the size of each image's JPEG file."""

    quality: int
    differentiable: ClassVar[bool] = False

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` values in kB (1000 bytes), <= 0, from `B x 3 x H x W` in [0, 1]; copies go to the
        CPU.
        """
        sizes = []
        for picture in pictures(images):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=self.quality)
            sizes.append(-len(file.getvalue()) / 1000)
        return images.new_tensor(sizes)


class Jpeg(RewardConfig):
    """Minus each image's size as a JPEG file, in kB (1000 bytes); it has no gradient.

    The file is Pillow's, with its default 4:2:0 chroma subsampling, from copies on the CPU.
    """

    judges = "image"
    weightless = True
    differentiable: ClassVar[bool] = False

    quality: int = Field(default=95, ge=1, le=95)
    """JPEG quality, as Pillow counts it."""

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; it has no weights."""
        return JpegSize(self.quality)
