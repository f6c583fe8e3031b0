"""Make renders look a little like sampled pictures: soft, grainy, codec-stained, off in tone."""

from __future__ import annotations

import torch
from dno_emoji.codec import EmojiCodec
from torch.nn import functional


def _rand(shape: tuple[int, ...], low: float, high: float, draw: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=draw)


def augment(images: torch.Tensor, codec: EmojiCodec, draw: torch.Generator) -> torch.Tensor:
    """Disturb pictures `B x 3 x H x W` in [-1, 1], each by its own amounts.

    The caption stays true.
    """
    count = len(images)
    one = (count, 1, 1, 1)
    latents = codec.encode(images).latent_dist.mode()
    grain = _rand(one, 0, 0.4, draw) * (torch.rand(one, generator=draw) < 0.5)
    stained = codec.decode(latents + grain * torch.randn(latents.shape, generator=draw)).sample
    images = torch.where(torch.rand(one, generator=draw) < 0.7, stained, images)
    soft = functional.avg_pool2d(
        functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    images = images.lerp(soft, _rand(one, 0, 1, draw) * (torch.rand(one, generator=draw) < 0.5))
    images = images * _rand(one, 0.85, 1.1, draw) + _rand(one, -0.08, 0.08, draw)
    images = images + _rand(one, 0, 0.15, draw) * torch.randn(images.shape, generator=draw)
    return images.clamp(-1, 1)
