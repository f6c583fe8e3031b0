"""Train the UNet and its text encoder together. Stop it at any time: the same command goes on where it was.

Usage, from `plugins/emoji`: `python -m recipe.train_diffusion --help`.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import PatchCodec
from torch.nn import functional
from transformers import CLIPTokenizer

from recipe import checkpoint, models
from recipe.codec import to_tensor
from recipe.words import caption


class Model(torch.nn.Module):
    """What is trained: the UNet and the text encoder."""

    def __init__(self, latent_channels: int, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = models.unet(latent_channels)
        self.text_encoder = models.text_encoder(tokenizer)

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """v of noisy latents `B x C x h x w` at `times` (B), given caption tokens `B x L`."""
        text = self.text_encoder(tokens).last_hidden_state
        out: torch.Tensor = self.unet(noisy, times, text).sample
        return out


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Captions as `B x L` token ids, padded to the tokenizer's full length as pipelines do."""
    ids: torch.Tensor = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    return ids


def load_pool(path: Path, codec: PatchCodec, tokenizer: CLIPTokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """All latents (`N x C x h x w`) and caption tokens (`N x L`) of a pool."""
    pool = np.load(path)
    pixels = pool["pixels"]
    latents = [codec.encode(to_tensor(pixels[i : i + 1000])).latent_dist.mode() for i in range(0, len(pixels), 1000)]
    texts = [caption(*row) for row in zip(pool["animal"], pool["colour"], pool["background"], strict=True)]
    return torch.cat(latents), tokenise(tokenizer, texts)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 300, decay: float = 0.3) -> float:
    """Linear warm-up, then constant, then linear to zero over the last `decay` of all steps."""
    return peak * min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (decay * steps)))


def train(
    pool: Path,
    codec_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    steps: int,
    batch: int = 32,
    peak: float = 1e-3,
    seed: int = 0,
    save_every: int = 500,
    stop: int | None = None,
) -> None:
    """Plain v-prediction up to step `stop` of a schedule of `steps` (all of them unless told).

    Every step draws from its own seed, so that a resumed run equals an unbroken one.
    """
    last = steps if stop is None else stop
    torch.manual_seed(seed)
    codec = PatchCodec.from_pretrained(codec_folder).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    latents, tokens = load_pool(pool, codec, tokenizer)
    empty = tokenise(tokenizer, [""])
    alphas = models.scheduler().alphas_cumprod
    model = Model(latents.shape[1], tokenizer)
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), peak, betas=(0.9, 0.99), weight_decay=0.01)
    first, seconds = 0, 0.0
    state = checkpoint.read(out)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first, seconds = state["ema"], state["step"], state["seconds"]
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {first}", flush=True)
    begun, mean_loss = time.monotonic() - seconds, math.nan
    for step in range(first, last):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(latents), (batch,), generator=draw)
        clean, text = latents[index], tokens[index]
        text = torch.where(torch.rand(batch, 1, generator=draw) < 0.1, empty, text)
        # Shape is decided at middling and high noise: spend the steps there.
        times = (1000 * torch.sigmoid(0.9 * torch.randn(batch, generator=draw) + 0.05)).long().clamp(0, 999)
        noise = torch.randn(clean.shape, generator=draw)
        signal, sigma = alphas[times].sqrt()[:, None, None, None], (1 - alphas[times]).sqrt()[:, None, None, None]
        predicted = model(signal * clean + sigma * noise, times, text)
        loss = functional.mse_loss(predicted, signal * noise - sigma * clean)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    ema[name].lerp_(value, 1 - keep)
        mean_loss = loss.item() if math.isnan(mean_loss) else 0.99 * mean_loss + 0.01 * loss.item()
        done = step + 1
        if done % 100 == 0 or done == last:
            spent = time.monotonic() - begun
            rate = (done - first) * batch / (spent - seconds)
            print(f"step {done} loss {mean_loss:.4f} {spent / 60:.1f} min {rate:.0f} images/s", flush=True)
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
    parser.add_argument("--steps", type=int, default=11_500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("work/diffusion"))
    args = parser.parse_args()
    train(args.pool, args.codec, args.tokenizer, args.out, args.steps, args.batch, args.rate, args.seed)


if __name__ == "__main__":
    main()
