"""Fit the patch codec to a pool of pictures, in closed form.

Usage, from `plugins/emoji`: `python -m recipe.codec --help`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import PatchCodec
from torch.nn import functional


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """`N x H x W x 3` bytes as `N x 3 x H x W` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit(pixels: np.ndarray, latent_channels: int = 24, whitening: float = 0.5, patch: int = 4) -> PatchCodec:
    """The codec whose latents of these pictures have zero mean and unit total variance a channel, on average.

    Component i with standard deviation s_i is divided by s_i ** whitening: 0 keeps the spectrum of the pixels
    (coarse shapes first, fine detail drowned longest), 1 makes all components equally hard; half way is used.
    """
    patches = functional.pixel_unshuffle(to_tensor(pixels), patch).permute(0, 2, 3, 1)
    patches = patches.reshape(-1, 3 * patch * patch).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    spread = values.flip(0)[:latent_channels].sqrt()
    directions = vectors.flip(1)[:, :latent_channels]
    # The sign of an eigenvector is arbitrary: fix it, so that a seed gives the same codec everywhere.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    scale = spread ** (1 - whitening)
    factor = scale.square().mean().rsqrt() / spread**whitening
    codec = PatchCodec(latent_channels=latent_channels, patch=patch)
    with torch.no_grad():
        codec.mean.copy_(mean)
        codec.analysis.copy_((directions * factor).T)
        codec.synthesis.copy_(directions / factor)
    codec.requires_grad_(False)
    return codec


@torch.no_grad()
def psnr(codec: PatchCodec, pixels: np.ndarray) -> float:
    """Mean peak signal to noise ratio of a round trip, in dB."""
    images = to_tensor(pixels)
    back = codec(images).sample.clamp(-1, 1)
    error = ((back - images) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/train.npz"))
    parser.add_argument("--latent-channels", type=int, default=24)
    parser.add_argument("--whitening", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("work/vae"))
    args = parser.parse_args()
    pixels = np.load(args.pool)["pixels"][:8000]
    codec = fit(pixels, args.latent_channels, args.whitening)
    codec.save_pretrained(args.out)
    print(f"{args.latent_channels} channels, {psnr(codec, pixels):.1f} dB -> {args.out}")


if __name__ == "__main__":
    main()
