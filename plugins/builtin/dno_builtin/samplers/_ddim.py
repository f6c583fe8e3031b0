"""DDIM on a diffusers pipeline, as a differentiable function of all the noise that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from dno.plugin import ConfigError
from dno_builtin._quiet import quiet

from ._diffusers.folder import PIPELINES, check_size, check_steps
from ._diffusers.invert import noise_of
from ._diffusers.parts import UNCLIPPED
from ._diffusers.schedule import Scheduler
from ._pipeline import PipelineNoiseMap, PipelineSampler


class DDIMSampler:
    """Text-to-image pipeline of the Stable Diffusion family (1.x, 2.x, XL), sampled by DDIM.

    A `PipelineSampler` with `DDIMScheduler` put in. Latents, noise and scheduler arithmetic are
    float32 (float64 where `dtype` is float64), whatever the networks compute in.

    Args: pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`. steps, eta,
        guidance_scale, negative_prompt, height, width, memory, last_steps, start_image: see `DDIM`.
        device, dtype: see `PipelineSampler`.

    Raises: ConfigError: the pipeline cannot be sampled by DDIM, or a size or number of steps does
        not suit it.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        steps: int = 50,
        eta: float = 1.0,
        guidance_scale: float = 5.0,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        memory: Literal["keep", "recompute"] = "keep",
        last_steps: int | None = None,
        start_image: Path | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_pipeline(pipe)
        with quiet():
            scheduler = Scheduler.from_config(pipe.scheduler.config, **UNCLIPPED)
        _check_schedule(scheduler, steps)
        height, width = _image_size(pipe, height, width)
        self._sampler = PipelineSampler(
            pipe,
            steps=steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            memory=memory,
            last_steps=last_steps,
            options={"eta": eta},
            scheduler=scheduler,
            device=device,
            dtype=dtype,
        )
        self.device: torch.device = self._sampler.device
        self._start_image = start_image

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> PipelineNoiseMap:
        """Encode the prompts once and draw the starting noise; sample i is `prompts[i]` from
        `seeds[i]`.
        """
        bound = self._sampler.bind(prompts, seeds)
        if self._start_image is not None:
            bound.noise_BN = noise_of(self._start_image.expanduser(), bound)
        return bound


def _check_pipeline(pipe: Any) -> None:
    # By name: importing the classes takes seconds, and whoever has such a pipeline has them
    # imported.
    if not any(cls.__name__ in PIPELINES for cls in type(pipe).__mro__):
        raise ConfigError(
            f"ddim samples {' and '.join(PIPELINES)}, got a {type(pipe).__name__}", at="model"
        )
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "sample", "v_prediction"):
        raise ConfigError(f"ddim cannot sample a model that predicts {prediction!r}", at="model")


def _check_schedule(scheduler: Any, steps: int) -> None:
    levels = scheduler.config.num_train_timesteps
    check_steps(steps, levels)
    scheduler.set_timesteps(steps)
    if int(scheduler.timesteps.max()) >= levels:
        raise ConfigError(
            f"the model's schedule starts past its last noise level with {steps} steps; use fewer",
            at="steps",
        )
    if (
        scheduler.config.prediction_type == "epsilon"
        and not scheduler.alphas_cumprod[scheduler.timesteps].all()
    ):
        raise ConfigError(
            "the model predicts noise and its schedule starts without any signal, where noise "
            "tells nothing of the "
            "image; such a schedule (rescale_betas_zero_snr) needs v_prediction",
            at="model",
        )


def _image_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    own = pipe.unet.config.sample_size
    own_height, own_width = (own, own) if isinstance(own, int) else own
    scale = int(pipe.vae_scale_factor)
    for at, size in (("height", height), ("width", width)):
        check_size(at, size, scale)
    return height or own_height * scale, width or own_width * scale
