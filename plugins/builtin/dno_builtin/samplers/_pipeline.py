"""Any text-to-image pipeline of diffusers, as a differentiable function of all the noise that it
draws.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import diffusers
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor

from dno.plugin import ConfigError, RunError, gaussian_noise
from dno_builtin._quiet import quiet

from ._diffusers.modules import each
from ._diffusers.parts import (
    Function,
    own_dtype,
    private_copy,
    remembering,
    scheduler_options,
    staged,
)
from ._diffusers.rehearsal import Found, Rehearsal, run_pipeline, without_gradient
from ._diffusers.tape import NoiseTape


class PipelineSampler:
    """Text-to-image pipeline sampled by its own call: same scheduler, same guidance, same images.

    Given the same noise its images are those of the pipeline itself, with sample clipping switched
    off. The draws that act on the image are found by measurement when prompts are bound, so nothing
    is known here of any one model or scheduler.

    The pipeline is left as it was: the sampler works on frozen views that share its weights.
    Modules swapped in it later are not seen; weights changed in place are.

    Args: pipe: a diffusers pipeline that makes images from a prompt. steps, guidance_scale,
        negative_prompt, height, width, memory, last_steps, options: see `Pipeline`. scheduler: what
        samples in place of the pipeline's own `scheduler`; it is copied. device: where to compute;
        None: where the pipeline is. dtype: what the denoising networks and the text encoders
        compute in; None: the pipeline's own. Decoders compute in float32 (float64 where that is
        float64): half precision overflows in them.

    Raises:
        ConfigError: it is no such pipeline, or it does not take one of the options.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        memory: Literal["keep", "recompute"] = "keep",
        last_steps: int | None = None,
        options: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_class(type(pipe))
        _check_hooks(pipe)
        self.device: torch.device = device or pipe.device
        dtype = dtype or own_dtype(pipe)
        self._dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._pipe = private_copy(
            pipe, scheduler, self.device, dtype, self._dtype, recompute=memory == "recompute"
        )
        self._last_steps = last_steps
        self._negative_prompt = negative_prompt
        given = {
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "height": height,
            "width": width,
        }
        self._options: Mapping[str, Any] = {
            **(options or {}),
            **{name: value for name, value in given.items() if value is not None},
            "output_type": "pt",
            "return_dict": False,
        }
        _check_options(type(pipe), self._options, options or {}, negative_prompt)

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> PipelineNoiseMap:
        """Encode the prompts once and draw the starting noise; sample i is `prompts[i]` from
        `seeds[i]`.

        Raises: ConfigError: the pipeline refuses its options, or is no differentiable map from
            noise to images. RunError: it draws noise that is not Gaussian. ValueError: there are
            not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(
                f"each sample needs a prompt and a seed, got {len(prompts)} and {len(seeds)}"
            )
        options = {**self._options, "prompt": list(prompts)}
        if self._negative_prompt:
            # To diffusers an empty negative prompt and none at all differ for SDXL; none is its
            # default.
            options["negative_prompt"] = [self._negative_prompt] * len(prompts)
        pipe = remembering(self._pipe, self._dtype)
        return PipelineNoiseMap(pipe, options, seeds, self.device, self._last_steps)


class PipelineNoiseMap:
    """A `PipelineSampler` bound to prompts and seeds; see `dno.plugin.NoiseMap`."""

    def __init__(
        self,
        pipe: Any,
        options: Mapping[str, Any],
        seeds: Sequence[int],
        device: torch.device,
        last_steps: int | None = None,
    ) -> None:
        self.pipe, self.options = pipe, options
        """The private pipeline, and what it is called with."""
        rehearsal = Rehearsal(pipe, options, len(seeds), device)
        found = rehearsal.run()
        moves = found.acts
        if last_steps is not None:
            moves = _in_last_steps(found, last_steps)
            found = rehearsal.run(moves)
        self._depends, self._signed = found.depends, found.signed
        self._answers: dict[int, Any] = {}
        self.network_evaluations: int = round(found.rows / len(seeds))
        """Passes through the denoising network that a call makes for each sample; guidance counts
        twice. Those that no moving noise can reach are made by the first call alone and are not
        counted."""
        self.draws: Sequence[tuple[int, ...]] = [
            s for s, moving in zip(found.shapes, moves, strict=True) if moving
        ]
        """Shape of each moving draw of one sample, in the order drawn."""
        # Draws that stay take their turn at the generator too: those after them keep their
        # diffusers values.
        sizes = [math.prod(shape) for shape in found.shapes]
        parts = torch.split(gaussian_noise(found.shapes, seeds).to(device), sizes, dim=1)
        self._shapes = found.shapes
        self._fixed = [
            None if moving else part.clone() for part, moving in zip(parts, moves, strict=True)
        ]
        self.noise_BN: Tensor = torch.cat(
            [part for part, moving in zip(parts, moves, strict=True) if moving], dim=1
        )
        """Where the seeds start, float32 `B x N`, on the sampler's device."""

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """Images of this noise, `B x 3 x H x W`, RGB in [0, 1], in the noise's dtype and on its
        device.

        Raises:
            ValueError: the noise is not `B x N`.
            RunError: the pipeline drew otherwise than when it was bound.
        """
        if noise_BN.shape != self.noise_BN.shape:
            expected, got = tuple(self.noise_BN.shape), tuple(noise_BN.shape)
            raise ValueError(f"the noise of these prompts is {expected}, got {got}")
        moving = iter(torch.split(noise_BN, [math.prod(shape) for shape in self.draws], dim=1))
        drawn, called = itertools.count(), itertools.count()

        def draw(shape: tuple[int, ...]) -> Tensor:
            index = next(drawn)
            if index >= len(self._fixed):
                raise RunError(
                    f"the sampler drew noise more often than the {len(self._fixed)} times recorded"
                )
            fixed = self._fixed[index]
            noise = next(moving) if fixed is None else fixed.to(noise_BN)
            return noise.reshape(-1, *self._shapes[index])

        def answer(function: Function, _: bool, args: Any, kwargs: Any) -> Any:
            index = next(called)
            if index >= len(self._depends) or self._depends[index]:
                return function(*args, **kwargs)
            if index not in self._answers:
                self._answers[index] = without_gradient(function, args, kwargs)
            return each(self._answers[index], Tensor.clone)

        with NoiseTape(draw):
            images: Tensor = run_pipeline(staged(self.pipe, answer), self.options)
        if self._signed:
            images = (images / 2 + 0.5).clamp(0, 1)
        return images.to(noise_BN)


def _in_last_steps(found: Found, last_steps: int) -> list[bool]:
    if last_steps > found.steps:
        raise ConfigError(
            f"must be at most {found.steps}, the steps that the scheduler takes, got {last_steps}",
            at="last_steps",
        )
    first = found.steps - last_steps
    moves = [acts and step >= first for acts, step in zip(found.acts, found.step, strict=True)]
    if not any(moves):
        raise ConfigError(
            f"no noise that is drawn in the last {last_steps} of {found.steps} steps acts on the "
            "image; "
            "move more steps, or use a scheduler that adds noise at each",
            at="last_steps",
        )
    return moves


def check_class(cls: type) -> None:
    """Raise `ConfigError` unless the class is a diffusers pipeline that makes images from a
    prompt.
    """
    if not issubclass(cls, DiffusionPipeline):
        raise ConfigError(f"should be a diffusers pipeline, got a {cls.__name__}", at="model")
    lacking = [
        name for name in ("prompt", "output_type", "return_dict") if name not in _parameters(cls)
    ]
    if lacking:
        raise ConfigError(
            f"{cls.__name__} takes no `{lacking[0]}`; only text-to-image pipelines are sampled",
            at="model",
        )


def make_scheduler(pipe: Any, cls: str | None, changes: Mapping[str, Any]) -> Any:
    """The pipeline's scheduler with changed options, under another of diffusers' scheduler classes
    where one is named.

    Raises:
        ConfigError: there is no such class, or it has no such option.
    """
    own = getattr(pipe, "scheduler", None)
    if cls is None and not changes:
        return own
    if not isinstance(own, SchedulerMixin):
        raise ConfigError(
            f"a {type(pipe).__name__} has no `scheduler` to change",
            at="scheduler" if changes else "scheduler_class",
        )
    found: Any = type(own) if cls is None else getattr(diffusers, cls, None)
    kind: Any = found if isinstance(found, type) and issubclass(found, SchedulerMixin) else None
    if kind is None:
        raise ConfigError(
            f'diffusers has no scheduler "{cls}" here; name one, such as DDIMScheduler',
            at="scheduler_class",
        )
    known = scheduler_options(kind)
    for name in changes:
        if name not in known:
            raise ConfigError(
                f"{kind.__name__} has no option `{name}`; it has {', '.join(known)}", at="scheduler"
            )
    try:
        with quiet():
            return kind.from_config(own.config, **changes)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"{kind.__name__} cannot be made of the model's schedule: {str(error).splitlines()[0]}",
            at="scheduler" if changes else "scheduler_class",
        ) from error


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__call__).parameters


def _check_options(
    cls: type, options: Mapping[str, Any], free: Mapping[str, Any], negative_prompt: str
) -> None:
    known = _parameters(cls)
    ours = {
        "num_inference_steps": "steps",
        "guidance_scale": "guidance_scale",
        "height": "height",
        "width": "width",
    }
    asked = [
        (name, ours.get(name, "options") if name not in free else "options") for name in options
    ]
    for name, at in [
        *asked,
        *([("negative_prompt", "negative_prompt")] if negative_prompt else []),
    ]:
        if name not in known:
            raise ConfigError(f"{cls.__name__} takes no `{name}`", at=at)
    for name, parameter in known.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and name not in ("self", "prompt", *options):
            raise ConfigError(
                f"{cls.__name__} needs `{name}` besides a prompt; only text-to-image pipelines "
                "are sampled",
                at="model",
            )


def _check_hooks(pipe: Any) -> None:
    if any(hasattr(part, "_hf_hook") for part in pipe.components.values()):
        raise ConfigError(
            "the pipeline moves its networks between devices as it runs, which breaks the "
            "backward pass; "
            "load it without offloading",
            at="model",
        )
