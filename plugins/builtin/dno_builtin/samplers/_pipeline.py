"""Any text-to-image pipeline of diffusers, as a differentiable function of all the noise that it draws."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from dno.plugin import ConfigError, RunError, gaussian_noise
from dno_builtin._quiet import quiet

from ._modules import cast, each, frozen_view, heavy, remember, tensors
from ._tape import NoiseTape

Function = Callable[..., Any]

UNCLIPPED = {"clip_sample": False, "thresholding": False}
"""Scheduler options that are always put in: gradients vanish where either acts."""


class PipelineSampler:
    """Text-to-image pipeline sampled by its own call: same scheduler, same guidance, same images.

    Given the same noise its images are those of the pipeline itself, with sample clipping switched off.
    The draws that act on the image are found by measurement when prompts are bound, so nothing is known
    here of any one model or scheduler.

    The pipeline is left as it was: the sampler works on frozen views that share its weights. Modules
    swapped in it later are not seen; weights changed in place are.

    Args:
        pipe: a diffusers pipeline that makes images from a prompt.
        steps, guidance_scale, negative_prompt, height, width, memory, last_steps, options: see `Pipeline`.
        scheduler: what samples in place of the pipeline's own `scheduler`; it is copied.
        device: where to compute; None: where the pipeline is.
        dtype: what the denoising networks and the text encoders compute in; None: the pipeline's own.
            Decoders compute in float32 (float64 where that is float64): half precision overflows in them.

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
        dtype = dtype or _own_dtype(pipe)
        self._dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._pipe = _private(pipe, scheduler, self.device, dtype, self._dtype, recompute=memory == "recompute")
        self._last_steps = last_steps
        self._negative_prompt = negative_prompt
        given = {"num_inference_steps": steps, "guidance_scale": guidance_scale, "height": height, "width": width}
        self._options: Mapping[str, Any] = {
            **(options or {}),
            **{name: value for name, value in given.items() if value is not None},
            "output_type": "pt",
            "return_dict": False,
        }
        _check_options(type(pipe), self._options, options or {}, negative_prompt)

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> PipelineNoiseMap:
        """Encode the prompts once and draw the starting noise; sample i is `prompts[i]` from `seeds[i]`.

        Raises:
            ConfigError: the pipeline refuses its options, or is no differentiable map from noise to images.
            RunError: it draws noise that is not Gaussian.
            ValueError: there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"each sample needs a prompt and a seed, got {len(prompts)} and {len(seeds)}")
        options = {**self._options, "prompt": list(prompts)}
        if self._negative_prompt:
            # To diffusers an empty negative prompt and none at all differ for SDXL; none is its default.
            options["negative_prompt"] = [self._negative_prompt] * len(prompts)
        pipe = _remembering(self._pipe, self._dtype)
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
        rehearsal = _Rehearsal(pipe, options, len(seeds), device)
        found = rehearsal.run()
        moves = found.acts
        if last_steps is not None:
            moves = _in_last_steps(found, last_steps)
            found = rehearsal.run(moves)
        self._depends, self._signed = found.depends, found.signed
        self._answers: dict[int, Any] = {}
        self.network_evaluations: int = round(found.rows / len(seeds))
        """Passes through the denoising network that a call makes for each sample; guidance counts twice. Those that
        no moving noise can reach are made by the first call alone and are not counted."""
        self.draws: Sequence[tuple[int, ...]] = [s for s, moving in zip(found.shapes, moves, strict=True) if moving]
        """Shape of each moving draw of one sample, in the order drawn."""
        # Draws that stay take their turn at the generator too: those after them keep their diffusers values.
        sizes = [math.prod(shape) for shape in found.shapes]
        parts = torch.split(gaussian_noise(found.shapes, seeds).to(device), sizes, dim=1)
        self._shapes = found.shapes
        self._fixed = [None if moving else part.clone() for part, moving in zip(parts, moves, strict=True)]
        self.noise_BN: Tensor = torch.cat([part for part, moving in zip(parts, moves, strict=True) if moving], dim=1)
        """Where the seeds start, float32 `B x N`, on the sampler's device."""

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """Images of this noise, `B x 3 x H x W`, RGB in [0, 1], in the noise's dtype and on its device.

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
                raise RunError(f"the sampler drew noise more often than the {len(self._fixed)} times recorded")
            fixed = self._fixed[index]
            noise = next(moving) if fixed is None else fixed.to(noise_BN)
            return noise.reshape(-1, *self._shapes[index])

        def answer(function: Function, _: bool, args: Any, kwargs: Any) -> Any:
            index = next(called)
            if index >= len(self._depends) or self._depends[index]:
                return function(*args, **kwargs)
            if index not in self._answers:
                self._answers[index] = _without_gradient(function, args, kwargs)
            return each(self._answers[index], Tensor.clone)

        with NoiseTape(draw):
            images: Tensor = _call(_staged(self.pipe, answer), self.options)
        if self._signed:
            images = (images / 2 + 0.5).clamp(0, 1)
        return images.to(noise_BN)


@dataclass(frozen=True)
class _Found:
    """What a rehearsal found out about one call of a pipeline."""

    shapes: list[tuple[int, ...]]
    """Of each draw of one sample."""
    acts: list[bool]
    """Whether each draw can act on the image."""
    step: list[int]
    """The denoising step for which each was drawn, from 0; the initial noise is the first step's."""
    steps: int
    depends: list[bool]
    """Whether each call of a network or decoder can depend on noise that moves."""
    rows: int
    """Rows that go through the denoising networks in those calls, guidance and batch included."""
    signed: bool
    """Whether the images come as decoders give them, in [-1, 1] and not clamped: some pipelines leave them so."""


class _Rehearsal:
    """Calls of the pipeline with cheap stand-ins for its networks, to see which noise goes where.

    Each network runs once for each form of its arguments, for the form of its answer. From then on it
    answers fixed numbers that have the gradient of a weighted sum of its inputs, so that everything that
    reaches an input goes on to every entry of the answer, and gradients show what reaches the image.
    """

    def __init__(self, pipe: Any, options: Mapping[str, Any], samples: int, device: torch.device) -> None:
        self._pipe, self._options, self._samples, self._device = pipe, options, samples, device
        self._name = type(pipe).__name__
        self._forms: dict[Any, Any] = {}

    def run(self, moves: Sequence[bool] | None = None) -> _Found:
        """Rehearse with the draws that move, all where it is not yet known."""
        generator = torch.Generator().manual_seed(0)
        leaves: list[Tensor] = []
        step: list[int] = []
        depends: list[bool] = []
        rows = steps = 0

        def draw(shape: tuple[int, ...]) -> Tensor:
            if not shape or shape[0] != self._samples:
                raise ConfigError(
                    f"{self._name} draws noise of shape {shape} for {self._samples} samples: not a draw of its own for "
                    "each, so that they cannot be optimised side by side",
                    at="model",
                )
            moving = moves is None or (len(leaves) < len(moves) and moves[len(leaves)])
            leaves.append(torch.randn(shape, generator=generator).requires_grad_(moving))
            step.append(steps)
            return leaves[-1]

        def answer(function: Function, decodes: bool, args: Any, kwargs: Any) -> Any:
            nonlocal rows
            inputs = [tensor for tensor in tensors((args, kwargs)) if tensor.requires_grad]
            depends.append(bool(inputs))
            if inputs and not decodes:
                rows += _rows((*args, *kwargs.values()))
            form = id(function), repr(_form(args)), repr(_form(kwargs))
            if form not in self._forms:
                self._forms[form] = _without_gradient(function, args, kwargs)
            if not inputs:
                return each(self._forms[form], Tensor.clone)
            with torch._C.DisableTorchFunction():  # its numbers are no draws of the sampler
                return each(self._forms[form], lambda like: _stand_in(like, inputs, generator))

        def stepped() -> None:
            nonlocal steps
            steps += 1

        before = _random_state(self._device)
        try:
            with torch.enable_grad(), NoiseTape(draw):
                images = _call(_staged(self._pipe, answer, stepped), self._options)
        except (ConfigError, RunError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a pipeline says to options that do not suit it
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(f"{self._name} cannot be sampled with these options: {reason}", at="model") from error
        self._check(images, drew_unseen=not torch.equal(before, _random_state(self._device)))
        weights = torch.rand(images.shape, generator=generator) + 0.5
        with torch.enable_grad():
            total = (images * weights.to(images)).sum()
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = iter(torch.autograd.grad(total, moving, allow_unused=True))
        # NaN counts as acting: what is wrong with such a model is for the image to show.
        acts = [
            leaf.requires_grad and (slope := next(gradients)) is not None and bool((slope != 0).any())
            for leaf in leaves
        ]
        if not any(acts):
            raise ConfigError(f"no noise that {self._name} draws acts on its images", at="model")
        shapes = [tuple(leaf.shape[1:]) for leaf in leaves]
        step = [min(index, max(steps - 1, 0)) for index in step]
        signed = bool(images.min() < 0) or bool(images.max() > 1)
        return _Found(shapes, acts, step, steps, depends, rows, signed)

    def _check(self, images: Any, *, drew_unseen: bool) -> None:
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[:2] != (self._samples, 3):
            made = f"a {tuple(images.shape)} tensor" if isinstance(images, Tensor) else f"a {type(images).__name__}"
            raise ConfigError(
                f"{self._name} makes {made} of {self._samples} prompts, not one RGB image each; "
                "only text-to-image pipelines are sampled",
                at="model",
            )
        sizes = {"height": images.shape[2], "width": images.shape[3]}
        for name, other in (("height", "width"), ("width", "height")):
            # Pipelines may round a size; some pass over one that comes without the other.
            if name in self._options and other not in self._options and self._options[name] != sizes[name]:
                raise ConfigError(
                    f"{self._name} makes images of {sizes['height']} x {sizes['width']} pixels where a {name} of "
                    f"{self._options[name]} was asked; give a {other} as well",
                    at=name,
                )
        if drew_unseen:
            raise ConfigError(
                f"{self._name} has a network that draws noise of its own, which cannot be held", at="model"
            )
        if not images.isfinite().all():
            raise ConfigError(
                f"{self._name} computes values that are not finite whatever its network answers; "
                "choose another scheduler or another number of steps",
                at="model",
            )
        if not images.requires_grad:
            raise ConfigError(
                f"{self._name} cuts the gradient between its noise and its images, so that nothing can be optimised",
                at="model",
            )


def _in_last_steps(found: _Found, last_steps: int) -> list[bool]:
    if last_steps > found.steps:
        raise ConfigError(
            f"must be at most {found.steps}, the steps that the scheduler takes, got {last_steps}", at="last_steps"
        )
    first = found.steps - last_steps
    moves = [acts and step >= first for acts, step in zip(found.acts, found.step, strict=True)]
    if not any(moves):
        raise ConfigError(
            f"no noise that is drawn in the last {last_steps} of {found.steps} steps acts on the image; "
            "move more steps, or use a scheduler that adds noise at each",
            at="last_steps",
        )
    return moves


def _call(pipe: Any, options: Mapping[str, Any]) -> Any:
    """The pipeline's images."""
    # Copied, because some pipelines write into their list of prompts.
    own = {name: copy.copy(value) if isinstance(value, list) else value for name, value in options.items()}
    with quiet():  # some would say the same thing at every call
        result = pipe(**own)
    return result[0] if isinstance(result, (tuple, list)) else result


def _random_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def _without_gradient(function: Function, args: Any, kwargs: Any) -> Any:
    # Inside a noise tape `no_grad` has an effect only out of its sight.
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return function(*args, **kwargs)


def _rows(arguments: Sequence[Any]) -> int:
    """Samples that a network is given: rows of its first tensor that depends on the noise, or entries of a list."""
    for value in arguments:
        if any(tensor.requires_grad for tensor in tensors(value)):
            return len(value) if isinstance(value, (list, tuple)) else len(next(tensors(value)))
    return 0


def _form(value: Any) -> Any:
    """What of a network's argument can decide the form of its answer."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {key: _form(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_form(item) for item in value]
    return value if isinstance(value, (bool, int, str, type(None))) else type(value)


def _stand_in(like: Tensor, inputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Fixed numbers of that form, every one of which seems to depend a little on every entry of the inputs."""
    if not like.is_floating_point():
        return like

    def random(shape: Sequence[int], low: float) -> Tensor:
        return torch.rand(shape, generator=generator) + low

    # Positive weights, so that nothing cancels; a map whose norm is about a hundredth, so that gradients through a
    # thousand of them neither overflow nor vanish; and numbers from -2 to 2, so that an image is clamped in part only.
    seen = torch.stack([(x * random(x.shape, 0.5).to(x)).sum() / math.sqrt(x.numel()) for x in inputs]).sum()
    slope = random(like.shape, 0.5).to(like) * (0.01 / math.sqrt(like.numel()))
    return 4 * random(like.shape, -0.5).to(like) + slope * (seen - seen.detach())


def check_class(cls: type) -> None:
    """Raise `ConfigError` unless the class is a diffusers pipeline that makes images from a prompt."""
    if not issubclass(cls, DiffusionPipeline):
        raise ConfigError(f"should be a diffusers pipeline, got a {cls.__name__}", at="model")
    lacking = [name for name in ("prompt", "output_type", "return_dict") if name not in _parameters(cls)]
    if lacking:
        raise ConfigError(
            f"{cls.__name__} takes no `{lacking[0]}`; only text-to-image pipelines are sampled", at="model"
        )


def make_scheduler(pipe: Any, cls: str | None, changes: Mapping[str, Any]) -> Any:
    """The pipeline's scheduler with changed options, under another of diffusers' scheduler classes where one is named.

    Raises:
        ConfigError: there is no such class, or it has no such option.
    """
    own = getattr(pipe, "scheduler", None)
    if cls is None and not changes:
        return own
    if not isinstance(own, SchedulerMixin):
        raise ConfigError(
            f"a {type(pipe).__name__} has no `scheduler` to change", at="scheduler" if changes else "scheduler_class"
        )
    found: Any = type(own) if cls is None else getattr(diffusers, cls, None)
    kind: Any = found if isinstance(found, type) and issubclass(found, SchedulerMixin) else None
    if kind is None:
        raise ConfigError(
            f'diffusers has no scheduler "{cls}" here; name one, such as DDIMScheduler', at="scheduler_class"
        )
    known = _scheduler_options(kind)
    for name in changes:
        if name not in known:
            raise ConfigError(f"{kind.__name__} has no option `{name}`; it has {', '.join(known)}", at="scheduler")
    try:
        with quiet():
            return kind.from_config(own.config, **changes)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"{kind.__name__} cannot be made of the model's schedule: {str(error).splitlines()[0]}",
            at="scheduler" if changes else "scheduler_class",
        ) from error


def _scheduler_options(cls: Any) -> list[str]:
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(cls.__call__).parameters


def _check_options(cls: type, options: Mapping[str, Any], free: Mapping[str, Any], negative_prompt: str) -> None:
    known = _parameters(cls)
    ours = {"num_inference_steps": "steps", "guidance_scale": "guidance_scale", "height": "height", "width": "width"}
    asked = [(name, ours.get(name, "options") if name not in free else "options") for name in options]
    for name, at in [*asked, *([("negative_prompt", "negative_prompt")] if negative_prompt else [])]:
        if name not in known:
            raise ConfigError(f"{cls.__name__} takes no `{name}`", at=at)
    for name, parameter in known.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if required and name not in ("self", "prompt", *options):
            raise ConfigError(
                f"{cls.__name__} needs `{name}` besides a prompt; only text-to-image pipelines are sampled", at="model"
            )


def _check_hooks(pipe: Any) -> None:
    if any(hasattr(part, "_hf_hook") for part in pipe.components.values()):
        raise ConfigError(
            "the pipeline moves its networks between devices as it runs, which breaks the backward pass; "
            "load it without offloading",
            at="model",
        )


def _role(part: Any) -> Literal["scheduler", "encoder", "decoder", "network"] | None:
    """What a pipeline does with one of its parts, told from the part alone."""
    if isinstance(part, SchedulerMixin):
        return "scheduler"
    if not isinstance(part, nn.Module):
        return None
    if isinstance(part, PreTrainedModel):
        return "encoder"
    return "decoder" if callable(getattr(part, "decode", None)) else "network"


def _own_dtype(pipe: Any) -> torch.dtype:
    networks: list[nn.Module] = [
        part for own in _family(pipe) for part in vars(own).values() if _role(part) == "network"
    ]
    dtypes = (weight.dtype for network in networks for weight in network.parameters() if weight.is_floating_point())
    return next(dtypes, torch.float32)


def _family(pipe: Any) -> Iterator[Any]:
    """The pipeline and the pipelines that it is made of."""
    yield pipe
    for part in vars(pipe).values():
        if isinstance(part, DiffusionPipeline):
            yield from _family(part)


def _rebuilt(pipe: Any, change: Callable[[str, Any], Any]) -> Any:
    """A copy of the pipeline, and of the pipelines it is made of, with its parts changed, each part once."""
    done: dict[int, Any] = {}

    def copied(pipe: Any) -> Any:
        own = copy.copy(pipe)
        for name, part in vars(pipe).items():
            if isinstance(part, DiffusionPipeline):
                vars(own)[name] = copied(part)
            elif _role(part):
                if id(part) not in done:
                    done[id(part)] = change(name, part)
                vars(own)[name] = done[id(part)]
        return own

    return copied(pipe)


def _private(
    pipe: Any, scheduler: Any, device: torch.device, dtype: torch.dtype, outside: torch.dtype, *, recompute: bool
) -> Any:
    """The pipeline as the sampler calls it, sharing its weights and nothing else that can change."""

    def change(name: str, part: Any) -> Any:
        if name == "safety_checker":
            return None  # it would take the image out of torch
        role = _role(part)
        if role == "scheduler":
            chosen: Any = scheduler if scheduler is not None and part is pipe.scheduler else part
            known = _scheduler_options(type(chosen))
            with quiet():
                return chosen.from_config(
                    chosen.config, **{name: value for name, value in UNCLIPPED.items() if name in known}
                )
        view = frozen_view(part, device, outside if role == "decoder" else dtype)
        if role == "decoder":
            view.decode = heavy(view.decode, inside=outside, outside=outside)
        elif role == "network":
            if device.type == "cpu" and all(weight.ndim < 5 for weight in view.parameters()):
                # oneDNN convolves a tenth faster this way: it need not reorder the weights at each call.
                nn.Module.to(view, memory_format=torch.channels_last)  # type: ignore[call-overload]
            view.forward = heavy(view.forward, inside=dtype, outside=outside, recompute=recompute)
        return view

    own = _rebuilt(pipe, change)
    for member in _family(own):
        member.set_progress_bar_config(disable=True)
        if getattr(member, "watermark", None) is not None:  # SDXL's, which would take the image out of torch too
            member.watermark = None
    return own


def _remembering(pipe: Any, dtype: torch.dtype) -> Any:
    """The pipeline for one set of prompts: it encodes each but once."""

    def change(_: str, part: Any) -> Any:
        if _role(part) != "encoder":
            return part
        own = copy.copy(part)
        own.forward = remember(part.forward)
        return own

    own = _rebuilt(pipe, change)
    for member in _family(own):
        if hasattr(member, "encode_prompt"):
            member.encode_prompt = remember(_casting(member.encode_prompt, dtype))
    return own


def _casting(function: Function, dtype: torch.dtype) -> Function:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return cast(function(*args, **kwargs), dtype)

    return run


def _staged(
    pipe: Any, answer: Callable[[Function, bool, Any, Any], Any], stepped: Callable[[], None] = lambda: None
) -> Any:
    """The pipeline for one call.

    Args:
        pipe: left as it is, so that no call leaves anything to the next: schedulers keep state.
        answer: answers for the networks and decoders: given the function, whether it decodes, and its arguments.
        stepped: called after each step of a scheduler.
    """

    def change(_: str, part: Any) -> Any:
        role = _role(part)
        if role == "scheduler":
            own = copy.deepcopy(part)
            own.step = _followed(own.step, stepped)
            return own
        if role == "encoder":
            return part
        own = copy.copy(part)
        method = "decode" if role == "decoder" else "forward"
        setattr(own, method, _answered(getattr(part, method), answer, role == "decoder"))
        return own

    return _rebuilt(pipe, change)


def _followed(function: Function, then: Callable[[], None]) -> Function:
    @functools.wraps(function)  # pipelines look at the signature
    def run(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        then()
        return result

    return run


def _answered(function: Function, answer: Callable[[Function, bool, Any, Any], Any], decodes: bool) -> Function:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return answer(function, decodes, args, kwargs)

    return run
