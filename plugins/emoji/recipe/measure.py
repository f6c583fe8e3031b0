"""Sample every animal with the plain pipeline; measure what judge and scorer see, and the looks.

Judge and scorer are also measured on renders that nothing was trained on, and the decoder beside
the plain one that it corrects.

Usage, from `plugins/emoji`: `python -m recipe.measure --help`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from dno_emoji.codec import EmojiCodec
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, ResNetForImageClassification

from recipe import looks, train_judge, train_scorer
from recipe.codec import psnr, to_tensor
from recipe.words import ANIMALS, COLOUR_NAMES, caption


def colour_of(animal: int, seed: int) -> int:
    """The colour asked of an animal at a seed: all eleven come up about equally often."""
    return (animal + 3 * seed) % len(COLOUR_NAMES)


def sample(pipe: Any, seeds: int, steps: int, guidance: float) -> Tensor:
    """`seeds x 45 x C x h x w` latents, eta 1, each from its own generator.

    The pipeline's own pictures are what its codec decodes from them.
    """
    rows = []
    for seed in range(seeds):
        captions = [caption(animal, colour_of(animal, seed)) for animal in range(len(ANIMALS))]
        sampled = pipe(
            captions,
            num_inference_steps=steps,
            guidance_scale=guidance,
            eta=1.0,
            generator=[torch.Generator().manual_seed(seed) for _ in ANIMALS],
            output_type="latent",
        )
        rows.append(sampled.images)
    return torch.stack(rows)


STEEP_AT = 20
"""At how many of the sampled latents the decoder's steepest direction is sought."""


def shown(images: Tensor) -> Tensor:
    """Decoded images as pictures in [0, 1]."""
    return (images / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def judged(folder: Path, pictures: Tensor) -> dict[str, Any]:
    """The judge's top-1 accuracy on sampled pictures, over all and by animal."""
    judge = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    seeds = len(pictures)
    animal, colour = train_judge.scores(judge, pictures.flatten(0, 1) * 2 - 1)
    right = animal.argmax(1).reshape(seeds, -1) == torch.arange(len(ANIMALS))
    asked = torch.tensor([[colour_of(a, s) for a in range(len(ANIMALS))] for s in range(seeds)])
    hue = colour.argmax(1).reshape(seeds, -1) == asked
    return {
        "pictures": right.numel(),
        "animal_top1": right.float().mean().item(),
        "colour_top1": hue.float().mean().item(),
        "both_top1": (right & hue).float().mean().item(),
        "animals_right_of_seeds": dict(zip(ANIMALS, right.sum(0).tolist(), strict=True)),
        "colours_right": {
            name: f"{int(hue[asked == index].sum())}/{int((asked == index).sum())}"
            for index, name in enumerate(COLOUR_NAMES)
        },
    }


@torch.no_grad()
def scored(clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Tensor) -> float:
    """How often the scorer prefers a picture's own caption to those of the other 44 animals."""
    every, hues = torch.arange(len(ANIMALS)), torch.arange(len(COLOUR_NAMES))
    captions = train_scorer.Captions(tokenizer)
    pairs = captions(every.repeat_interleave(len(hues)), hues.repeat(len(every)), torch.tensor(-1))
    bank = train_scorer.text_features(clip, pairs).reshape(len(every), len(hues), -1)
    right = []
    for seed, row in enumerate(pictures):
        asked = torch.tensor([colour_of(animal, seed) for animal in range(len(ANIMALS))])
        features = train_scorer.image_features(clip, row * 2 - 1)
        right.append(torch.einsum("bd,abd->ba", features, bank[:, asked]).argmax(1) == every)
    return torch.stack(right).float().mean().item()


def compared(codec: EmojiCodec, latents: Tensor, pictures: Tensor, heldout: Path) -> dict[str, Any]:
    """How pictures look, decoded plainly and enlarged (`old`), and by the codec (`new`).

    Args:
        codec: of the pipeline.
        latents: sampled ones, `B x C x h x w`.
        pictures: what the codec makes of them, `B x 3 x H x W` in [0, 1].
        heldout: pool of pictures to encode and decode; without it, nothing is said of them.
    """

    def plainly(z: Tensor) -> Tensor:
        """The 32 px picture, cut off at its limits as a file would, and enlarged."""
        return looks.enlarged(looks.decode_plainly(codec, z).clamp(-1, 1))

    patch = codec.config.patch
    old = shown(plainly(latents))
    steep = looks.steepness(codec, latents[:: max(1, len(latents) // STEEP_AT)])
    figures: dict[str, Any] = {
        "grain": {"old": looks.grain(old), "new": looks.grain(pictures)},
        "seam_ratio": {
            "old": looks.seam_ratio(old, patch),
            "new": looks.seam_ratio(pictures, patch),
        },
        "steepest": {
            "old": looks.steepness_plainly(codec),
            "new": {"median": steep.median().item(), "most": steep.max().item()},
        },
    }
    if heldout.exists():
        pixels = np.load(heldout)["pixels"]
        true = shown(to_tensor(pixels))
        figures["grain"]["renders"] = looks.grain(true)
        figures["seam_ratio"]["renders"] = looks.seam_ratio(true, patch)
        for noise in (0.0, 0.2):
            figures[f"psnr_at_latent_noise_{noise:g}"] = {
                "old": psnr(codec, pixels, noise, plainly),
                "linear": psnr(codec, pixels, noise, codec.decode_linearly),
                "new": psnr(codec, pixels, noise),
            }
    return figures


def rounded(figures: Any, digits: int = 4) -> Any:
    """Figures with their numbers rounded, however deep they lie."""
    if isinstance(figures, dict):
        return {name: rounded(value, digits) for name, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value, digits) for value in figures]
    return round(figures, digits) if isinstance(figures, float) else figures


def as_bytes(pictures: Tensor) -> np.ndarray:
    """`... x 3 x H x W` in [0, 1] as `... x H x W x 3` bytes."""
    moved = pictures.movedim(-3, -1).clamp(0, 1)
    return (moved * 255).round().byte().numpy()


def contact_sheet(strips: Sequence[Tensor], columns: int, zoom: int = 1) -> Image.Image:
    """A strip of pictures (`S x 3 x H x W`) under each animal's name."""
    rows = [np.concatenate(list(as_bytes(strip)), axis=1) for strip in strips]
    high, wide = rows[0].shape[0] * zoom, rows[0].shape[1] * zoom
    gap, title = 6, 13
    lines = -(-len(rows) // columns)
    size = (columns * (wide + gap), lines * (high + title + 1))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        x = index % columns * (wide + gap)
        y = index // columns * (high + title + 1)
        pen.text((x + 2, y + 1), ANIMALS[index], fill="black")
        strip = Image.fromarray(row).resize((wide, high), Image.Resampling.NEAREST)
        sheet.paste(strip, (x, y + title))
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet with 64 levels a colour, which look the same in a third less space."""
    levels = np.asarray(sheet) // 4 * 4 + 2
    Image.fromarray(levels).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=Path("dno_emoji"), help="holds pipeline, clip and judge"
    )
    parser.add_argument("--heldout", type=Path, default=Path("work/heldout.npz"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path("dno_emoji/card"))
    args = parser.parse_args()

    pipe = DiffusionPipeline.from_pretrained(args.model / "pipeline", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.requires_grad_(False)
    begun = time.monotonic()
    latents = sample(pipe, args.seeds, args.steps, args.guidance)
    decoded = pipe.vae.decode(latents.flatten(0, 1)).sample
    pictures = shown(decoded).unflatten(0, latents.shape[:2])
    seconds = time.monotonic() - begun

    figures: dict[str, Any] = {
        "sampling": {
            "steps": args.steps,
            "eta": 1.0,
            "guidance": args.guidance,
            "seeds": args.seeds,
        },
        "seconds": seconds,
        "judge_on_samples": judged(args.model / "judge", pictures),
    }
    clip = CLIPModel.from_pretrained(args.model / "clip", dtype=torch.float32)
    words = CLIPTokenizer.from_pretrained(args.model / "clip")
    figures["scorer_on_samples"] = {"animal_top1": scored(clip, words, pictures)}

    if args.heldout.exists():
        judge = ResNetForImageClassification.from_pretrained(
            args.model / "judge", dtype=torch.float32
        )
        for name, (animal, colour) in {
            "scorer_on_heldout": train_scorer.accuracy(clip, words, args.heldout),
            "judge_on_heldout": train_judge.accuracy(judge, args.heldout),
        }.items():
            figures[name] = {"animal_top1": animal, "colour_top1": colour}

    figures["decoder"] = compared(
        pipe.vae, latents.flatten(0, 1), pictures.flatten(0, 1), args.heldout
    )
    text = json.dumps(rounded(figures), indent=2)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "figures.json").write_text(text + "\n")

    save_sheet(contact_sheet(pictures.transpose(0, 1), columns=5), args.out / "samples.png")
    old = torch.nn.functional.interpolate(
        shown(looks.decode_plainly(pipe.vae, latents[0])), scale_factor=2, mode="nearest"
    )
    pairs = torch.stack([old, pictures[0]], dim=1)
    save_sheet(contact_sheet(pairs, columns=9), args.out / "old-and-new.png")
    print(text)


if __name__ == "__main__":
    main()
