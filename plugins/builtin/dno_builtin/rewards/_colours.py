"""What a picture's colours are and where they are, as 41 numbers that have a gradient."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

COUNT: Final = 41
"""How many numbers describe a picture."""
PIXELS: Final = 24
"""Side of the square that a picture is averaged to: finer grain than that is not described."""
CELLS: Final = 3
"""Rows and columns of the layout."""
HUES: Final = 8
_SOFT: Final = 0.02
"""Where kinks are rounded off, so that there is a gradient everywhere."""

# Factors, by which features differ by about 0.25 between plain pictures of one prompt.
_LAYOUT: Final = 2.0
_HUE: Final = 4.0
_CHROMA: Final = 4.0
_SPREAD: Final = 6.0
_DETAIL: Final = 20.0
_ENDS: Final = 16.0


def colours(images: Tensor) -> Tensor:
    """`B x 41` from `B x 3 x H x W` images in [0, 1] of any size.

    Of the picture, averaged to 24 x 24 pixels, with the luma L of ITU-R BT.709 and the opponent
    colours R - G and (R + G) / 2 - B:

    - L, R - G and (R + G) / 2 - B, each the mean in 3 x 3 cells (27 numbers);
    - how much there is of each of eight hues: the mean of the positive part of the opponent colour
      along eight directions (8);
    - mean chroma, the length of the opponent colour (1);
    - standard deviation of L, and of the opponent colour (2);
    - detail: the mean length of L's slope from pixel to pixel (1);
    - how much is nearly black or nearly white: the mean of the positive parts of 1/4 - L and of
      L - 3/4 (2).

    Each kind has a factor that brings what differs between pictures to one order of size.
    """
    # On a GPU its gradient is summed in no fixed order: there it is the same but for rounding.
    pixels = F.adaptive_avg_pool2d(images, PIXELS)
    red, green, blue = pixels.unbind(1)
    luma_BHW = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    opponents_B2HW = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    chroma_BHW = _length(opponents_B2HW)

    planes = torch.cat([luma_BHW[:, None], opponents_B2HW], dim=1)
    layout = F.avg_pool2d(planes, PIXELS // CELLS).flatten(1)

    angles = torch.arange(HUES, device=images.device, dtype=pixels.dtype) * (2 * math.pi / HUES)
    directions_2D = torch.stack([angles.cos(), angles.sin()])
    along = torch.einsum("bchw,cd->bdhw", opponents_B2HW, directions_2D)
    hues = _positive(along).mean(dim=(2, 3))

    spreads = torch.stack([_deviation(planes[:, :1]), _deviation(opponents_B2HW)], dim=1)
    slopes = torch.stack(
        [
            luma_BHW[:, 1:, :-1] - luma_BHW[:, :-1, :-1],
            luma_BHW[:, :-1, 1:] - luma_BHW[:, :-1, :-1],
        ],
        dim=1,
    )
    detail = _length(slopes).mean(dim=(1, 2))
    ends = torch.stack([_positive(0.25 - luma_BHW), _positive(luma_BHW - 0.75)], dim=1)
    return torch.cat(
        [
            _LAYOUT * layout,
            _HUE * hues,
            _CHROMA * chroma_BHW.mean(dim=(1, 2))[:, None],
            _SPREAD * spreads,
            _DETAIL * detail[:, None],
            _ENDS * ends.mean(dim=(2, 3)),
        ],
        dim=1,
    )


def _length(vectors: Tensor) -> Tensor:
    """Lengths along dimension 1, rounded off at 0."""
    return (vectors.square().sum(dim=1) + _SOFT**2).sqrt()


def _positive(values: Tensor) -> Tensor:
    """Positive parts, rounded off at 0."""
    return (values + (values.square() + _SOFT**2).sqrt()) / 2


def _deviation(planes: Tensor) -> Tensor:
    """Root-mean-square distance of each picture's pixels from their mean, rounded off at 0."""
    centred = planes - planes.mean(dim=(2, 3), keepdim=True)
    return (centred.square().sum(dim=1).mean(dim=(1, 2)) + _SOFT**2).sqrt()
