"""DDIM on a diffusers pipeline, as a differentiable function of all the noise that it draws."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from dno.plugin import ConfigError, gaussian_noise
from dno_builtin._quiet import quiet

from ._folder import PIPELINES, check_size, check_steps
from ._modules import cast, frozen_view, heavy, remember
from ._tape import NoiseTape


class _Scheduler(DDIMScheduler):  # type: ignore[misc]
    """diffusers' DDIM, without its waits for the GPU and without its NaN at zero signal."""

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        """Timesteps on the CPU, where the table of noise levels is, so that `step` need not fetch each from a GPU."""
        super().set_timesteps(num_inference_steps)

    def _get_variance(self, timestep: int, prev_timestep: int) -> Tensor:
        variance: Tensor = super()._get_variance(timestep, prev_timestep)
        level = self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        # Where the signal is zero and eta is 1, all of `1 - level` is fresh noise; rounding makes it a little
        # more, and `step` then takes the root of what is left. Other steps are far below.
        return torch.minimum(variance, (1 - level) * (1 - 1e-6))


class DDIMSampler:
    """Text-to-image pipeline of the Stable Diffusion family (1.x, 2.x, XL), sampled by DDIM.

    Given the same noise its images are those of the pipeline itself with `DDIMScheduler` put in.
    Latents, noise and scheduler arithmetic are float32 (float64 where `dtype` is float64), whatever
    the networks compute in.

    The pipeline is left as it was: the sampler works on frozen views that share its weights. Modules
    swapped in it later are not seen; weights changed in place are.

    Args:
        pipe: a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`.
        steps, eta, guidance_scale, negative_prompt, height, width, memory: see `DDIM`.
        device: where to compute; None: where the pipeline is.
        dtype: what the denoising network and the text encoders compute in; None: the pipeline's own.
            The decoder computes in float32 (float64 where that is float64): half precision overflows in it.

    Raises:
        ConfigError: the pipeline cannot be sampled by DDIM, or a size or number of steps does not suit it.
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
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_pipeline(pipe)
        self.device: torch.device = device or pipe.unet.device
        dtype = dtype or pipe.unet.dtype
        self._dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._pipe = _private(pipe, self.device, dtype, self._dtype, recompute=memory == "recompute")
        _check_schedule(self._pipe.scheduler, steps)
        sizes = _image_size(self._pipe, height, width)
        self._options: Mapping[str, Any] = {
            "num_inference_steps": steps,
            "eta": eta,
            "guidance_scale": guidance_scale,
            "height": sizes[0],
            "width": sizes[1],
            "return_dict": False,
        }
        self._negative_prompt = negative_prompt

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> DDIMNoiseMap:
        """Encode the prompts once and draw the starting noise; sample i is `prompts[i]` from `seeds[i]`."""
        if len(prompts) != len(seeds):
            raise ValueError(f"each sample needs a prompt and a seed, got {len(prompts)} and {len(seeds)}")
        pipe = copy.copy(self._pipe)
        encode = pipe.encode_prompt
        pipe.encode_prompt = remember(lambda *args, **kwargs: cast(encode(*args, **kwargs), self._dtype))
        # To diffusers an empty negative prompt and none at all differ for SDXL; none is its default.
        negative = [self._negative_prompt] * len(prompts) if self._negative_prompt else None
        options = {**self._options, "prompt": list(prompts), "negative_prompt": negative}
        return DDIMNoiseMap(pipe, options, seeds, self.device)


class DDIMNoiseMap:
    """A `DDIMSampler` bound to prompts and seeds; see `dno.plugin.NoiseMap`."""

    def __init__(self, pipe: Any, options: Mapping[str, Any], seeds: Sequence[int], device: torch.device) -> None:
        self._pipe, self._options = pipe, options
        shapes, acts = _rehearse(pipe, options)
        self._acts = acts
        self.draws: Sequence[tuple[int, ...]] = [shape for shape, used in zip(shapes, acts, strict=True) if used]
        """Shape of each moving draw of one sample: the initial latent, then a draw for each step that uses one."""
        # Inert draws take their turn at the generator too: those after them keep their diffusers values.
        noise_BN = gaussian_noise(shapes, seeds)
        sizes = [math.prod(shape) for shape in shapes]
        kept = [part for part, used in zip(torch.split(noise_BN, sizes, dim=1), acts, strict=True) if used]
        self.noise_BN: Tensor = torch.cat(kept, dim=1).to(device)
        """Where the seeds start, float32 `B x N`, on the sampler's device."""

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """Images of this noise, `B x 3 x H x W`, RGB in [0, 1], in the noise's dtype and on its device.

        Raises:
            ValueError: the noise is not `B x N`.
        """
        if noise_BN.shape != self.noise_BN.shape:
            expected, got = tuple(self.noise_BN.shape), tuple(noise_BN.shape)
            raise ValueError(f"the noise of these prompts is {expected}, got {got}")
        moving = iter(torch.split(noise_BN, [math.prod(shape) for shape in self.draws], dim=1))
        acts = iter(self._acts)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return next(moving).reshape(shape) if next(acts) else noise_BN.new_zeros(shape)

        with NoiseTape(draw):
            images: Tensor = self._pipe(**self._options, output_type="pt")[0]
        return images.to(noise_BN)


def _rehearse(pipe: Any, options: Mapping[str, Any]) -> tuple[list[tuple[int, ...]], list[bool]]:
    """Shape of each draw of one sample, and whether it can act on the image.

    Runs the pipeline with a network that answers zero: a draw acts if and only if the network's later
    inputs or the final latents depend on it. Prompts are encoded on the way.
    """
    leaves: list[Tensor] = []
    reached: list[Tensor] = []

    def draw(shape: tuple[int, ...]) -> Tensor:
        leaves.append(torch.zeros(shape, requires_grad=True))
        return leaves[-1]

    def answer_zero(sample: Tensor, *args: object, **kwargs: object) -> tuple[Tensor]:
        reached.append(sample)
        return (torch.zeros_like(sample),)

    silent = copy.copy(pipe)
    silent.unet = copy.copy(pipe.unet)
    silent.unet.forward = answer_zero
    with torch.enable_grad(), NoiseTape(draw):
        reached.append(silent(**options, output_type="latent")[0])
        # With a zero network every path through DDIM has a factor >= 0, so nothing cancels in a sum.
        total = torch.stack([tensor.sum() for tensor in reached]).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    # NaN counts as acting: what is wrong with such a model is for the image to show.
    acts = [gradient is not None and bool((gradient != 0).any()) for gradient in gradients]
    return [tuple(leaf.shape[1:]) for leaf in leaves], acts


def _private(pipe: Any, device: torch.device, dtype: torch.dtype, outside: torch.dtype, *, recompute: bool) -> Any:
    """The pipeline as the sampler calls it, sharing its weights and nothing else that can change."""
    own = copy.copy(pipe)
    for name in ("safety_checker", "watermark"):  # both would take the image out of torch
        if getattr(own, name, None) is not None:
            setattr(own, name, None)
    for name, module in own.components.items():
        if isinstance(module, nn.Module):
            setattr(own, name, frozen_view(module, device, outside if name == "vae" else dtype))
    if device.type == "cpu":
        # oneDNN convolves a tenth faster this way: it need not reorder the weights at each call.
        nn.Module.to(own.unet, memory_format=torch.channels_last)  # type: ignore[call-overload]
    own.unet.forward = heavy(own.unet.forward, inside=dtype, outside=outside, recompute=recompute)
    own.vae.decode = heavy(own.vae.decode, inside=outside, outside=outside)
    with quiet():
        # Clipping and thresholding are for pixel-space models; their gradients vanish where they act.
        own.scheduler = _Scheduler.from_config(pipe.scheduler.config, clip_sample=False, thresholding=False)
    own.set_progress_bar_config(disable=True)
    return own


def _check_pipeline(pipe: Any) -> None:
    # By name: importing the classes takes seconds, and whoever has such a pipeline has them imported.
    if not any(cls.__name__ in PIPELINES for cls in type(pipe).__mro__):
        raise ConfigError(f"ddim samples {' and '.join(PIPELINES)}, got a {type(pipe).__name__}", at="model")
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "sample", "v_prediction"):
        raise ConfigError(f"ddim cannot sample a model that predicts {prediction!r}", at="model")
    if any(hasattr(part, "_hf_hook") for part in pipe.components.values()):
        raise ConfigError(
            "the pipeline moves its networks between devices as it runs, which breaks the backward pass; "
            "load it without offloading",
            at="model",
        )


def _check_schedule(scheduler: Any, steps: int) -> None:
    levels = scheduler.config.num_train_timesteps
    check_steps(steps, levels)
    scheduler.set_timesteps(steps)
    if int(scheduler.timesteps.max()) >= levels:
        raise ConfigError(
            f"the model's schedule starts past its last noise level with {steps} steps; use fewer", at="steps"
        )
    if scheduler.config.prediction_type == "epsilon" and not scheduler.alphas_cumprod[scheduler.timesteps].all():
        raise ConfigError(
            "the model predicts noise and its schedule starts without any signal, where noise tells nothing of the "
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
