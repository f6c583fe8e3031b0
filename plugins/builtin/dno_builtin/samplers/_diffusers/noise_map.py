"""A pipeline bound to its prompts, as a function of all the noise that acts on its images."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError, Footprint, Medium, RunError, gaussian_noise

from .call import call_pipeline
from .coarse import CoarsePath, coarse_path
from .made import as_samples
from .memory import at_level
from .modules import Function, without_gradient
from .nests import each
from .parts import Answer, for_one_call, remedy
from .rehearsal import Found, Rehearsal
from .spare import Spare
from .tape import NoiseTape


class PipelineNoiseMap:
    """A `PipelineSampler` bound to prompts and seeds; see `dno.plugin.NoiseMap`.

    Args:
        pipe: a private pipeline, which remembers its encoded prompts.
        options: what it is called with, prompts included.
        seeds: one for each prompt.
        device: where it computes.
        last_steps: steps whose noise moves, counted from the last; None: all.
        spare: what its networks cost, and what memory they may take.
        idle: parts of the pipeline that have run for the prompts already.
        reuse: see `DiffusersConfig`.

    Raises:
        ConfigError: the pipeline refuses its options, or is not a differentiable map from noise to
            images.
        RunError: it draws noise that is not Gaussian.
    """

    def __init__(
        self,
        pipe: Any,
        options: Mapping[str, Any],
        seeds: Sequence[int],
        device: torch.device,
        last_steps: int | None = None,
        *,
        spare: Spare,
        idle: frozenset[str] = frozenset(),
        reuse: int = 1,
    ) -> None:
        self.pipe = pipe
        """The private pipeline."""
        self.options = options
        """What it is called with."""

        self.spare = spare
        """What its networks cost, and what memory they may take."""

        self.remedy: str = remedy(pipe)
        """What to do where a sample or its gradient is not finite."""

        self._reuse = reuse
        rehearsal = Rehearsal(pipe, options, len(seeds), device, spare.ledger, reuse)
        found = rehearsal.rehearse()
        moves = found.acts
        acts = found.acts
        if last_steps is not None:
            moves = _in_last_steps(found, last_steps)
            found = rehearsal.rehearse(moves)
        found = replace(found, idle=found.idle | idle)
        self.idle: frozenset[str] = found.idle
        """Parts of the pipeline that no call of this map asks, as far as is known."""

        self.medium: Medium = found.medium
        """What its samples are."""
        self.steps: int = found.steps
        """Denoising steps taken; fewer than asked for where a picture is redrawn."""
        self.moves_all: bool = moves == acts
        """Whether every draw that acts on the samples moves."""
        self.before: int = sum(moves[: found.before])
        """Draws, of those that move, that come before the first step."""

        self._memory = spare.of(found)
        self._asked = found.asked
        self._depends = found.depends
        self._signed = found.signed
        self._answers: dict[int, Any] = {}

        self.network_evaluations: int = round(found.rows / len(seeds))
        """Passes through the denoising network that a call makes for each sample.

        Guidance counts twice. Those that no moving noise can reach are made by the first call alone
        and are not counted.
        """
        self.draws: Sequence[tuple[int, ...]] = list(itertools.compress(found.shapes, moves))
        """Shape of each moving draw of one sample, in the order drawn."""

        # Draws that stay take their turn at the generator too: those after them keep the values
        # that diffusers gives them.
        noise = gaussian_noise(found.shapes, seeds).to(device)
        parts = split_draws(noise, found.shapes)
        self._fixed: list[Tensor | None] = []
        for part, moving in zip(parts, moves, strict=True):
            self._fixed.append(None if moving else part.clone())

        self.noise_BN: Tensor = torch.cat(list(itertools.compress(parts, moves)), dim=1)
        """Where the seeds start, float32 `B x N`, on the sampler's device."""

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """Samples of this noise, as their medium has them, in the noise's dtype and device.

        Images are `B x 3 x H x W`, RGB in [0, 1].

        Raises:
            ValueError: the noise is not `B x N`.
            RunError: the pipeline drew otherwise than when it was bound.
        """
        if noise_BN.shape != self.noise_BN.shape:
            expected = tuple(self.noise_BN.shape)
            got = tuple(noise_BN.shape)
            raise ValueError(f"the noise of these prompts is {expected}, got {got}")

        pipe = for_one_call(self.pipe, self._answerer(), reuse=self._reuse)
        with NoiseTape(self._drawer(noise_BN)):
            images: Tensor = call_pipeline(pipe, self.options)
        return as_samples(images, self.medium, signed=self._signed).to(noise_BN)

    @property
    def footprint(self) -> Footprint | None:
        """What an evaluation with gradient needs; see `dno.plugin.NoiseMap`."""
        return self._memory.footprint()

    @contextlib.contextmanager
    def climbing(self) -> Iterator[None]:
        """Inside, what is not called lies elsewhere, where there is too little memory for it; see
        `dno.plugin.NoiseMap`."""
        with self.spare.lot.parked(self._memory.parked):
            yield

    def coarser(self, steps: int) -> CoarsePath:
        """The same prompts and seeds on `steps` of the timesteps; see `dno.plugin.CoarseMap`.

        Raises:
            ConfigError: the grid has no such part, or the scheduler cannot be thinned.
        """
        return coarse_path(self, steps)

    def _drawer(self, noise_BN: Tensor) -> Callable[[tuple[int, ...]], Tensor]:
        """What answers the draws of one call: this noise where it moves, the seeds' elsewhere."""
        moving = iter(split_draws(noise_BN, self.draws))
        drawn = itertools.count()

        def draw(_: tuple[int, ...]) -> Tensor:
            index = next(drawn)
            if index >= len(self._fixed):
                raise RunError(
                    f"the sampler drew noise more often than the {len(self._fixed)} times recorded"
                )

            noise = self._fixed[index]
            if noise is None:
                noise = next(moving)
            # The tape compares the shape with the one that was asked for.
            return noise.to(noise_BN).reshape(self._asked[index])

        return draw

    def _answerer(self) -> Answer:
        """What answers the calls of the networks in one call of the pipeline.

        Those that no moving noise can reach are made once, without a graph.
        """
        called = itertools.count()
        levels = iter(self._memory.levels)

        def answer(function: Function, _: bool, args: Any, kwargs: Any) -> Any:
            index = next(called)
            if index >= len(self._depends) or self._depends[index]:
                with at_level(next(levels, None)):
                    return function(*args, **kwargs)

            if index not in self._answers:
                self._answers[index] = without_gradient(function, args, kwargs)
            # The pipeline may write into what it is given.
            return each(self._answers[index], Tensor.clone)

        return answer


def split_draws(noise_BN: Tensor, draws: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
    """The part of the noise that is each draw's, `B x` its entries.

    Args:
        noise_BN: N entries for each sample.
        draws: shape of each draw of one sample; N entries in all.
    """
    sizes = [math.prod(shape) for shape in draws]
    return torch.split(noise_BN, sizes, dim=1)


def _in_last_steps(found: Found, last_steps: int) -> list[bool]:
    """Whether each draw acts and belongs to the last steps.

    Raises:
        ConfigError: there are not as many steps, or no such draw.
    """
    if last_steps > found.steps:
        raise ConfigError(
            f"must be at most {found.steps}, the steps that the scheduler takes, got {last_steps}",
            at="last_steps",
        )

    first = found.steps - last_steps
    moves = []
    for acts, step in zip(found.acts, found.step, strict=True):
        moves.append(acts and step >= first)
    if not any(moves):
        raise ConfigError(
            f"no noise that is drawn in the last {last_steps} of {found.steps} steps acts on the "
            "image; move more steps, or use a scheduler that adds noise at each",
            at="last_steps",
        )
    return moves
