"""Write the trained networks as the folders that ship inside the package.

Usage, from `plugins/emoji`: `python -m recipe.export --help`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

from recipe import models
from recipe.checkpoint import required
from recipe.train_decoder import finished
from recipe.train_diffusion import trained
from recipe.train_judge import SEEN, judge
from recipe.train_scorer import scorer


def tidy(folder: Path) -> None:
    """Remove what saving notes about the machine it ran on, and let everybody read the weights.

    Weights are stored in half precision to be small, and meant to be computed with in single
    precision: transformers loads in the dtype that a config names.
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


def export_pipeline(
    diffusion: Path, decoder: Path, codec: Path, tokenizer: Path, out: Path
) -> None:
    """Diffusion model and codec as a `StableDiffusionPipeline` folder in half precision.

    Args:
        diffusion: a training's checkpoint, or a pipeline's folder.
        decoder: the checkpoint of the decoder's training.
        codec: the codec that it began with.
        tokenizer: what `recipe.tokenizer` wrote.
        out: the folder.
    """
    words = CLIPTokenizer.from_pretrained(tokenizer)
    vae = finished(codec, decoder)
    model = trained(diffusion, vae.config.latent_channels, words)
    pipe = models.pipeline(model.unet.half(), model.text_encoder.half(), words, vae.half())
    pipe.save_pretrained(out)
    tidy(out)


def export_scorer(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """The scorer as a `CLIPModel` and `CLIPProcessor` folder in half precision."""
    words = CLIPTokenizer.from_pretrained(tokenizer)
    model = scorer(words)
    model.load_state_dict(required(checkpoint)["model"])
    model.half().save_pretrained(out)
    side = {"height": SEEN, "width": SEEN}
    half = [0.5, 0.5, 0.5]
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SEEN}, crop_size=side, image_mean=half, image_std=half
    )
    CLIPProcessor(pictures, words).save_pretrained(out)
    tidy(out)


def export_judge(checkpoint: Path, out: Path) -> None:
    """The judge as a `ResNetForImageClassification` folder in half precision."""
    model = judge()
    model.load_state_dict(required(checkpoint)["model"])
    model.half().save_pretrained(out)
    tidy(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument(
        "--diffusion", type=Path, help="checkpoint or pipeline's folder, if not work/diffusion"
    )
    parser.add_argument("--out", type=Path, default=Path("dno_emoji"))
    parser.add_argument("--only", choices=("pipeline", "clip", "judge"), help="one folder alone")
    args = parser.parse_args()
    work, out = args.work, args.out
    tokenizer = work / "tokenizer"

    if args.only in (None, "pipeline"):
        diffusion = args.diffusion or work / "diffusion"
        export_pipeline(diffusion, work / "decoder", work / "vae", tokenizer, out / "pipeline")
    if args.only in (None, "clip"):
        export_scorer(work / "scorer", tokenizer, out / "clip")
    if args.only in (None, "judge"):
        export_judge(work / "judge", out / "judge")


if __name__ == "__main__":
    main()
