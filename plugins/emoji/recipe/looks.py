"""What can be measured of how decoded pictures look, and the plain decoder to compare them with."""

from __future__ import annotations

import torch
from dno_emoji.codec import EmojiCodec
from torch import Tensor
from torch.autograd import grad
from torch.nn import functional

from recipe.codec import HALF

BORDER = 6
"""Width in pixels of the frame in which grain is measured: mostly background."""


def decode_plainly(codec: EmojiCodec, latents: Tensor) -> Tensor:
    """Pictures at half the resolution, by the inverse of the linear encoder alone.

    That is the decoder of the model's 32 px version, from the same latents, `B x C x h x w` to
    `B x 3 x H/2 x W/2` in [-1, 1] or beyond.
    """
    patch = codec.config.patch
    shape = (-1, 3, patch // HALF, HALF, patch // HALF, HALF)
    mean = codec.mean.reshape(shape).mean(dim=(3, 5)).flatten()
    patches = functional.linear(latents.permute(0, 2, 3, 1), plain_synthesis(codec), mean)
    return functional.pixel_shuffle(patches.permute(0, 3, 1, 2), patch // HALF)


def plain_synthesis(codec: EmojiCodec) -> Tensor:
    """Inverse of what encodes a block of the halved picture, `3 * (patch/2)**2 x C`."""
    patch = codec.config.patch
    shape = (-1, 3, patch // HALF, HALF, patch // HALF, HALF)
    # Four pixels that count alike are one.
    analysis = codec.analysis.reshape(shape).sum(dim=(3, 5)).flatten(1)
    return torch.linalg.pinv(analysis)


def steepness_plainly(codec: EmojiCodec) -> float:
    """The greatest singular value of the plain decoder, whose pixels count four times at 64 px.

    It is the same at all latents; pictures are in [0, 1].
    """
    return float(HALF * torch.linalg.matrix_norm(plain_synthesis(codec) / 2, ord=2))


def enlarged(images: Tensor) -> Tensor:
    """Images at twice the resolution, smoothly."""
    return functional.interpolate(images, scale_factor=HALF, mode="bicubic", align_corners=False)


def grain(images: Tensor) -> float:
    """Median standard deviation of 3 x 3 pixels in the frame of pictures.

    Args:
        images: `B x 3 x H x W` in [0, 1].
    """
    mean = functional.avg_pool2d(images, 3, stride=1)
    square = functional.avg_pool2d(images.square(), 3, stride=1)
    spread = (square - mean.square()).clamp(min=0).sqrt().mean(1)

    inside = BORDER - 2  # a window is 3 px wide
    frame = torch.ones(spread.shape[-2:], dtype=torch.bool)
    frame[inside:-inside, inside:-inside] = False
    return float(spread[:, frame].median())


def seam_ratio(images: Tensor, patch: int) -> float:
    """How much neighbouring pixels differ across the edges of blocks, over elsewhere.

    Args:
        images: `B x 3 x H x W`.
        patch: side of a block.
    """
    across, elsewhere = [], []
    for turned in (images, images.transpose(-1, -2)):
        steps = turned.diff(dim=-1).abs().mean(dim=(0, 1, 2))
        edge = torch.arange(1, len(steps) + 1) % patch == 0
        across.append(steps[edge].mean())
        elsewhere.append(steps[~edge].mean())
    return float(sum(across) / sum(elsewhere))


def steepness(codec: EmojiCodec, latents: Tensor, rounds: int = 40, seed: int = 0) -> Tensor:
    """The greatest singular value of the decoder's Jacobian at each of B latents.

    It is how far the picture, in [0, 1], can move for a move of length one of the latents, found by
    power iteration.
    """

    z = latents.detach().requires_grad_()
    with torch.enable_grad():
        pictures: Tensor = codec.decode(z).sample / 2
        weights = torch.zeros_like(pictures, requires_grad=True)
        # Linear in the weights, so that its way back is the way of a move of the latents.
        (weighted,) = grad(pictures, z, weights, create_graph=True)

    # The same for each, whatever stands beside it.
    drawn = torch.randn(z[:1].shape, generator=torch.Generator().manual_seed(seed))
    direction = drawn.expand_as(z)
    for _ in range(rounds):
        direction = direction / _lengths(direction)
        (moved,) = grad(weighted, weights, direction, retain_graph=True)
        (direction,) = grad(pictures, z, moved, retain_graph=True)
    return _lengths(moved).flatten()


def _lengths(batch: Tensor) -> Tensor:
    """The norm of each, `B x 1 x 1 x 1`."""
    return torch.linalg.vector_norm(batch, dim=(1, 2, 3), keepdim=True)
