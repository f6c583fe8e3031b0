"""Write the trained networks as the folders that ship inside the package.

Usage, from `plugins/emoji`: `python -m recipe.export --help`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dno_emoji.codec import PatchCodec
from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

from recipe import models
from recipe.checkpoint import read
from recipe.train_diffusion import Model
from recipe.train_judge import judge
from recipe.train_scorer import scorer


def tidy(folder: Path) -> None:
    """Remove what saving notes about the machine it ran on, and let everybody read the weights.

    Weights are stored in half precision to be small, and meant to be computed with in single precision: transformers
    loads in the dtype that a config names.
    """
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        tidied = {key: value for key, value in content.items() if key != "_name_or_path"}
        if "dtype" in tidied:
            tidied["dtype"] = "float32"
        if tidied != content:
            path.write_text(json.dumps(tidied, indent=2) + "\n")


def _trained(folder: Path) -> dict[str, Any]:
    state = read(folder)
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {folder}: run its training command first")
    return state


def export_pipeline(checkpoint: Path, codec: Path, tokenizer: Path, out: Path) -> None:
    """The averaged weights of a checkpoint as a `StableDiffusionPipeline` folder in half precision."""
    words = CLIPTokenizer.from_pretrained(tokenizer)
    vae = PatchCodec.from_pretrained(codec)
    model = Model(vae.config.latent_channels, words)
    model.load_state_dict(_trained(checkpoint)["ema"])
    pipe = models.pipeline(model.unet.half(), model.text_encoder.half(), words, vae.half())
    pipe.save_pretrained(out)
    tidy(out)


def export_scorer(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """The scorer as a `CLIPModel` and `CLIPProcessor` folder in half precision."""
    words = CLIPTokenizer.from_pretrained(tokenizer)
    model = scorer(words)
    model.load_state_dict(_trained(checkpoint)["model"])
    model.half().save_pretrained(out)
    side = {"height": 32, "width": 32}
    half = [0.5, 0.5, 0.5]
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side, image_mean=half, image_std=half)
    CLIPProcessor(pictures, words).save_pretrained(out)
    tidy(out)


def export_judge(checkpoint: Path, out: Path) -> None:
    """The judge as a `ResNetForImageClassification` folder in half precision."""
    model = judge()
    model.load_state_dict(_trained(checkpoint)["model"])
    model.half().save_pretrained(out)
    tidy(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, default=Path("dno_emoji"))
    parser.add_argument("--only", choices=("pipeline", "clip", "judge"), help="write one folder alone")
    args = parser.parse_args()
    tokenizer = args.work / "tokenizer"
    if args.only in (None, "pipeline"):
        export_pipeline(args.work / "diffusion", args.work / "vae", tokenizer, args.out / "pipeline")
    if args.only in (None, "clip"):
        export_scorer(args.work / "scorer", tokenizer, args.out / "clip")
    if args.only in (None, "judge"):
        export_judge(args.work / "judge", args.out / "judge")


if __name__ == "__main__":
    main()
