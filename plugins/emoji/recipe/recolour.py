"""A true picture in the colours of one that was drawn from it.

The diffusion model draws a known picture again with its own idea of the colours: more saturated, or
another background where the caption names none. A decoder that learnt from such pairs as they are
would learn to undo that, or to average over it. So the few colours of the true picture, which are
flat, take the mean colours that the other shows in their places, and edges and details stay true.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COLOURS = 6
SOFT = 0.15
"""How far in [-1, 1], roughly, a pixel may be from a colour and still count as it."""
SHY = 40
"""The number of pixels at which a colour is moved half as far as was seen: a few prove little."""


def main_colours(pixels: Tensor, count: int = COLOURS, rounds: int = 8) -> Tensor:
    """The main colours of each picture, `B x P x 3` to `B x count x 3`, by k-means.

    It begins with the colours that are farthest from each other.
    """
    rows = torch.arange(len(pixels))
    distance = (pixels - pixels.mean(1, keepdim=True)).norm(dim=-1)
    colours = pixels[:, :0]
    for _ in range(count):
        farthest = pixels[rows, distance.argmax(1)][:, None]
        colours = torch.cat([colours, farthest], dim=1)
        distance = torch.cdist(pixels, colours).amin(-1)

    for _ in range(rounds):
        nearest = torch.cdist(pixels, colours).argmin(-1)
        belongs = functional.one_hot(nearest, count).to(pixels)
        size = belongs.sum(1)[..., None]
        mean = (belongs.mT @ pixels) / size.clamp(min=1)
        colours = torch.where(size > 0, mean, colours)
    return colours


def recoloured(true: Tensor, seen: Tensor) -> Tensor:
    """`true` with its main colours moved to what `seen` shows where they are.

    Both are `B x 3 x H x W` in [-1, 1], of the same shapes in the same places.
    """
    pixels = true.flatten(2).mT
    moves = (seen - true).flatten(2).mT

    # Every fourth pixel tells the same colours, in a quarter of the time.
    colours = main_colours(true[..., ::2, ::2].flatten(2).mT)
    near = torch.softmax(-(torch.cdist(pixels, colours) / SOFT).square(), dim=-1)
    size = near.sum(1)[..., None]
    move = (near.mT @ moves) / (size + SHY)

    found = (pixels + near @ move).mT.unflatten(2, true.shape[-2:])
    return found.clamp(-1, 1)
