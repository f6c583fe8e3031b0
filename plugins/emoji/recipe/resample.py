"""Let the diffusion model draw known pictures again: latents with its grain, and what they show.

A picture is encoded, noised to some step of a 50-step sample, and sampled from there to the end,
with guidance and fresh noise at each step. What comes out has the grain of sampled latents while
the picture that it should be is known: `recipe.train_decoder` learns from such pairs.

Usage, from `plugins/emoji`: `python -m recipe.resample --help`. Stop it at any time: the same
command goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import EmojiCodec
from torch import Tensor
from transformers import CLIPTokenizer

from recipe import models
from recipe.train_diffusion import Model, load_pool, tokenise, trained

STEPS = 50
GUIDANCE = 5.0
FIRST, LAST = 19, 47
"""Of the 50 steps, the earliest and the latest that a picture is noised to.

Noise of an earlier step hides the picture, so that the model draws another one.
"""


@torch.no_grad()
def drawn_again(
    model: Model, clean: Tensor, tokens: Tensor, empty: Tensor, begin: int, draw: torch.Generator
) -> Tensor:
    """Latents `B x C x h x w`, noised to step `begin` of the sample and sampled from there on.

    Args:
        model: UNet and text encoder.
        clean: latents of the pictures.
        tokens: their captions, `B x L`.
        empty: the empty caption, `1 x L`.
        begin: the step that is the first.
        draw: of all noise.
    """
    scheduler = models.scheduler()
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps[begin:]
    text = model.text_encoder(torch.cat([empty.expand_as(tokens), tokens])).last_hidden_state

    noise = torch.randn(clean.shape, generator=draw)
    latents = scheduler.add_noise(clean, noise, times[:1].expand(len(clean)))
    for time in times:
        plain, captioned = model.unet(torch.cat([latents, latents]), time, text).sample.chunk(2)
        guided = plain + GUIDANCE * (captioned - plain)
        fresh = torch.randn(clean.shape, generator=draw)
        step = scheduler.step(guided, time, latents, eta=1.0, variance_noise=fresh)
        latents = step.prev_sample
    return latents


def resample(
    pool: Path,
    codec_folder: Path,
    tokenizer_folder: Path,
    diffusion: Path,
    out: Path,
    images: int,
    batch: int = 32,
    seed: int = 5,
) -> None:
    """Write files of `latents` (`batch x C x h x w`) and `index` (their pictures in the pool)."""
    codec = EmojiCodec.from_pretrained(codec_folder).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    latents, tokens = load_pool(pool, codec, tokenizer)
    empty = tokenise(tokenizer, [""])
    model = trained(diffusion, latents.shape[1], tokenizer).eval()

    out.mkdir(parents=True, exist_ok=True)
    for number in range(images // batch):
        path = out / f"{number:05d}.npz"
        if path.exists():
            continue
        draw = torch.Generator().manual_seed(seed * 1_000_003 + number)
        index = torch.randint(len(latents), (batch,), generator=draw)
        begin = int(torch.randint(FIRST, LAST + 1, (), generator=draw))
        again = drawn_again(model, latents[index], tokens[index], empty, begin, draw)

        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, latents=again.numpy(), index=index.numpy())
        part.replace(path)
        if (number + 1) % 20 == 0:
            print(f"{(number + 1) * batch} pictures drawn again -> {out}", flush=True)


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """All latents (`N x C x h x w`) that `resample` wrote, and their pictures in the pool (N)."""
    files = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    latents = np.concatenate([file["latents"] for file in files])
    index = np.concatenate([file["index"] for file in files])
    return torch.from_numpy(latents), torch.from_numpy(index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/train.npz"))
    parser.add_argument("--codec", type=Path, default=Path("work/vae"))
    parser.add_argument("--tokenizer", type=Path, default=Path("work/tokenizer"))
    parser.add_argument(
        "--diffusion",
        type=Path,
        default=Path("work/diffusion"),
        help="checkpoint of recipe.train_diffusion, or a pipeline's folder",
    )
    parser.add_argument("--images", type=int, default=9600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("work/resampled"))
    args = parser.parse_args()
    resample(
        args.pool,
        args.codec,
        args.tokenizer,
        args.diffusion,
        args.out,
        args.images,
        args.batch,
        args.seed,
    )


if __name__ == "__main__":
    main()
