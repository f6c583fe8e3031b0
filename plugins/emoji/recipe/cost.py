"""What the decoder adds to the price of a picture, beside the plain decoder of the 32 px version.

Both are timed in one process, in turn, in CPU seconds, as other work on the machine disturbs them.

Usage, from `plugins/emoji`: `python -m recipe.cost --help`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import dno_emoji.codec  # noqa: F401  # the pipeline's folder names it
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional

from recipe import looks


@torch.no_grad()
def timed(pipe: Any, steps: int, decode: Callable[[Tensor], Tensor]) -> float:
    """CPU seconds of one picture."""
    begun = time.process_time()
    sampled = pipe(
        "a black cat",
        num_inference_steps=steps,
        guidance_scale=5.0,
        eta=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    decode(sampled.images)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("dno_emoji/pipeline"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--times", type=int, default=9)
    args = parser.parse_args()

    torch.set_num_threads(1)
    pipe = DiffusionPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    codec = pipe.vae.requires_grad_(False)
    # The inverse is no part of the old decoder's price: it was stored.
    synthesis = looks.plain_synthesis(codec)

    def old(latents: Tensor) -> Tensor:
        patches = functional.linear(latents.permute(0, 2, 3, 1), synthesis)
        return functional.pixel_shuffle(patches.permute(0, 3, 1, 2), codec.config.patch // 2)

    def new(latents: Tensor) -> Tensor:
        drawn: Tensor = codec.decode(latents).sample
        return drawn

    timed(pipe, args.steps, old)  # the first one also warms up
    pairs = [
        (timed(pipe, args.steps, old), timed(pipe, args.steps, new)) for _ in range(args.times)
    ]
    before, after = (median(column) for column in zip(*pairs, strict=True))
    ratio = after / before
    print(f"old {before:.3f} CPU s a picture, new {after:.3f}: {ratio:.3f} times")


if __name__ == "__main__":
    main()
