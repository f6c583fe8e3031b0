"""A rehearsal of a pipeline's call: which noise acts on the image, and what the call costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError, RunError
from dno_builtin._quiet import quiet

from .modules import each, tensors
from .parts import Function, staged
from .tape import NoiseTape


@dataclass(frozen=True)
class Found:
    """What a rehearsal found out about one call of a pipeline."""

    shapes: list[tuple[int, ...]]
    """Of each draw of one sample."""
    acts: list[bool]
    """Whether each draw can act on the image."""
    step: list[int]
    """The denoising step for which each was drawn, from 0; the initial noise is the first
    step's."""
    steps: int
    depends: list[bool]
    """Whether each call of a network or decoder can depend on noise that moves."""
    rows: int
    """Rows that go through the denoising networks in those calls, guidance and batch included."""
    signed: bool
    """Whether the images come as decoders give them, in [-1, 1] and not clamped: some pipelines
    leave them so."""


class Rehearsal:
    """Calls of the pipeline with cheap stand-ins for its networks, to see which noise goes where.

    Each network runs once for each form of its arguments, for the form of its answer. From then on
    it answers fixed numbers that have the gradient of a weighted sum of its inputs, so that
    everything that reaches an input goes on to every entry of the answer, and gradients show what
    reaches the image.
    """

    def __init__(
        self, pipe: Any, options: Mapping[str, Any], samples: int, device: torch.device
    ) -> None:
        self._pipe, self._options, self._samples, self._device = pipe, options, samples, device
        self._name = type(pipe).__name__
        self._forms: dict[Any, Any] = {}

    def run(self, moves: Sequence[bool] | None = None) -> Found:
        """Rehearse with the draws that move, all where it is not yet known."""
        generator = torch.Generator().manual_seed(0)
        leaves: list[Tensor] = []
        step: list[int] = []
        depends: list[bool] = []
        rows = steps = 0

        def draw(shape: tuple[int, ...]) -> Tensor:
            if not shape or shape[0] != self._samples:
                raise ConfigError(
                    f"{self._name} draws noise of shape {shape} for {self._samples} samples: not "
                    "a draw of its own for "
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
                self._forms[form] = without_gradient(function, args, kwargs)
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
                images = run_pipeline(staged(self._pipe, answer, stepped), self._options)
        except (ConfigError, RunError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a pipeline says to options that do not suit it
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(
                f"{self._name} cannot be sampled with these options: {reason}", at="model"
            ) from error
        self._check(images, drew_unseen=not torch.equal(before, _random_state(self._device)))
        weights = torch.rand(images.shape, generator=generator) + 0.5
        with torch.enable_grad():
            total = (images * weights.to(images)).sum()
        moving = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = iter(torch.autograd.grad(total, moving, allow_unused=True))
        # NaN counts as acting: what is wrong with such a model is for the image to show.
        acts = [
            leaf.requires_grad
            and (slope := next(gradients)) is not None
            and bool((slope != 0).any())
            for leaf in leaves
        ]
        if not any(acts):
            raise ConfigError(f"no noise that {self._name} draws acts on its images", at="model")
        shapes = [tuple(leaf.shape[1:]) for leaf in leaves]
        step = [min(index, max(steps - 1, 0)) for index in step]
        signed = bool(images.min() < 0) or bool(images.max() > 1)
        return Found(shapes, acts, step, steps, depends, rows, signed)

    def _check(self, images: Any, *, drew_unseen: bool) -> None:
        if (
            not isinstance(images, Tensor)
            or images.ndim != 4
            or images.shape[:2] != (self._samples, 3)
        ):
            made = (
                f"a {tuple(images.shape)} tensor"
                if isinstance(images, Tensor)
                else f"a {type(images).__name__}"
            )
            raise ConfigError(
                f"{self._name} makes {made} of {self._samples} prompts, not one RGB image each; "
                "only text-to-image pipelines are sampled",
                at="model",
            )
        sizes = {"height": images.shape[2], "width": images.shape[3]}
        for name, other in (("height", "width"), ("width", "height")):
            # Pipelines may round a size; some pass over one that comes without the other.
            if (
                name in self._options
                and other not in self._options
                and self._options[name] != sizes[name]
            ):
                raise ConfigError(
                    f"{self._name} makes images of {sizes['height']} x {sizes['width']} pixels "
                    f"where a {name} of "
                    f"{self._options[name]} was asked; give a {other} as well",
                    at=name,
                )
        if drew_unseen:
            raise ConfigError(
                f"{self._name} has a network that draws noise of its own, which cannot be held",
                at="model",
            )
        if not images.isfinite().all():
            raise ConfigError(
                f"{self._name} computes values that are not finite whatever its network answers; "
                "choose another scheduler or another number of steps",
                at="model",
            )
        if not images.requires_grad:
            raise ConfigError(
                f"{self._name} cuts the gradient between its noise and its images, so that "
                "nothing can be optimised",
                at="model",
            )


def run_pipeline(pipe: Any, options: Mapping[str, Any]) -> Any:
    """The pipeline's images."""
    # Copied, because some pipelines write into their list of prompts.
    own = {
        name: copy.copy(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    with quiet():  # some would say the same thing at every call
        result = pipe(**own)
    return result[0] if isinstance(result, (tuple, list)) else result


def _random_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def without_gradient(function: Function, args: Any, kwargs: Any) -> Any:
    """What the function answers, without a graph even inside a noise tape."""
    # Inside a noise tape `no_grad` has an effect only out of its sight.
    with torch._C.DisableTorchFunction(), torch.no_grad():
        return function(*args, **kwargs)


def _rows(arguments: Sequence[Any]) -> int:
    """Samples that a network is given: rows of its first tensor that depends on the noise, or
    entries of a list.
    """
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
    """Fixed numbers of that form, every one of which seems to depend a little on every entry of the
    inputs.
    """
    if not like.is_floating_point():
        return like

    def random(shape: Sequence[int], low: float) -> Tensor:
        return torch.rand(shape, generator=generator) + low

    # Positive weights, so that nothing cancels; a map whose norm is about a hundredth, so that
    # gradients through a thousand of them neither overflow nor vanish; and numbers from -2 to 2, so
    # that an image is clamped in part only.
    seen = torch.stack(
        [(x * random(x.shape, 0.5).to(x)).sum() / math.sqrt(x.numel()) for x in inputs]
    ).sum()
    slope = random(like.shape, 0.5).to(like) * (0.01 / math.sqrt(like.numel()))
    return 4 * random(like.shape, -0.5).to(like) + slope * (seen - seen.detach())
