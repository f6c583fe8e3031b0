"""Samplers with no network, for tests of everything around one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dno.core.noise import gaussian_noise
from dno.protocols import Objective, State


@dataclass(frozen=True)
class ToyMap:
    """M of `ToySampler`: two draws, added and squashed into an image; row i depends on row i
    alone.
    """

    noise_BN: Tensor
    draws: tuple[tuple[int, ...], ...]

    def __call__(self, noise_BN: Tensor) -> Tensor:
        """Images, `B x 3 x size x size`."""
        first, second = noise_BN.chunk(2, dim=1)
        return (first + 0.5 * second).reshape(-1, *self.draws[0]).sigmoid()


@dataclass(frozen=True)
class ToySampler:
    """Squashes Gaussian noise into small images.

    Args:
        size: height and width in pixels.
    """

    size: int = 8

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> ToyMap:
        """The map for these seeds; prompts change nothing."""
        draws = ((3, self.size, self.size),) * 2
        return ToyMap(gaussian_noise(draws, seeds), draws)


@dataclass(frozen=True)
class RingMap:
    """M of `RingSampler`: DDIM with the exact noise estimate; row i depends on row i alone."""

    sampler: RingSampler
    noise_BN: Tensor
    draws: tuple[tuple[int, ...], ...]
    network_evaluations: int

    def __call__(self, noise_BN: Tensor) -> Tensor:
        """Points, `B x 2`, in the precision of the noise."""
        ring, levels = self.sampler, self.sampler.levels()
        x, *injected = noise_BN.view(len(noise_BN), -1, 2).unbind(1)
        for i, (level, cleaner) in enumerate(pairwise(levels)):
            noise = ring.noise_estimate(x, level)
            clean = (x - math.sqrt(1 - level) * noise) / math.sqrt(level)
            sigma = ring.eta * math.sqrt((1 - cleaner) / (1 - level) * (1 - level / cleaner))
            x = math.sqrt(cleaner) * clean + math.sqrt(1 - cleaner - sigma**2) * noise
            if sigma:
                x = x + sigma * injected[i]
        return x


@dataclass(frozen=True)
class RingSampler:
    """Diffusion onto a ring of Gaussians in the plane, whose score at every noise level has a
    closed form.

    So nothing is trained, and what optimised noise does to samples can be seen and be measured
    against the density of the data. With eta = 1 the draws are the starting point and one for each
    step but the last, which reaches data without noise and so injects none; with eta = 0 the
    starting point alone.

    Args:
        modes: equally likely Gaussians on the ring, the first at angle 0.
        radius: of the ring.
        std: of each Gaussian, in both directions.
        steps: DDIM steps, at least 2.
        eta: noise injected at each step, from 0 (ODE) to 1 (SDE with DDPM's variance).
    """

    modes: int = 8
    radius: float = 1.0
    std: float = 0.1
    steps: int = 50
    eta: float = 1.0

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> RingMap:
        """The map for these seeds; prompts change nothing."""
        draws = ((2,),) * (self.steps if self.eta else 1)
        return RingMap(self, gaussian_noise(draws, seeds), draws, self.steps)

    def levels(self) -> list[float]:
        """alpha-bar at each of `steps + 1` levels, from nearly 0 (noise) to 1 (data)."""
        # Equal steps of log(alpha-bar / (1 - alpha-bar)): few are enough for the ring as for its
        # modes.
        return [1 / (1 + math.exp(8 - 16 * i / (self.steps - 1))) for i in range(self.steps)] + [
            1.0
        ]

    def centres(self) -> Tensor:
        """Centres of the modes, `modes x 2`, float64."""
        angle = 2 * math.pi / self.modes * torch.arange(self.modes, dtype=torch.float64)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def log_density(self, points: Tensor, level: float = 1.0) -> Tensor:
        """Log-density of sqrt(level) data + sqrt(1 - level) N(0, I), level in (0, 1]: `B` for `B x
        2` points.
        """
        variance = level * self.std**2 + 1 - level
        log_modes = -self._offsets(points, level).square().sum(2) / (2 * variance)
        return log_modes.logsumexp(1) - math.log(2 * math.pi * variance * self.modes)

    def noise_estimate(self, points: Tensor, level: float) -> Tensor:
        """What a perfect network predicts, -sqrt(1 - level) times the gradient of `log_density`: `B
        x 2`.
        """
        variance = level * self.std**2 + 1 - level
        offsets = self._offsets(points, level)
        share = (-offsets.square().sum(2) / (2 * variance)).softmax(1)
        return math.sqrt(1 - level) / variance * (share[:, :, None] * offsets).sum(1)

    def _offsets(self, points: Tensor, level: float) -> Tensor:
        """From each mode's centre at this level to each point, `B x modes x 2`."""
        return points[:, None] - math.sqrt(level) * self.centres().to(points)


@dataclass(frozen=True)
class Ascent:
    """Plain gradient ascent; remembers nothing.

    Args:
        lr: step size.
    """

    lr: float

    def init(self, noise_BN: Tensor, /) -> State:
        """No state."""
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One step along the gradient."""
        return noise_BN + self.lr * objective.value_and_grad(noise_BN)[1], state
