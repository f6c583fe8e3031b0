"""A rehearsal of a pipeline's call: which noise acts on the images, and what the call costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError, RunError

from .call import run_pipeline
from .errors import first_line
from .modules import Function, without_gradient
from .nests import each, tensors
from .parts import for_one_call
from .tape import NoiseTape


@dataclass(frozen=True)
class Found:
    """What a rehearsal found out about one call of a pipeline."""

    shapes: list[tuple[int, ...]]
    """Shape of each draw of one sample."""
    acts: list[bool]
    """Whether each draw can act on the image."""
    step: list[int]
    """The denoising step for which each was drawn, from 0; the first noise is the first step's."""
    steps: int
    """Denoising steps in all."""
    depends: list[bool]
    """Whether each call of a network or decoder can depend on noise that moves."""
    rows: int
    """Rows that go through the denoising networks in those calls, guidance and batch included."""
    signed: bool
    """Whether the images come as decoders give them, in [-1, 1] and not clamped.

    Some pipelines leave them so.
    """


class Rehearsal:
    """Calls of the pipeline with cheap stand-ins for its networks, to see which noise goes where.

    Each network runs once for each form of its arguments, for the form of its answer. From then on
    it answers fixed numbers that have the gradient of a weighted sum of its inputs, so that
    everything that reaches an input goes on to every entry of the answer, and gradients show what
    reaches the image.

    Args:
        pipe: a private pipeline; left as it is.
        options: what it is called with.
        items: prompts among them, each of which gets a sample.
        device: where it computes.
    """

    def __init__(
        self,
        pipe: Any,
        options: Mapping[str, Any],
        items: int,
        device: torch.device,
    ) -> None:
        self._pipe = pipe
        self._options = options
        self._items = items
        self._device = device
        self._name = type(pipe).__name__
        self._forms: dict[Any, Any] = {}

    def run(self, moves: Sequence[bool] | None = None) -> Found:
        """Rehearse one call.

        Args:
            moves: whether each draw moves; None where that is not yet known: all move.

        Raises:
            ConfigError: the call fails, or is not a differentiable map from noise to images.
            RunError: it draws noise that is not Gaussian.
        """
        watch = _Watch(self._name, self._items, moves, self._forms)
        before = _random_state(self._device)
        images = self._called(watch)
        after = _random_state(self._device)

        self._check_medium(images)
        self._check_size(images)
        if not torch.equal(before, after):
            raise ConfigError(
                f"{self._name} has a network that draws noise of its own, which cannot be held",
                at="model",
            )
        self._check_gradient(images)

        acts = watch.acting_on(images)
        if not any(acts):
            raise ConfigError(f"no noise that {self._name} draws acts on its images", at="model")

        # What is drawn after the last step would be the step's that comes after it.
        last = max(watch.steps - 1, 0)
        return Found(
            shapes=[tuple(leaf.shape[1:]) for leaf in watch.leaves],
            acts=acts,
            step=[min(step, last) for step in watch.step],
            steps=watch.steps,
            depends=watch.depends,
            rows=watch.rows,
            signed=bool(images.min() < 0) or bool(images.max() > 1),
        )

    def _called(self, watch: _Watch) -> Any:
        """What the pipeline makes, watched."""
        pipe = for_one_call(self._pipe, watch.answer, watch.stepped)
        try:
            with torch.enable_grad(), NoiseTape(watch.draw):
                return run_pipeline(pipe, self._options)
        except (ConfigError, RunError, torch.OutOfMemoryError):
            raise
        # Whatever a pipeline says to options that do not suit it.
        except Exception as error:
            raise ConfigError(
                f"{self._name} cannot be sampled with these options: {first_line(error)}",
                at="model",
            ) from error

    def _check_medium(self, images: Any) -> None:
        """Raise `ConfigError` unless what was made is one RGB image for each item."""
        made = f"a {type(images).__name__}"
        if isinstance(images, Tensor):
            if images.ndim == 4 and images.shape[:2] == (self._items, 3):
                return
            made = f"a {tuple(images.shape)} tensor"

        raise ConfigError(
            f"{self._name} makes {made} of {self._items} prompts, not one RGB image each; "
            "only text-to-image pipelines are sampled",
            at="model",
        )

    def _check_size(self, images: Tensor) -> None:
        """Raise `ConfigError` where one side was asked for and passed over.

        Where both sides are given, a pipeline may round them.
        """
        height, width = images.shape[2:]
        for name, other, side in (("height", "width", height), ("width", "height", width)):
            asked = self._options.get(name, side)
            if asked != side and other not in self._options:
                raise ConfigError(
                    f"{self._name} makes images of {height} x {width} pixels "
                    f"where a {name} of {asked} was asked; give a {other} as well",
                    at=name,
                )

    def _check_gradient(self, images: Tensor) -> None:
        """Raise `ConfigError` unless the images are finite and have a gradient."""
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


class _Watch:
    """One rehearsed call: what it has drawn and asked of its networks so far.

    Args:
        name: the pipeline's class, for messages.
        items: rows that each draw must have.
        moves: whether each draw moves; None: all do.
        forms: an answer of each network for each form of its arguments; added to.
    """

    def __init__(
        self,
        name: str,
        items: int,
        moves: Sequence[bool] | None,
        forms: dict[Any, Any],
    ) -> None:
        self._name = name
        self._items = items
        self._moves = moves
        self._forms = forms
        self._generator = torch.Generator().manual_seed(0)

        self.leaves: list[Tensor] = []
        """The draws; those that move require a gradient."""
        self.step: list[int] = []
        """Steps that came before each draw."""
        self.steps = 0
        self.depends: list[bool] = []
        self.rows = 0

    def stepped(self) -> None:
        """Note that the scheduler has taken a step."""
        self.steps += 1

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Gaussian noise for the next draw, a leaf of its own."""
        if not shape or shape[0] != self._items:
            raise ConfigError(
                f"{self._name} draws noise of shape {shape} for {self._items} samples: not "
                "a draw of its own for each, so that they cannot be optimised side by side",
                at="model",
            )

        leaf = torch.randn(shape, generator=self._generator)
        leaf.requires_grad_(self._next_moves())
        self.leaves.append(leaf)
        self.step.append(self.steps)
        return leaf

    def _next_moves(self) -> bool:
        if self._moves is None:
            return True
        index = len(self.leaves)
        return index < len(self._moves) and self._moves[index]

    def answer(self, function: Function, decodes: bool, args: Any, kwargs: Any) -> Any:
        """Answer for a network or decoder."""
        inputs = [tensor for tensor in tensors((args, kwargs)) if tensor.requires_grad]
        self.depends.append(bool(inputs))
        if inputs and not decodes:
            self.rows += _rows((*args, *kwargs.values()))

        form = id(function), repr(_form(args)), repr(_form(kwargs))
        if form not in self._forms:
            self._forms[form] = without_gradient(function, args, kwargs)
        if not inputs:
            return each(self._forms[form], Tensor.clone)

        def stand_in(like: Tensor) -> Tensor:
            return _stand_in(like, inputs, self._generator)

        # Out of the tape's sight: its numbers are not draws of the sampler.
        with torch._C.DisableTorchFunction():
            return each(self._forms[form], stand_in)

    def acting_on(self, images: Tensor) -> list[bool]:
        """Whether each draw can act on the images."""
        weights = torch.rand(images.shape, generator=self._generator) + 0.5
        with torch.enable_grad():
            total = (images * weights.to(images)).sum()

        moving = [leaf for leaf in self.leaves if leaf.requires_grad]
        slopes = iter(torch.autograd.grad(total, moving, allow_unused=True))
        acts = []
        for leaf in self.leaves:
            slope = None
            if leaf.requires_grad:
                slope = next(slopes)
            # NaN counts as acting: what is wrong with such a model is for the image to show.
            acts.append(slope is not None and bool((slope != 0).any()))
        return acts


def _random_state(device: torch.device) -> Tensor:
    """The states of torch's global generators that code on the device could draw from."""
    state = torch.get_rng_state()
    if device.type == "cuda":
        return torch.cat([state, torch.cuda.get_rng_state(device)])
    return state


def _rows(arguments: Sequence[Any]) -> int:
    """Rows of a network's batch: of its first tensor that depends on the noise, or of a list."""
    for value in arguments:
        if not any(tensor.requires_grad for tensor in tensors(value)):
            continue
        if isinstance(value, (list, tuple)):
            return len(value)
        return len(next(tensors(value)))
    return 0


def _form(value: Any) -> Any:
    """What of a network's argument can decide the form of its answer."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {key: _form(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_form(inner) for inner in value]
    if isinstance(value, (bool, int, str, type(None))):
        return value
    return type(value)


def _stand_in(like: Tensor, inputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Fixed numbers of that form, each of which seems to depend a little on every entry of inputs.

    Args:
        like: an answer of the network, for its shape, dtype and device.
        inputs: what went into the network and has a gradient.
        generator: where the numbers come from.
    """
    if not like.is_floating_point():
        return like

    def random(shape: Sequence[int], low: float) -> Tensor:
        return torch.rand(shape, generator=generator) + low

    # Positive weights, so that nothing cancels.
    sums = []
    for tensor in inputs:
        weights = random(tensor.shape, 0.5).to(tensor)
        sums.append((tensor * weights).sum() / math.sqrt(tensor.numel()))
    seen = torch.stack(sums).sum()

    # A map whose norm is about a hundredth, so that gradients through a thousand of them neither
    # overflow nor vanish.
    slope = random(like.shape, 0.5).to(like) * (0.01 / math.sqrt(like.numel()))

    # Numbers from -2 to 2, so that an image is clamped in part only.
    values = 4 * random(like.shape, -0.5).to(like)
    return values + slope * (seen - seen.detach())
