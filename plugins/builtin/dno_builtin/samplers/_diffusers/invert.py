"""Noise from which DDIM draws a given image."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from PIL import Image
from torch import Tensor

from dno_builtin._quiet import quiet

from .._pipeline import PipelineNoiseMap
from .schedule import Scheduler


class _Recording(Scheduler):
    """Walks from noise to a known x_0 and records the draw that takes DDIM along each step.

    The walk is a sample of q(x_s | x_t, x_0), DDIM's own reverse process with the network's guess
    of x_0 replaced by the truth; the draw is what is left of it after the network's step: z = (x_s
    - mean) / sigma. Where the network predicts well these draws are close to the Gaussian ones that
    the walk was made with (CycleDiffusion, Wu & De la Torre, ICCV 2023, arXiv 2210.05559). Each is
    scaled down to a mean square of 1 where it is above, so that the noise stays likely; the walk
    goes on from where that leads.
    """

    truth: Tensor
    fresh: list[Tensor]
    found: list[Tensor]

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        return_dict: bool = True,
    ) -> Any:
        """One step of the walk; the network's answer only decides what is recorded."""
        before = int(timestep) - self.config.num_train_timesteps // self.num_inference_steps
        level = self.alphas_cumprod[timestep]
        next_level = self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod
        sigma = eta * self._get_variance(int(timestep), before).sqrt()
        towards = (sample - level.sqrt() * self.truth) / (1 - level).sqrt()
        mean = super().step(
            model_output,
            timestep,
            sample,
            eta=eta,
            variance_noise=torch.zeros_like(sample),
            return_dict=False,
        )[0]
        if not sigma:  # no noise goes in at this step, so that no draw was made for it
            return (mean,)
        noise = self.fresh.pop(0)
        target = (
            next_level.sqrt() * self.truth
            + (1 - next_level - sigma**2).sqrt() * towards
            + sigma * noise
        )
        draw = (target - mean) / sigma
        # At the last steps sigma is small, and what the network gets wrong would be noise of many
        # times its size.
        draw = draw / draw.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1)
        self.found.append(draw)
        return (mean + sigma * draw,)


def noise_of(image: Path, bound: PipelineNoiseMap) -> Tensor:
    """Noise from which a sampler bound to its prompts draws an image, `B x N`.

    At eta > 0 the image comes back as far as likely noise can bring it; what it leaves open is
    taken from the seeds' noise. At eta = 0 the ODE is solved backwards (Song et al. 2021, section
    4.3).

    Args:
        image: a picture; scaled to the pipeline's size.
        bound: a DDIM sampler's.
    """
    pipe, options, noise_BN = (
        copy.copy(bound.pipe),
        {**bound.options, "output_type": "latent"},
        bound.noise_BN,
    )
    truth = _encoded(image, pipe, options["height"], options["width"]).to(noise_BN)
    with torch.no_grad(), quiet():
        if not options["eta"]:
            pipe.scheduler = DDIMInverseScheduler.from_config(
                pipe.scheduler.config, clip_sample=False
            )
            latents = truth.expand(len(noise_BN), -1, -1, -1)
            start: Tensor = pipe(**options, latents=latents)[0]
            return start.flatten(1).to(noise_BN)
        parts = torch.split(noise_BN, [math.prod(shape) for shape in bound.draws], dim=1)
        first, *fresh = [
            part.reshape(-1, *shape) for part, shape in zip(parts, bound.draws, strict=True)
        ]
        scheduler = _Recording.from_config(
            pipe.scheduler.config, clip_sample=False, thresholding=False
        )
        scheduler.set_timesteps(options["num_inference_steps"])
        level = scheduler.alphas_cumprod[scheduler.timesteps[0]]
        start = level.sqrt() * truth + (1 - level).sqrt() * first
        scheduler.truth, scheduler.fresh, scheduler.found = truth, fresh, [start]
        pipe.scheduler = scheduler
        pipe(**options, latents=start)
    return torch.cat([draw.flatten(1) for draw in scheduler.found], dim=1).to(noise_BN)


def _encoded(image: Path, pipe: Any, height: int, width: int) -> Tensor:
    with Image.open(image) as file:
        picture = file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[
        None
    ]
    with torch.no_grad():
        latents: Tensor = pipe.vae.encode(
            pixels.to(pipe.vae.device, pipe.vae.dtype)
        ).latent_dist.mode()
    config = pipe.vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (
        mean is not None and std is not None
    ):  # as Stable Diffusion XL's pipeline undoes before it decodes
        mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (mean, std))
        latents = (latents - mean) / std
    code: Tensor = (latents - (config.get("shift_factor") or 0)) * config.scaling_factor
    return code
