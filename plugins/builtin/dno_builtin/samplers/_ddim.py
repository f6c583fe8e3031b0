"""DDIM on a diffusers pipeline, as a differentiable function of all the noise that it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from dno.plugin import ConfigError, Room, quiet

from ._diffusers.apart import ApartNoiseMap
from ._diffusers.folder import PIPELINES, check_size, check_steps
from ._diffusers.invert import noise_of
from ._diffusers.kinds import check_ddim
from ._diffusers.live import check_live
from ._diffusers.needs import DDIM_PIPELINES, PICTURES
from ._diffusers.noise_map import PipelineNoiseMap
from ._diffusers.schedule import UNCLIPPED, Scheduler, options_of
from ._pipeline import PipelineSampler

_PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""What a model may predict for DDIM to sample it."""


class DDIMSampler:
    """Pipeline of the Stable Diffusion family (1.x, 2.x, XL), sampled by DDIM.

    A `PipelineSampler` with `DDIMScheduler` put in. Latents, noise and scheduler arithmetic are
    float32 (float64 where `dtype` is float64), whatever the networks compute in.

    Args:
        pipe: a `StableDiffusionPipeline`, a `StableDiffusionXLPipeline`, or a form of them that
            takes pictures.
        steps, eta, guidance_scale, negative_prompt, height, width, memory, last_steps,
            long_prompts, reuse, start_image: see `DDIM`.
        inputs: see `PipelineSampler`.
        device, dtype, vae_dtype, compile, channels_last: see `PipelineSampler`.

    Raises:
        ConfigError: the pipeline cannot be sampled by DDIM, or a size or number of steps does not
            suit it.
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
        memory: str = "keep",
        last_steps: int | None = None,
        long_prompts: bool = False,
        reuse: int = 1,
        start_image: Path | None = None,
        inputs: Mapping[str, Any] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        vae_dtype: torch.dtype | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        _check_pipeline(pipe)
        with quiet():
            scheduler = Scheduler.from_config(pipe.scheduler.config, **UNCLIPPED)
        _check_schedule(scheduler, steps)
        # Pictures have sizes of their own.
        if not any(name in PICTURES for name in inputs or {}):
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
            long_prompts=long_prompts,
            reuse=reuse,
            options={"eta": eta},
            inputs=inputs,
            scheduler=scheduler,
            device=device,
            dtype=dtype,
            vae_dtype=vae_dtype,
            compile=compile,
            channels_last=channels_last,
        )
        self.device: torch.device = self._sampler.device
        self._inputs = dict(inputs or {})
        self._start_image = start_image
        self._started: dict[tuple[str, int], Tensor] = {}
        """The noise of the start image, by prompt and seed."""

    def make_room(self, room: Room) -> None:
        """See `PipelineSampler.make_room`."""
        self._sampler.make_room(room)

    def bind(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> PipelineNoiseMap | ApartNoiseMap:
        """Encode the prompts once and draw the starting noise, or find that of the start image.

        Args:
            prompts: what sample i shows.
            seeds: what its noise comes from, one for each prompt.

        Raises:
            ConfigError: the pipeline refuses its options.
            ValueError: there are not as many seeds as prompts.
        """
        bound = self._sampler.bind(prompts, seeds)
        if self._start_image is not None:
            # Text-to-image pipelines alone start there, and they draw for each sample.
            assert isinstance(bound, PipelineNoiseMap)
            bound.noise_BN = self._start_noise(
                self._start_image.expanduser(), bound, prompts, seeds
            )
        return bound

    def noise_of(self, picture: Image.Image, sample: PipelineNoiseMap | ApartNoiseMap) -> Tensor:
        """Ordinary noise from which this sampler draws a picture, `B x N`.

        Args:
            picture: in RGB; scaled to the sampler's size.
            sample: this sampler, bound, with the seeds' noise.

        Raises:
            ConfigError: no such noise was found, and why.
        """
        # The search needs all the noise to move, from the first latent on.
        drawn = isinstance(sample, PipelineNoiseMap) and sample.moves_all
        if not drawn or any(name in PICTURES for name in self._inputs):
            raise ConfigError(
                "is a picture, from which a text-to-image model can start that moves all its "
                "noise; leave out last_steps, image and mask"
            )
        assert isinstance(sample, PipelineNoiseMap)
        return noise_of(picture, sample, "the picture")

    def remember(self, prompts: Sequence[str], seeds: Sequence[int], noise_BN: Tensor) -> None:
        """Take noise that was found for items before, of which none is searched for again.

        Args:
            prompts: of the items.
            seeds: theirs.
            noise_BN: found from the same start image.
        """
        if self._start_image is not None:
            rows = noise_BN.detach().to(self.device)
            self._started.update(zip(zip(prompts, seeds, strict=True), rows, strict=True))

    def _start_noise(
        self, image: Path, bound: PipelineNoiseMap, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Tensor:
        """The noise of the start image, searched for once for each prompt and seed."""
        items = list(zip(prompts, seeds, strict=True))
        length = bound.noise_BN.shape[1]
        if not all(item in self._started and len(self._started[item]) == length for item in items):
            with Image.open(image) as picture:
                seen = ImageOps.exif_transpose(picture).convert("RGB")
            try:
                rows = noise_of(seen, bound, str(image))
            except ConfigError as error:
                raise error.inside("start_image") from None
            self._started.update(zip(items, rows, strict=True))
        return torch.stack([self._started[item] for item in items])


def _check_pipeline(pipe: Any) -> None:
    # By name: importing the classes takes seconds, and whoever has such a pipeline has them
    # imported.
    if not any(cls.__name__ in DDIM_PIPELINES for cls in type(pipe).__mro__):
        raise ConfigError(
            f"ddim samples {' and '.join(PIPELINES)}, got a {type(pipe).__name__}", at="model"
        )

    check_live(pipe)
    check_ddim(options_of(pipe.scheduler), whole=True)
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ConfigError(f"ddim cannot sample a model that predicts {prediction!r}", at="model")


def _check_schedule(scheduler: Any, steps: int) -> None:
    levels = scheduler.config.num_train_timesteps
    check_steps(steps, levels)

    # An offset may push the first timestep out of the table.
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if int(timesteps.max()) >= levels:
        raise ConfigError(
            f"the model's schedule starts past its last noise level with {steps} steps; use fewer",
            at="steps",
        )

    has_signal = bool(scheduler.alphas_cumprod[timesteps].all())
    if scheduler.config.prediction_type == "epsilon" and not has_signal:
        raise ConfigError(
            "the model predicts noise and its schedule starts without any signal, where noise "
            "tells nothing of the image; such a schedule (rescale_betas_zero_snr) needs "
            "v_prediction",
            at="model",
        )


def _image_size(pipe: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the images in pixels, the model's own where they are not given."""
    scale = int(pipe.vae_scale_factor)
    check_size("height", height, scale)
    check_size("width", width, scale)

    latent: int | Sequence[int] = pipe.unet.config.sample_size
    if isinstance(latent, int):
        latent = (latent, latent)
    own_height, own_width = latent
    return height or own_height * scale, width or own_width * scale
