"""Sample every animal with the plain pipeline and ask the judge what it sees; check scorer and judge on renders.

Usage, from `plugins/emoji`: `python -m recipe.measure --help`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from transformers import CLIPModel, CLIPTokenizer, ResNetForImageClassification

from recipe import train_judge, train_scorer
from recipe.words import ANIMALS, COLOUR_NAMES, caption


def colour_of(animal: int, seed: int) -> int:
    """The colour asked of an animal at a seed: all eleven come up about equally often."""
    return (animal + 3 * seed) % len(COLOUR_NAMES)


def sample(folder: Path, seeds: int, steps: int, guidance: float) -> torch.Tensor:
    """`seeds x 45 x 3 x 32 x 32` pictures in [0, 1], eta 1, float32, each from its own generator."""
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for seed in range(seeds):
        rows.append(
            pipe(
                [caption(animal, colour_of(animal, seed)) for animal in range(len(ANIMALS))],
                num_inference_steps=steps,
                guidance_scale=guidance,
                eta=1.0,
                generator=[torch.Generator().manual_seed(seed) for _ in ANIMALS],
                output_type="pt",
            ).images
        )
    return torch.stack(rows)


@torch.no_grad()
def judged(folder: Path, pictures: torch.Tensor) -> dict[str, Any]:
    """The judge's top-1 accuracy on sampled pictures, over all and by animal."""
    judge = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    seeds = len(pictures)
    animal, colour = train_judge.scores(judge, pictures.flatten(0, 1) * 2 - 1)
    right = animal.argmax(1).reshape(seeds, -1) == torch.arange(len(ANIMALS))
    asked = torch.tensor([[colour_of(a, s) for a in range(len(ANIMALS))] for s in range(seeds)])
    hue = colour.argmax(1).reshape(seeds, -1) == asked
    return {
        "pictures": right.numel(),
        "animal_top1": round(right.float().mean().item(), 4),
        "colour_top1": round(hue.float().mean().item(), 4),
        "both_top1": round((right & hue).float().mean().item(), 4),
        "animals_right_of_seeds": dict(zip(ANIMALS, right.sum(0).tolist(), strict=True)),
        "colours_right": {
            name: f"{int(hue[asked == index].sum())}/{int((asked == index).sum())}"
            for index, name in enumerate(COLOUR_NAMES)
        },
    }


@torch.no_grad()
def scored(clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: torch.Tensor) -> float:
    """How often the scorer prefers the caption a picture was made from to those of the other 44 animals."""
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


def contact_sheet(pictures: torch.Tensor, zoom: int = 2, columns: int = 5) -> Image.Image:
    """All seeds of an animal side by side under its name."""
    seeds, count, _, height, width = pictures.shape
    pixels = (pictures.permute(1, 0, 3, 4, 2).clamp(0, 1) * 255).round().byte().numpy()
    tall, wide = height * zoom + 14, seeds * width * zoom + 6
    sheet = Image.new("RGB", (columns * wide, -(-count // columns) * tall), "white")
    pen = ImageDraw.Draw(sheet)
    for index in range(count):
        x, y = index % columns * wide, index // columns * tall
        pen.text((x + 2, y + 1), ANIMALS[index], fill="black")
        strip = Image.fromarray(np.concatenate(list(pixels[index]), axis=1))
        sheet.paste(strip.resize((seeds * width * zoom, height * zoom), Image.Resampling.NEAREST), (x, y + 13))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("dno_emoji"), help="holds pipeline, clip and judge")
    parser.add_argument("--heldout", type=Path, default=Path("work/heldout.npz"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path("dno_emoji/card"))
    args = parser.parse_args()
    begun = time.monotonic()
    pictures = sample(args.model / "pipeline", args.seeds, args.steps, args.guidance)
    figures = {
        "sampling": {"steps": args.steps, "eta": 1.0, "guidance": args.guidance, "seeds": args.seeds},
        "seconds": round(time.monotonic() - begun, 1),
        "judge_on_samples": judged(args.model / "judge", pictures),
    }
    clip = CLIPModel.from_pretrained(args.model / "clip", dtype=torch.float32)
    words = CLIPTokenizer.from_pretrained(args.model / "clip")
    figures["scorer_on_samples"] = {"animal_top1": round(scored(clip, words, pictures), 4)}
    if args.heldout.exists():
        judge = ResNetForImageClassification.from_pretrained(args.model / "judge", dtype=torch.float32)
        for name, (animal, colour) in {
            "scorer_on_heldout": train_scorer.accuracy(clip, words, args.heldout),
            "judge_on_heldout": train_judge.accuracy(judge, args.heldout),
        }.items():
            figures[name] = {"animal_top1": round(animal, 4), "colour_top1": round(colour, 4)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    sheet = contact_sheet(pictures).quantize(256, kmeans=3, dither=Image.Dither.NONE)
    sheet.save(args.out / "samples.png", optimize=True)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
