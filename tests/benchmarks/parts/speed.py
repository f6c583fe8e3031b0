"""What options for speed gain, and what they change, on a CPU.

The embedded model has one transformer block, where its grid has 2 x 2 places, so that a small
network that has more to do there is measured beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from dno_builtin.samplers._ddim import DDIMSampler
from measuring import Figure, Size, exact, in_turns, middle, ratios
from torch import Tensor

from dno.testing.models import tiny_stable_diffusion
from parts.iteration import bound, iteration

OPTIONS = ("channels_last", "compile")
"""What is measured. On a CPU networks have the first in any case, so that it is the decoder's."""


def with_blocks(steps: int, **options: Any) -> Any:
    """The noise map of a small network of transformer blocks with random weights, its grid 16 x 16
    and 8 x 8."""
    pipe: Any = tiny_stable_diffusion("sd1")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(64, 128),
            layers_per_block=1,
            norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=pipe.unet.config.cross_attention_dim,
            attention_head_dim=4,
        )
    pipe.register_modules(unet=unet)
    size = 16 * pipe.vae_scale_factor
    sampler = DDIMSampler(pipe, steps=steps, memory="keep", height=size, width=size, **options)
    return sampler.bind(["a black cat"], [0])


def slope(sample: Any) -> Tensor:
    """The gradient of the mean picture."""
    noise_BN = sample.noise_BN.clone().requires_grad_()
    (grad_BN,) = torch.autograd.grad(sample(noise_BN).mean(), noise_BN)
    return grad_BN


def measure(size: Size) -> Iterator[Figure]:
    """Iterations with each option beside those without, and how far the gradient moves."""
    # Without a compiler nothing can be compiled.
    options = [one for one in OPTIONS if one != "compile" or shutil.which("g++")]
    few = max(2, size.steps // 10)
    models = {
        "embedded": (
            "the embedded model",
            lambda **given: bound(steps=size.steps, memory="keep", **given),
        ),
        "blocks": ("transformer blocks", lambda **given: with_blocks(few, **given)),
    }
    for name, (text, make) in models.items():
        maps = {"plain": make(), **{option: make(**{option: True}) for option in options}}
        yield from _beside(f"speed.{name}", text, maps, size.rounds)


def _beside(name: str, text: str, maps: Mapping[str, Any], rounds: int) -> Iterator[Figure]:
    seconds = in_turns({option: iteration(one) for option, one in maps.items()}, rounds)
    expected_BN = slope(maps["plain"])
    for option, sample in maps.items():
        if option == "plain":
            continue
        gains = ratios(seconds[option], seconds["plain"])
        what = f"an iteration with `{option}`, {text}"
        yield middle(f"{name}.{option}", what, gains, "times one without")
        off = (slope(sample) - expected_BN).norm() / expected_BN.norm()
        what = f"its gradient with `{option}`, {text}: off by"
        yield exact(f"{name}.{option}.off", what, 1e6 * float(off), "millionths")
