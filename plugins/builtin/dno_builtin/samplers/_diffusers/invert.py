"""Noise from which DDIM draws a given image."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from PIL import Image
from torch import Tensor

from dno.plugin import ConfigError, quiet

from .fitting import AIM, NEAR, Fitted, fitted, unlikely
from .noise_map import PipelineNoiseMap, split_draws
from .schedule import UNCLIPPED, Scheduler

DRIFT = 0.5
"""Root mean square of what a walk may add to each of the seeds' draws."""
DECODER_ITERATIONS = 60
DECODER_RATE = 0.03


def noise_of(image: Image.Image, bound: PipelineNoiseMap, name: str) -> Tensor:
    """Ordinary noise from which a sampler bound to its prompts draws an image, `B x N`.

    Where the search for it begins: at eta > 0 at the draws of a walk from the seeds' noise to the
    image; at eta = 0 where the ODE leads backwards from it (Song et al. 2021, section 4.3).

    Args:
        image: a picture; scaled to the pipeline's size.
        bound: a DDIM sampler's, with the seeds' noise.
        name: what messages call the picture.

    Raises:
        ConfigError: no such noise was found, and why.
    """
    pipe = copy.copy(bound.pipe)
    options = {**bound.options, "output_type": "latent"}
    picture_3HW = _pixels(image, options["height"], options["width"]).to(bound.noise_BN)
    with quiet():
        latents, error = _nearest_latents(picture_3HW, pipe)
    if error > NEAR:
        raise ConfigError(
            f"the model's decoder draws {name} no nearer than {_levels(error)}, and should come "
            f"within {_levels(NEAR)}; give a picture such as this model draws"
        )

    latents = latents.to(bound.noise_BN)
    with torch.no_grad(), quiet():
        if options["eta"]:
            noise_BN = _recorded(pipe, options, latents, bound)
        else:
            noise_BN = _solved_backwards(pipe, options, latents, len(bound.noise_BN))

    found = fitted(noise_BN.to(bound.noise_BN), picture_3HW, bound)
    _check(found, name, bound)
    return found.noise_BN


def _check(found: Fitted, name: str, bound: PipelineNoiseMap) -> None:
    """Raise `ConfigError` unless the noise draws the image and could have been drawn."""
    error = float(found.error_B.max())
    if not error <= NEAR:
        raise ConfigError(
            f"no ordinary noise was found from which {name} is drawn: the nearest is "
            f"{_levels(error)} off, and should come within {_levels(NEAR)}; use a prompt that says "
            "what it shows, a lower guidance_scale, eta = 1 or more steps"
        )
    told = unlikely(found.noise_BN, bound)
    if told:
        raise ConfigError(
            f"the noise found for {name} is no ordinary draw ({', '.join(told)}); use another seed"
        )


def _levels(error: float) -> str:
    return f"{255 * error:.1f}/255"


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
    the walk was made with (CycleDiffusion, Wu & De la Torre, ICCV 2023, arXiv 2210.05559). How far
    each is off is bounded, so that ordinary noise is not far; the walk goes on from where that
    leads.
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
        # At the last steps sigma is small, and what the network gets wrong would be noise of many
        # times its size.
        fresh = self.fresh.pop(0)
        drift = (target - mean) / sigma
        size = drift.square().mean((1, 2, 3), keepdim=True).sqrt()
        draw = fresh + drift * (DRIFT / size.clamp(min=DRIFT))

        self.found.append(draw)
        return (mean + sigma * draw,)

    def _target(self, x_t: Tensor, timestep: int, before: int, sigma: Tensor) -> Tensor:
        """The mean of q(x_s | x_t, x_0)."""
        level = self.alphas_cumprod[timestep]
        next_level = self.final_alpha_cumprod
        if before >= 0:
            next_level = self.alphas_cumprod[before]

        towards = (x_t - level.sqrt() * self.truth) / (1 - level).sqrt()
        target: Tensor = (
            next_level.sqrt() * self.truth + (1 - next_level - sigma**2).sqrt() * towards
        )
        return target


def _pixels(image: Image.Image, height: int, width: int) -> Tensor:
    """A picture scaled to this size, `3 x H x W` in [0, 1]."""
    picture = image.resize((width, height), Image.Resampling.LANCZOS)
    values_HW3 = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
    return values_HW3.permute(2, 0, 1)


def _nearest_latents(picture_3HW: Tensor, pipe: Any) -> tuple[Tensor, float]:
    """Latents that are decoded to nearly a picture, `1 x C x h x w`, and how far they are off.

    What the encoder answers is improved by the decoder's gradient: some codecs are far from giving
    back what they were given.
    """
    code = _encoded(picture_3HW, pipe)
    best = code
    least = math.inf
    leaf = code.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=DECODER_RATE)
    for _ in range(DECODER_ITERATIONS + 1):
        difference = _decoded(leaf, pipe) - picture_3HW
        error = float(difference.detach().abs().mean())
        if error < least:
            least = error
            best = leaf.detach().clone()
        if least < AIM / 2:
            break
        (leaf.grad,) = torch.autograd.grad(difference.square().mean(), leaf)
        adam.step()
    return best, least


def _decoded(code: Tensor, pipe: Any) -> Tensor:
    """The picture of latents, not clamped to [0, 1]."""
    factor, offset = _scaling(pipe.vae, code)
    picture: Tensor = pipe.vae.decode(code * factor + offset, return_dict=False)[0]
    return picture / 2 + 0.5


def _encoded(picture_3HW: Tensor, pipe: Any) -> Tensor:
    """The latents of a picture as the pipeline has them, `1 x C x h x w`."""
    pixels = (2 * picture_3HW - 1)[None].to(pipe.vae.device, pipe.vae.dtype)
    with torch.no_grad():
        latents: Tensor = pipe.vae.encode(pixels).latent_dist.mode()
    factor, offset = _scaling(pipe.vae, latents)
    return (latents - offset) / factor


def _scaling(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """What the pipeline multiplies its latents by, and adds to them, before they are decoded."""
    config = vae.config
    factor = torch.ones_like(like[:1, :, :1, :1]) / config.scaling_factor
    offset = torch.zeros_like(factor) + (config.get("shift_factor") or 0)

    # Of each channel, as Stable Diffusion XL's pipeline has it.
    mean = config.get("latents_mean")
    std = config.get("latents_std")
    if mean is not None and std is not None:
        offset = offset * _for_channels(std, like) + _for_channels(mean, like)
        factor = factor * _for_channels(std, like)
    return factor, offset


def _for_channels(values: Any, latents: Tensor) -> Tensor:
    """One number for each channel, to be combined with latents."""
    return torch.tensor(values).view(1, -1, 1, 1).to(latents)
