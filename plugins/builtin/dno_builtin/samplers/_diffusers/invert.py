"""Noise from which DDIM draws a given image."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from PIL import Image
from torch import Tensor

from dno.plugin import quiet

from .noise_map import PipelineNoiseMap, split_draws
from .schedule import UNCLIPPED, Scheduler


def noise_of(image: Path, bound: PipelineNoiseMap) -> Tensor:
    """Noise from which a sampler bound to its prompts draws an image, `B x N`.

    At eta > 0 the image comes back as far as likely noise can bring it; what it leaves open is
    taken from the seeds' noise. At eta = 0 the ODE is solved backwards (Song et al. 2021, section
    4.3).

    Args:
        image: a picture; scaled to the pipeline's size.
        bound: a DDIM sampler's.
    """
    pipe = copy.copy(bound.pipe)
    options = {**bound.options, "output_type": "latent"}
    latents = _encoded(image, pipe, options["height"], options["width"]).to(bound.noise_BN)

    with torch.no_grad(), quiet():
        if options["eta"]:
            noise_BN = _recorded(pipe, options, latents, bound)
        else:
            noise_BN = _solved_backwards(pipe, options, latents, len(bound.noise_BN))
    return noise_BN.to(bound.noise_BN)


def _solved_backwards(
    pipe: Any,
    options: Mapping[str, Any],
    latents: Tensor,
    items: int,
) -> Tensor:
    """The start of the ODE that ends at these latents, for each item."""
    pipe.scheduler = DDIMInverseScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    start: Tensor = pipe(**options, latents=latents.expand(items, -1, -1, -1))[0]
    return start.flatten(1)


def _recorded(
    pipe: Any,
    options: Mapping[str, Any],
    latents: Tensor,
    bound: PipelineNoiseMap,
) -> Tensor:
    """The draws of walks from the seeds' noise to these latents, for each item."""
    first, *fresh = [
        part.reshape(-1, *shape)
        for part, shape in zip(split_draws(bound.noise_BN, bound.draws), bound.draws, strict=True)
    ]

    scheduler = _Recording.from_config(pipe.scheduler.config, **UNCLIPPED)
    scheduler.set_timesteps(options["num_inference_steps"])
    level = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    start = level.sqrt() * latents + (1 - level).sqrt() * first

    scheduler.truth = latents
    scheduler.fresh = fresh
    scheduler.found = [start]
    pipe.scheduler = scheduler
    pipe(**options, latents=start)
    return torch.cat([draw.flatten(1) for draw in scheduler.found], dim=1)


class _Recording(Scheduler):
    """Walks from noise to a known x_0 and records the draw that takes DDIM along each step.

    The walk is drawn from q(x_s | x_t, x_0), DDIM's own reverse process with the network's guess of
    x_0 replaced by the truth; the draw is what is left of it after the network's step: z = (x_s -
    mean) / sigma. Where the network predicts well these draws are close to the Gaussian ones that
    the walk was made with (CycleDiffusion, Wu & De la Torre, ICCV 2023, arXiv 2210.05559). Each is
    scaled down to a mean square of 1 where it is above, so that the noise stays likely; the walk
    goes on from where that leads.
    """

    truth: Tensor
    """x_0, `1 x C x h x w`."""
    fresh: list[Tensor]
    """Noise that the walk has yet to use, `B x C x h x w` for each step."""
    found: list[Tensor]
    """The draws recorded so far, `B x C x h x w` each; the walk's start is the first."""

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        return_dict: bool = True,
    ) -> Any:
        """One step of the walk; the network's answer only decides what is recorded."""
        # Where DDIM's step from x_t would land but for its noise.
        mean = super().step(
            model_output,
            timestep,
            sample,
            eta=eta,
            variance_noise=torch.zeros_like(sample),
            return_dict=False,
        )[0]

        before = int(timestep) - self.config.num_train_timesteps // self.num_inference_steps
        sigma = eta * self._get_variance(int(timestep), before).sqrt()
        # No noise goes in at this step, so that no draw was made for it.
        if not sigma:
            return (mean,)

        target = self._target(sample, timestep, before, sigma)
        draw = (target - mean) / sigma
        # At the last steps sigma is small, and what the network gets wrong would be noise of many
        # times its size.
        size = draw.square().mean((1, 2, 3), keepdim=True).sqrt()
        draw = draw / size.clamp(min=1)

        self.found.append(draw)
        return (mean + sigma * draw,)

    def _target(self, x_t: Tensor, timestep: int, before: int, sigma: Tensor) -> Tensor:
        """x_s, drawn from q(x_s | x_t, x_0) with the next of the fresh noise."""
        level = self.alphas_cumprod[timestep]
        next_level = self.final_alpha_cumprod
        if before >= 0:
            next_level = self.alphas_cumprod[before]

        towards = (x_t - level.sqrt() * self.truth) / (1 - level).sqrt()
        target: Tensor = (
            next_level.sqrt() * self.truth
            + (1 - next_level - sigma**2).sqrt() * towards
            + sigma * self.fresh.pop(0)
        )
        return target


def _encoded(image: Path, pipe: Any, height: int, width: int) -> Tensor:
    """The latents of a picture scaled to this size, `1 x C x h x w`."""
    with Image.open(image) as file:
        picture = file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    pixels_HWC = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1)
    pixels = pixels_HWC.permute(2, 0, 1)[None].to(pipe.vae.device, pipe.vae.dtype)
    with torch.no_grad():
        latents: Tensor = pipe.vae.encode(pixels).latent_dist.mode()

    # As Stable Diffusion XL's pipeline undoes before it decodes.
    config = pipe.vae.config
    mean = config.get("latents_mean")
    std = config.get("latents_std")
    if mean is not None and std is not None:
        latents = (latents - _for_channels(mean, latents)) / _for_channels(std, latents)

    shift = config.get("shift_factor") or 0
    code: Tensor = (latents - shift) * config.scaling_factor
    return code


def _for_channels(values: Any, latents: Tensor) -> Tensor:
    """One number for each channel, to be combined with latents."""
    return torch.tensor(values).view(1, -1, 1, 1).to(latents)
