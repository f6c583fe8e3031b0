"""Train the judge, a small ResNet that names animal and colour. Resumable.

Its pictures and seeds are its own.

Usage, from `plugins/emoji`: `python -m recipe.train_judge --help`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import EmojiCodec
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from recipe.augment import augment
from recipe.checkpoint import load, save
from recipe.codec import to_tensor
from recipe.words import ANIMALS, COLOUR_NAMES, NATURAL

SEEN = 32
"""Side in pixels of what scorer and judge see: larger pictures are reduced to it by averaging."""


def judge() -> ResNetForImageClassification:
    """45 animal logits, then 11 colour logits."""
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate((*ANIMALS, *COLOUR_NAMES))),
        label2id={name: index for index, name in enumerate((*ANIMALS, *COLOUR_NAMES))},
    )
    return ResNetForImageClassification(config)


def scores(
    model: ResNetForImageClassification, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Animal (`B x 45`) and colour (`B x 11`) logits of pictures `B x 3 x H x W` in [-1, 1].

    The judge sees 32 x 32 px, which it looks at enlarged to 64 x 64 px, for its first layers throw
    detail away.
    """
    seen = functional.adaptive_avg_pool2d(images, SEEN)
    large = functional.interpolate(
        seen, size=(2 * SEEN, 2 * SEEN), mode="bilinear", align_corners=False
    )
    animal, colour = model(large).logits.split([len(ANIMALS), len(COLOUR_NAMES)], dim=1)
    return animal, colour


@torch.no_grad()
def accuracy(model: ResNetForImageClassification, pool: Path) -> tuple[float, float]:
    """Top-1 animal accuracy on a pool, and top-1 colour accuracy on its recoloured pictures."""
    model.eval()
    data = np.load(pool)
    animals, colours = torch.from_numpy(data["animal"]), torch.from_numpy(data["colour"])
    found = [scores(model, images) for images in to_tensor(data["pixels"]).split(500)]
    animal, colour = (torch.cat(column).argmax(1) for column in zip(*found, strict=True))
    painted = colours != NATURAL
    model.train()
    return float((animal == animals).float().mean()), float(
        (colour == colours)[painted].float().mean()
    )


def train(
    pool: Path,
    heldout: Path,
    codec_folder: Path,
    out: Path,
    steps: int,
    batch: int = 64,
    seed: int = 11,
) -> None:
    """Cross entropy on animal and, for recoloured pictures, on colour."""
    torch.manual_seed(seed)
    codec = EmojiCodec.from_pretrained(codec_folder)
    data = np.load(pool)
    pixels, animals, colours = (
        torch.from_numpy(data[name]) for name in ("pixels", "animal", "colour")
    )
    model = judge().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    first = load(out, model, optimizer)
    for step in range(first, steps):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(pixels), (batch,), generator=draw)
        with torch.no_grad():
            images = augment(to_tensor(pixels[index].numpy()), codec, draw)
        animal, colour = scores(model, images)
        loss = functional.cross_entropy(animal, animals[index].long())
        loss = loss + functional.cross_entropy(colour, colours[index].long(), ignore_index=NATURAL)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save(out, model, optimizer, step + 1)
            print(f"step {step + 1} loss {loss.item():.3f}", flush=True)
    animal_top1, colour_top1 = accuracy(model, heldout)
    print(f"held out: animal {animal_top1:.3f} colour {colour_top1:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/judge.npz"))
    parser.add_argument("--heldout", type=Path, default=Path("work/heldout.npz"))
    parser.add_argument("--codec", type=Path, default=Path("work/vae"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("work/judge"))
    args = parser.parse_args()
    train(args.pool, args.heldout, args.codec, args.out, args.steps)


if __name__ == "__main__":
    main()
