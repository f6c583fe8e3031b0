"""A rehearsal of a pipeline's call: which noise acts on the images, and what the call costs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dno.plugin import ConfigError, Medium, RunError, first_line, out_of_memory

from .call import call_pipeline
from .ledger import Ledger
from .live import without
from .made import medium_of, rate_of
from .modules import Function, once
from .parts import family, for_one_call, role_of
from .tape import NoiseTape
from .watch import Watch


@dataclass(frozen=True)
class Found:
    """What a rehearsal found out about one call of a pipeline."""

    shapes: list[tuple[int, ...]]
    """Shape of each draw of one sample."""
    asked: list[tuple[int, ...]]
    """Shape that the pipeline asks for, of all samples."""
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
    medium: Medium
    """What is made."""
    before: int
    """Draws that come before the scheduler's first step begins."""
    calls: list[tuple[Any, bool]]
    """The form of each call that can depend on moving noise, and whether it decodes."""
    shape: tuple[int, ...]
    """Shape of what is made, batch first."""
    entries: int
    """Entries of noise of all samples."""
    idle: frozenset[str]
    """Parts of the pipeline that no later call asks: those that ran and whose answers are
    remembered, and encoders that nobody asked."""


class Rehearsal:
    """Calls of the pipeline with cheap stand-ins for its networks, to see which noise goes where.

    The ledger knows the form of each network's answer. In its place come fixed numbers that have
    the gradient of a weighted sum of its inputs, so that everything that reaches an input goes on
    to every entry of the answer, and gradients show what reaches the image.

    Args:
        pipe: a private pipeline; left as it is.
        options: what it is called with.
        items: prompts among them, each of which gets a sample.
        device: where it computes.
        ledger: what the networks answer.
        reuse: see `for_one_call`.
    """

    def __init__(
        self,
        pipe: Any,
        options: Mapping[str, Any],
        items: int,
        device: torch.device,
        ledger: Ledger,
        reuse: int = 1,
    ) -> None:
        self._pipe = pipe
        self._options = options
        self._items = items
        self._device = device
        self._name = type(pipe).__name__
        self._ledger = ledger
        self._ran: set[str] = set()
        """Parts that ran for something that is remembered."""
        self._asked: set[str] = set()
        """Parts that ran for something that is computed anew at each call."""
        self._reuse = reuse

    def rehearse(self, moves: Sequence[bool] | None = None) -> Found:
        """What one call of the pipeline turns out to do.

        Args:
            moves: whether each draw moves; None where that is not yet known: all move.

        Raises:
            ConfigError: the call fails, or is not a differentiable map from noise to images.
            RunError: it draws noise that is not Gaussian.
        """
        watch = Watch(self._name, self._items, moves, self._ledger)
        images = self._called(watch)

        rate = rate_of(self._pipe, self._options)
        medium = medium_of(self._name, images, self._items, rate)
        if medium.kind != "audio":
            self._check_size(images)
        if watch.draws.found:
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
        asked = [tuple(leaf.shape) for leaf in watch.leaves]
        return Found(
            shapes=[self._of_one(shape) for shape in asked],
            asked=asked,
            acts=acts,
            step=[min(step, last) for step in watch.step],
            steps=watch.steps,
            depends=watch.depends,
            rows=watch.rows,
            signed=bool(images.min() < 0) or bool(images.max() > 1),
            medium=medium,
            before=len(watch.leaves) if watch.before is None else watch.before,
            calls=watch.calls,
            shape=tuple(images.shape),
            entries=sum(leaf.numel() for leaf in watch.leaves),
            idle=self._idle(),
        )

    def _of_one(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The part of a draw that is one sample's; all of it where there is one sample."""
        if shape[:1] == (self._items,):
            return shape[1:]
        return shape

    def _called(self, watch: Watch) -> Any:
        """What the pipeline makes, watched."""
        names = self._names_of_functions()

        def answer(function: Function, decodes: bool, args: Any, kwargs: Any) -> Any:
            self._asked.add(names[id(function)])
            return watch.answer(function, decodes, args, kwargs)

        pipe = for_one_call(self._pipe, answer, watch.stepped, watch.stepping, self._reuse)
        try:
            with torch.enable_grad(), watch.draws, self._listening(), NoiseTape(watch.draw):
                return call_pipeline(pipe, self._options)
        except (ConfigError, RunError):
            raise
        # Whatever a pipeline says to options that do not suit it.
        except Exception as error:
            if out_of_memory(error):
                raise
            raise ConfigError(
                f"{self._name} cannot be sampled with these options: {first_line(error)}"
                f"{without(self._pipe)}",
                at="model",
            ) from error

    def _idle(self) -> frozenset[str]:
        # Of others that did not run, pipelines may read weights without running them.
        names = self._names()
        encoders = {
            names[id(part)]
            for member in family(self._pipe)
            for part in vars(member).values()
            if role_of(part) == "encoder"
        }
        return frozenset((self._ran | encoders) - self._asked)

    def _names(self) -> Mapping[int, str]:
        """What the pipeline calls its parts, and those of the pipelines that it is made of."""
        own = {id(part): name for name, part in vars(self._pipe).items()}
        for member in family(self._pipe):
            for name, part in vars(member).items():
                own.setdefault(id(part), name)
        return own

    def _names_of_functions(self) -> Mapping[int, str]:
        """The parts that networks' and decoders' functions are of."""
        names = self._names()
        found: dict[int, str] = {}
        for member in family(self._pipe):
            for part in vars(member).values():
                role = role_of(part)
                if role in ("network", "vocoder"):
                    found[id(part.forward)] = names[id(part)]
                elif role == "decoder":
                    found[id(part.decode)] = names[id(part)]
        return found

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Inside, it is noted which parts run, and whether what they answer is remembered."""
        hooks = []
        names = self._names()
        for member in family(self._pipe):
            for part in vars(member).values():
                if not isinstance(part, nn.Module):
                    continue
                # Networks are asked as a whole, and that is noted as they are.
                inner = [part] if role_of(part) == "network" else [*part.modules()]
                for module in inner:
                    hook = self._noting(names[id(part)], is_whole=module is part)
                    hooks.append(module.register_forward_pre_hook(hook))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _noting(self, name: str, *, is_whole: bool) -> Any:
        def note(*_: object) -> None:
            if once.get():
                self._ran.add(name)
            # The forward of a whole part may be remembered itself.
            elif not is_whole:
                self._asked.add(name)

        return note

    def _check_size(self, images: Tensor) -> None:
        """Raise `ConfigError` where one side was asked for and passed over.

        Where both sides are given, a pipeline may round them.
        """
        height, width = images.shape[-2:]
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
