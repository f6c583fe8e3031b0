"""Train the UNet and its text encoder together.

Usage, from `plugins/emoji`: `python -m recipe.train_diffusion --help`. Stop it at any time: the
same command goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from dno_emoji.codec import EmojiCodec
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from recipe import checkpoint, models
from recipe.codec import to_tensor
from recipe.words import ANIMALS, caption


class Model(torch.nn.Module):
    """What is trained: the UNet and the text encoder."""

    def __init__(self, latent_channels: int, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = models.unet(latent_channels)
        self.text_encoder = models.text_encoder(tokenizer)

    def forward(
        self, noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """v of noisy latents `B x C x h x w` at `times` (B), given caption tokens `B x L`."""
        text = self.text_encoder(tokens).last_hidden_state
        out: torch.Tensor = self.unet(noisy, times, text).sample
        return out


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Captions as `B x L` token ids, padded to the tokenizer's full length as pipelines do."""
    ids: torch.Tensor = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    return ids


def load_pool(
    path: Path, codec: EmojiCodec, tokenizer: CLIPTokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """All latents (`N x C x h x w`) and caption tokens (`N x L`) of a pool."""
    pool = np.load(path)
    pixels = pool["pixels"]
    latents = [
        codec.encode(to_tensor(pixels[i : i + 1000])).latent_dist.mode()
        for i in range(0, len(pixels), 1000)
    ]
    rows = zip(pool["animal"], pool["colour"], pool["background"], strict=True)
    texts = [caption(*row) for row in rows]
    return torch.cat(latents), tokenise(tokenizer, texts)


def weights_of(path: Path, often: Sequence[str], times: float) -> torch.Tensor:
    """How often each picture of a pool is taken, in proportion: the animals in `often` more so."""
    animals = torch.from_numpy(np.load(path)["animal"]).long()
    by_animal = torch.ones(len(ANIMALS))
    by_animal[[ANIMALS.index(name) for name in often]] = times
    return by_animal[animals]


def draw_times(count: int, uniform: float, draw: torch.Generator) -> torch.Tensor:
    """Timesteps to train at, a share of them uniform.

    The others are where shape is decided, at middling and high noise.
    """
    middling = torch.sigmoid(0.9 * torch.randn(count, generator=draw) + 0.05)
    even = torch.rand(count, generator=draw)
    chosen = torch.where(torch.rand(count, generator=draw) < uniform, even, middling)
    return (1000 * chosen).long().clamp(0, 999)


def trained(folder: Path, latent_channels: int, tokenizer: CLIPTokenizer) -> Model:
    """The averaged weights of a checkpoint, or those of a pipeline's folder."""
    model = Model(latent_channels, tokenizer)
    state = checkpoint.read(folder)
    if state is not None:
        model.load_state_dict(state["ema"])
        return model
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    model.unet.load_state_dict(unet.state_dict())
    model.text_encoder.load_state_dict(text.state_dict())
    return model


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 300, decay: float = 0.3
) -> float:
    """Linear warm-up, then constant, then linear to zero over the last `decay` of all steps."""
    return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


@dataclass(frozen=True)
class Plan:
    """How a training goes."""

    steps: int = 11_500
    """Length of the schedule."""
    batch: int = 32
    """Pictures a step."""
    peak: float = 1.2e-3
    """The highest rate."""
    decay: float = 0.3
    """Share of the steps, the last ones, in which the rate falls to zero."""
    keep: float = 0.999
    """What the averaged weights keep of themselves each step, once there have been many."""
    uniform: float = 0.0
    """Share of the timesteps that are drawn uniformly."""
    often: tuple[str, ...] = ()
    """Animals that are taken more often than others."""
    times: float = 1.0
    """How much more often."""
    seed: int = 0
    """Of everything that is drawn."""


def train(
    pool: Path,
    codec_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    plan: Plan,
    start: Path | None = None,
    save_every: int = 500,
    stop: int | None = None,
) -> None:
    """Plain v-prediction up to step `stop` of a plan (all of its steps unless told).

    Every step draws from its own seed, so that a resumed training equals an unbroken one.

    Args:
        pool: what `recipe.render` wrote.
        codec_folder: what `recipe.codec` wrote.
        tokenizer_folder: what `recipe.tokenizer` wrote.
        out: folder of the checkpoint.
        plan: how it goes.
        start: a checkpoint or a pipeline's folder whose weights are trained on.
        save_every: steps between checkpoints.
        stop: the step to stop at.
    """
    last = plan.steps if stop is None else stop
    torch.manual_seed(plan.seed)
    codec = EmojiCodec.from_pretrained(codec_folder).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    latents, tokens = load_pool(pool, codec, tokenizer)
    weights = weights_of(pool, plan.often, plan.times)
    empty = tokenise(tokenizer, [""])
    alphas = models.scheduler().alphas_cumprod

    channels = latents.shape[1]
    model = trained(start, channels, tokenizer) if start else Model(channels, tokenizer)
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        model.parameters(), plan.peak, betas=(0.9, 0.99), weight_decay=0.01
    )
    first, seconds = 0, 0.0
    state = checkpoint.read(out)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first, seconds = state["ema"], state["step"], state["seconds"]
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{size:.2f} M parameters, from step {first}", flush=True)

    begun, mean_loss = time.monotonic() - seconds, math.nan
    for step in range(first, last):
        draw = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        index = torch.multinomial(weights, plan.batch, replacement=True, generator=draw)
        clean, text = latents[index], tokens[index]
        unsaid = torch.rand(plan.batch, 1, generator=draw) < 0.1
        text = torch.where(unsaid, empty, text)
        times = draw_times(plan.batch, plan.uniform, draw)
        noise = torch.randn(clean.shape, generator=draw)

        signal = alphas[times].sqrt()[:, None, None, None]
        sigma = (1 - alphas[times]).sqrt()[:, None, None, None]
        predicted = model(signal * clean + sigma * noise, times, text)
        loss = functional.mse_loss(predicted, signal * noise - sigma * clean)

        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan.steps, plan.peak, decay=plan.decay)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        keep = min(plan.keep, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    ema[name].lerp_(value, 1 - keep)

        mean_loss = loss.item() if math.isnan(mean_loss) else 0.99 * mean_loss + 0.01 * loss.item()
        done = step + 1
        if done % 100 == 0 or done == last:
            spent = time.monotonic() - begun
            rate = (done - first) * plan.batch / (spent - seconds)
            minutes = spent / 60
            print(
                f"step {done} loss {mean_loss:.4f} {minutes:.1f} min {rate:.0f} images/s",
                flush=True,
            )
        if done % save_every == 0 or done == last:
            checkpoint.write(
                out,
                {
                    "model": model.state_dict(),
                    "ema": ema,
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "seconds": time.monotonic() - begun,
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/train.npz"))
    parser.add_argument("--codec", type=Path, default=Path("work/vae"))
    parser.add_argument("--tokenizer", type=Path, default=Path("work/tokenizer"))
    parser.add_argument("--start", type=Path, help="weights to train on: a pipeline's folder")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--rate", type=float, default=Plan.peak)
    parser.add_argument("--decay", type=float, default=Plan.decay, help="share with falling rate")
    parser.add_argument("--keep", type=float, default=Plan.keep, help="of the averaged weights")
    parser.add_argument("--uniform", type=float, default=Plan.uniform, help="share of timesteps")
    parser.add_argument("--often", nargs="*", default=[], choices=ANIMALS, metavar="ANIMAL")
    parser.add_argument("--times", type=float, default=Plan.times, help="of those, as often")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--out", type=Path, default=Path("work/diffusion"))
    args = parser.parse_args()
    plan = Plan(
        steps=args.steps,
        batch=args.batch,
        peak=args.rate,
        decay=args.decay,
        keep=args.keep,
        uniform=args.uniform,
        often=tuple(args.often),
        times=args.times,
        seed=args.seed,
    )
    train(args.pool, args.codec, args.tokenizer, args.out, plan, args.start)


if __name__ == "__main__":
    main()
