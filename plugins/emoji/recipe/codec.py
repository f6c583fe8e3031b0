"""Fit the codec's linear part to a pool of pictures, in closed form.

Latents are the leading principal components of the blocks of pictures that were halved to 32 px.
The linear decoder is the least-squares map back to blocks of the pictures as they are, at 64 px;
`recipe.train_decoder` trains what corrects it.

Usage, from `plugins/emoji`: `python -m recipe.codec --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import Correction, EmojiCodec
from torch import Tensor
from torch.nn import functional

HALF = 2
"""How many times smaller the pictures are whose blocks are analysed."""


def to_tensor(pixels: np.ndarray) -> Tensor:
    """`N x H x W x 3` bytes as `N x 3 x H x W` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(images: Tensor) -> np.ndarray:
    """`N x 3 x H x W` in [-1, 1] as `N x H x W x 3` bytes."""
    scaled = (images.clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).numpy()


def halved(images: Tensor) -> Tensor:
    """Images at half the resolution: each pixel is the mean of four."""
    return functional.avg_pool2d(images, HALF)


def blocks(images: Tensor, patch: int) -> Tensor:
    """All blocks of images, `N x 3 * patch**2`, in double precision."""
    rows = functional.pixel_unshuffle(images, patch).permute(0, 2, 3, 1)
    return rows.reshape(-1, rows.shape[-1]).double()


def components(images: Tensor, count: int, whitening: float, patch: int) -> tuple[Tensor, Tensor]:
    """The mean block, and the `count` rows that turn a block less that mean into latents.

    Latents of these images have zero mean and, on average over the channels, unit variance.
    Component i with standard deviation s_i is divided by s_i ** whitening: 0 keeps the spectrum of
    the pixels (coarse shapes first, fine detail drowned longest), 1 makes all components equally
    hard; half way is used.
    """
    rows = blocks(images, patch)
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
    spread = values.flip(0)[:count].sqrt()
    directions = vectors.flip(1)[:, :count]

    # The sign of an eigenvector is arbitrary: fix it, so that a pool gives the same codec anywhere.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()

    scale = spread ** (1 - whitening)
    factor = scale.square().mean().rsqrt() / spread**whitening
    return mean, (directions * factor).T


def of_larger_blocks(values: Tensor, small: int) -> Tensor:
    """Values at the entries of `small x small` blocks, repeated for blocks of twice the side.

    The last dimension holds a block, `3 * small**2` entries; it becomes four times as long.
    """
    shaped = values.unflatten(-1, (3, small, small))
    larger = shaped.repeat_interleave(HALF, -1).repeat_interleave(HALF, -2)
    return larger.flatten(-3)


def unfinished(mean: Tensor, analysis: Tensor, side: int) -> EmojiCodec:
    """A codec that encodes images of `side` pixels, and cannot decode yet.

    `mean` and `analysis` are of blocks of the halved images.
    """
    small = round((len(mean) / 3) ** 0.5)
    codec = EmojiCodec(latent_channels=len(analysis), patch=HALF * small, sample_size=side)
    with torch.no_grad():
        codec.mean.copy_(of_larger_blocks(mean, small))
        # A small pixel is the mean of four: each of them counts a quarter.
        codec.analysis.copy_(of_larger_blocks(analysis, small) / HALF**2)
    return codec


@torch.no_grad()
def fit_synthesis(codec: EmojiCodec, images: Tensor) -> None:
    """Set the linear decoder to the least-squares map from latents back to blocks."""
    wanted = blocks(images, codec.config.patch)
    latents = blocks(codec.encode(images).latent_dist.mode(), 1)

    known = torch.cat([latents, torch.ones(len(latents), 1, dtype=torch.double)], dim=1)
    found = torch.linalg.lstsq(known, wanted).solution
    codec.synthesis.copy_(found[:-1].T)
    codec.bias.copy_(found[-1])


def fit(
    pixels: np.ndarray,
    latent_channels: int = 24,
    whitening: float = 0.5,
    patch: int = 8,
    kept: EmojiCodec | None = None,
) -> EmojiCodec:
    """The codec of these pictures, whose network corrects nothing yet.

    Args:
        pixels: `N x H x W x 3` bytes.
        latent_channels: coordinates of a block.
        whitening: see `components`.
        patch: side of a block of the pictures.
        kept: a codec whose latents are to stay as they are; only the linear decoder is fitted.
    """
    images = to_tensor(pixels)
    if kept is None:
        small = patch // HALF
        mean, analysis = components(halved(images), latent_channels, whitening, small)
        codec = unfinished(mean, analysis, images.shape[-1])
    else:
        codec = EmojiCodec.from_config(kept.config)
        with torch.no_grad():
            codec.mean.copy_(kept.mean)
            codec.analysis.copy_(kept.analysis)

    fit_synthesis(codec, images)
    with torch.no_grad():
        spread = codec.encode(images).latent_dist.mode().std(dim=(0, 2, 3))
        codec.correction.scale.copy_(1 / spread[:, None, None])
    correct_nothing(codec.correction)
    return codec.requires_grad_(False)


def correct_nothing(network: Correction) -> None:
    """Set the last layer's weights to zero, until they are trained."""
    for parameter in network.draw.parameters():
        torch.nn.init.zeros_(parameter)


@torch.no_grad()
def psnr(
    codec: EmojiCodec,
    pixels: np.ndarray,
    noise: float = 0.0,
    decode: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> float:
    """Mean peak signal to noise ratio of a round trip, in dB.

    Args:
        codec: what encodes and decodes.
        pixels: `N x H x W x 3` bytes.
        noise: standard deviation of what is added to the latents.
        decode: another decoder, of the same latents to images in [-1, 1].
        seed: of the noise.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for images in to_tensor(pixels).split(500):
        latents = codec.encode(images).latent_dist.mode()
        latents = latents + noise * torch.randn(latents.shape, generator=draw)
        back = decode(latents) if decode else codec.decode(latents).sample
        back = back.clamp(-1, 1)
        error = ((back - images) / 2).square().mean(dim=(1, 2, 3))
        found.append(-10 * error.log10())
    return float(torch.cat(found).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/train.npz"))
    parser.add_argument("--latent-channels", type=int, default=24)
    parser.add_argument("--patch", type=int, default=8, help="side of a block, in pixels")
    parser.add_argument("--whitening", type=float, default=0.5)
    parser.add_argument("--keep", type=Path, help="a codec whose latents stay as they are")
    parser.add_argument("--out", type=Path, default=Path("work/vae"))
    args = parser.parse_args()

    pixels = np.load(args.pool)["pixels"][:8000]
    kept = EmojiCodec.from_pretrained(args.keep) if args.keep else None
    codec = fit(pixels, args.latent_channels, args.whitening, args.patch, kept)
    codec.save_pretrained(args.out)
    print(f"{codec.config.latent_channels} channels, {psnr(codec, pixels):.1f} dB -> {args.out}")


if __name__ == "__main__":
    main()
