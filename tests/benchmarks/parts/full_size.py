"""One evaluation with gradient of a full-size network, its peak of memory beside the prediction.

python tests/benchmarks/parts/full_size.py [SIZE]

A network of Stable Diffusion 1.5's shape with random weights (860 million, bfloat16), its decoder
in float32, 512 px, 2 steps, on the CPU; SIZE is what it may take (8GB). It takes some minutes of a
core. Prints JSON; the suite runs it in a process of its own, whose peak it is.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from dno_builtin.samplers._ddim import DDIMSampler
from transformers import CLIPTextConfig, CLIPTextModel

from dno.core.costs import Beside, Room
from dno.runs.room import CPU_WASTE
from dno.testing.models import tiny_tokenizer

if TYPE_CHECKING:
    from measuring import Figure, Size

SHAPE = Path(__file__).parents[3] / "docs" / "figures" / "models" / "sd-1.5"
GB = 10**9


def peak_rss() -> float:
    """The most memory that this process had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def filled(module: Any, dtype: torch.dtype) -> Any:
    """A module that was made without memory, with random weights."""
    module.to(dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if name.endswith("norm.weight") or (".norm" in name and name.endswith("weight")):
            weight.data.fill_(1)
        elif name.endswith("bias"):
            weight.data.zero_()
        else:
            fan_in = max(1, weight[0].numel())
            weight.data.normal_(0, fan_in**-0.5, generator=generator)
    return module.eval()


def pipeline() -> StableDiffusionPipeline:
    """The pipeline with random weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(
            json.loads((SHAPE / "unet/config.json").read_text())
        )
    vae = AutoencoderKL.from_config(json.loads((SHAPE / "vae/config.json").read_text()))
    text = CLIPTextModel(
        CLIPTextConfig(**json.loads((SHAPE / "text_encoder/config.json").read_text()))
    )
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 77
    return StableDiffusionPipeline(
        unet=filled(unet, torch.bfloat16),
        vae=vae.eval(),
        text_encoder=text.to(torch.bfloat16).eval(),
        tokenizer=tokenizer,
        scheduler=PNDMScheduler.from_config(
            json.loads((SHAPE / "scheduler/scheduler_config.json").read_text())
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


FIGURES = {
    "predicted_gb": ("predicted for tensors, allowed 8 GB", "GB"),
    "bound_gb": ("the process's peak when it is bound", "GB"),
    "forward_gb": ("its peak after the way forward", "GB"),
    "peak_gb": ("its peak", "GB"),
    "bind_cpu_s": ("binding, with a trace", "CPU s"),
    "forward_cpu_s": ("the way forward", "CPU s"),
    "backward_cpu_s": ("the way back", "CPU s"),
}


def measure(size: Size) -> Iterator[Figure]:
    """Peaks and seconds of one evaluation; it is of one size."""
    from measuring import once

    script = [sys.executable, __file__]
    told = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout
    # After a line of what was known before the evaluation.
    found = json.loads(told.split("\n", 1)[1])
    if not found["finite"] or not found["moved"]:
        raise RuntimeError(f"the gradient is no good: {found}")
    for name, (text, unit) in FIGURES.items():
        yield once(f"full_size.{name}", text, found[name], unit)


def main() -> None:
    """Measure and print."""
    size = sys.argv[1] if len(sys.argv) > 1 else "8GB"
    found: dict[str, Any] = {"allowed": size, "threads": torch.get_num_threads()}
    found["libraries_gb"] = peak_rss()

    pipe = pipeline()
    sampler = DDIMSampler(pipe, steps=2, memory=size, height=512, width=512, dtype=torch.bfloat16)
    # It has weights of its own in another order now.
    del pipe
    sampler.make_room(Room(None, lambda _, entries: Beside(held=12 * 4 * entries), waste=CPU_WASTE))
    started = time.process_time()
    bound = sampler.bind(["a black cat"], [0])
    footprint = bound.footprint
    assert footprint is not None
    found |= {
        "bind_cpu_s": time.process_time() - started,
        "policy": footprint.policy,
        "predicted_gb": footprint.peak / GB,
        "bound_gb": peak_rss(),
    }
    print(json.dumps(found), flush=True)

    started = time.process_time()
    noise = bound.noise_BN.clone().requires_grad_()
    image = bound(noise)
    found |= {"forward_cpu_s": time.process_time() - started, "forward_gb": peak_rss()}
    started = time.process_time()
    (slope,) = torch.autograd.grad(image.mean(), noise)
    found |= {
        "backward_cpu_s": time.process_time() - started,
        "peak_gb": peak_rss(),
        "finite": bool(slope.isfinite().all()),
        "moved": float(slope.norm()),
    }
    print(json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
