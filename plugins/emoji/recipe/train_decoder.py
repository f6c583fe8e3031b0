"""Train what corrects the linear decoder, on noisy latents and on the diffusion model's own.

Trained on clean latents alone it would clean nothing. So each step takes pictures whose latents get
noise, and latents that the diffusion model drew again from known pictures (`recipe.resample`), for
there is its grain: they are to decode to those pictures, in the colours that it drew.

Usage, from `plugins/emoji`: `python -m recipe.train_decoder --help`. Stop it at any time: the same
command goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import EmojiCodec
from torch import Tensor
from torch.nn import functional

from recipe import checkpoint, codec, looks, resample
from recipe.codec import correct_nothing, to_bytes, to_tensor
from recipe.recolour import recoloured

NOISE = 0.4
"""The greatest standard deviation of noise on latents, whose own is 1 on average."""


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    falling = 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * min(1.0, (step + 1) / warmup) * falling


def noisy(latents: Tensor, share: float, greatest: float, draw: torch.Generator) -> Tensor:
    """Latents of which a `share` gets noise, each of its own strength up to `greatest`."""
    one = (len(latents), 1, 1, 1)
    chosen = torch.rand(one, generator=draw) < share
    strength = greatest * torch.rand(one, generator=draw) * chosen
    return latents + strength * torch.randn(latents.shape, generator=draw)


def loss_of(found: Tensor, wanted: Tensor) -> Tensor:
    """Squares, for tones and places, and absolute differences, for edges."""
    return 2 * functional.mse_loss(found, wanted) + functional.l1_loss(found, wanted)


@torch.no_grad()
def wanted_pictures(model: EmojiCodec, latents: Tensor, pixels: np.ndarray) -> np.ndarray:
    """What latents that were drawn again should decode to: their pictures, in the drawn colours.

    All are `N x H x W x 3` bytes.
    """
    found = []
    for begin in range(0, len(latents), 500):
        part = slice(begin, begin + 500)
        seen = looks.enlarged(looks.decode_plainly(model, latents[part]).clamp(-1, 1))
        pictures = recoloured(to_tensor(pixels[part]), seen)
        found.append(to_bytes(pictures))
    return np.concatenate(found)


def train(
    pool: Path,
    codec_folder: Path,
    resampled: Path,
    out: Path,
    steps: int,
    batch: int = 16,
    again: int = 16,
    peak: float = 4e-3,
    seed: int = 13,
    save_every: int = 250,
    stop: int | None = None,
) -> None:
    """Train up to step `stop` of a schedule of `steps` (all of them unless told).

    Every step draws from its own seed, so that a resumed training equals an unbroken one.

    Args:
        pool: pictures.
        codec_folder: what `recipe.codec` wrote; the linear parts stay as they are.
        resampled: what `recipe.resample` wrote from the same pool.
        out: folder of the checkpoint.
        steps: length of the schedule.
        batch: pictures a step whose latents are encoded, most of them with noise.
        again: pictures a step that the diffusion model drew again.
        peak: the highest rate.
        seed: of everything that is drawn.
        save_every: steps between checkpoints.
        stop: the step to stop at.
    """
    last = steps if stop is None else stop
    torch.manual_seed(seed)
    linear = EmojiCodec.from_pretrained(codec_folder)
    model = EmojiCodec.from_config(linear.config)
    with torch.no_grad():
        for name in ("mean", "analysis", "synthesis", "bias"):
            getattr(model, name).copy_(getattr(linear, name))
        model.correction.scale.copy_(linear.correction.scale)
    correct_nothing(model.correction)
    model.to(memory_format=torch.channels_last)  # a fifth less time on a CPU

    pixels = np.load(pool)["pixels"]
    latents, index = resample.read(resampled)
    wanted = wanted_pictures(linear, latents, pixels[index.numpy()])
    model.requires_grad_(False)
    model.correction.requires_grad_(True)
    model.correction.scale.requires_grad_(False)
    weights = [weight for weight in model.correction.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, peak, weight_decay=0.01)

    first = checkpoint.load(out, model, optimizer)
    begun = time.monotonic()
    mean_loss = math.nan
    for step in range(first, last):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)

        known = torch.randint(len(pixels), (batch,), generator=draw)
        pictures = to_tensor(pixels[known.numpy()])
        encoded = model.encode(pictures).latent_dist.mode()
        encoded = noisy(encoded, 0.7, NOISE, draw)

        chosen = torch.randint(len(latents), (again,), generator=draw)
        drawn = noisy(latents[chosen], 0.3, NOISE / 2, draw)

        found = model.decode(torch.cat([encoded, drawn])).sample
        loss = loss_of(found, torch.cat([pictures, to_tensor(wanted[chosen.numpy()])]))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

        mean_loss = loss.item() if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss.item()
        done = step + 1
        if done % 100 == 0 or done == last:
            rate = (done - first) * (batch + again) / (time.monotonic() - begun)
            print(f"step {done} loss {mean_loss:.4f} {rate:.0f} images/s", flush=True)
        if done % save_every == 0 or done == last:
            checkpoint.save(out, model, optimizer, done)


def finished(codec_folder: Path, folder: Path) -> EmojiCodec:
    """The codec with the network of a training's checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    model = EmojiCodec.from_config(EmojiCodec.load_config(codec_folder))
    model.load_state_dict(checkpoint.required(folder)["model"])
    return model.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/train.npz"))
    parser.add_argument("--heldout", type=Path, default=Path("work/heldout.npz"))
    parser.add_argument("--codec", type=Path, default=Path("work/vae"))
    parser.add_argument("--resampled", type=Path, default=Path("work/resampled"))
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--again", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--out", type=Path, default=Path("work/decoder"))
    args = parser.parse_args()

    train(
        args.pool,
        args.codec,
        args.resampled,
        args.out,
        args.steps,
        args.batch,
        args.again,
        args.rate,
        args.seed,
    )
    model = finished(args.codec, args.out)
    pixels = np.load(args.heldout)["pixels"]
    for noise in (0.0, 0.2):
        print(f"held out, latent noise {noise:g}: {codec.psnr(model, pixels, noise):.1f} dB")


if __name__ == "__main__":
    main()
