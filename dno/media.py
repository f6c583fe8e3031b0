"""Samples as the pictures that files, people and most judges read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dno.errors import RunError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def pictures(images: Tensor) -> list[Image]:
    """8-bit RGB pictures of `B x 3 x H x W` images, clamped to [0, 1], on any device.

    Raises:
        RunError: the tensor is not a batch of RGB images.
    """
    from PIL import Image

    if images.ndim != 4 or images.shape[1] != 3:
        raise RunError(f"pictures need samples of shape B x 3 x H x W, got {tuple(images.shape)}")
    levels = (images.detach().float().clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(pixels) for pixels in levels.permute(0, 2, 3, 1).cpu().numpy()]
