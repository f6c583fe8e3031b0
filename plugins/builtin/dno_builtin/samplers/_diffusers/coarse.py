"""DDIM on fewer of its own timesteps, with draws on the same Brownian path.

One step of DDIM from timestep t to s (abar the cumulative product of the noise schedule, at eta > 0
with the standard deviation sigma) reads, with x_0 the network's guess,

    x_s = a x_t + b x_0 + sigma z,    a = sqrt((1 - abar_s - sigma^2) / (1 - abar_t))

so that over fine steps j = 1..m inside one coarse step, with x_0 held, the draws add up to
sum_j w_j z_j with w_j = sigma_j a_(j+1) ... a_m. Scaled to |w| = 1 that is one draw from N(0, 1),
and at eta = 1 exactly the increment of the Brownian motion in signal-to-noise time that both grids
share.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError, quiet

from .noise_map import PipelineNoiseMap
from .schedule import UNCLIPPED, Scheduler


class Thinned(Scheduler):
    """DDIM that visits every so many of the timesteps of a finer grid, the first among them."""

    stride: int = 1
    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        """Thin the grid of `stride` times as many steps, on the CPU."""
        super().set_timesteps(num_inference_steps * self.stride)
        self.timesteps = self.timesteps[:: self.stride]
        # `step` finds the next timestep from the number of steps.
        self.num_inference_steps = num_inference_steps


@dataclass(frozen=True)
class CoarseDDIM:
    """A bound DDIM sampler on fewer timesteps; see `dno.plugin.CoarseMap`."""

    sample: PipelineNoiseMap
    weights: Tensor | None
    """Of the fine draws inside each coarse step, `coarse steps x stride`, each row of norm 1; None
    where no step draws noise, so that both grids share the initial noise alone."""

    def coarsen(self, noise_BN: Tensor, /) -> Tensor:
        """The coarse noise of fine noise, `B x M`."""
        if self.weights is None:
            return noise_BN
        initial, steps = self._split(noise_BN)
        drawn = torch.einsum("cs,bcsn->bcn", self.weights.to(noise_BN), steps)
        return torch.cat([initial, drawn.flatten(1)], dim=1)

    def refine(self, noise_BN: Tensor, coarse_BM: Tensor, /) -> Tensor:
        """Fine noise with that coarse noise, `B x N`: what the coarse map cannot see stays."""
        if self.weights is None:
            return coarse_BM
        initial, steps = self._split(noise_BN)
        weights = self.weights.to(noise_BN)
        wanted = coarse_BM[:, initial.shape[1] :].reshape(len(steps), len(weights), -1)
        missing = wanted - torch.einsum("cs,bcsn->bcn", weights, steps)
        moved = steps + torch.einsum("cs,bcn->bcsn", weights, missing)
        return torch.cat([coarse_BM[:, : initial.shape[1]], moved.flatten(1)], dim=1)

    def _split(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        """The initial noise, `B x n`, and the draws of each coarse step, `B x c x stride x n`."""
        assert self.weights is not None
        coarse_steps, stride = self.weights.shape
        entries = noise_BN.shape[1] // (coarse_steps * stride + 1)
        steps = noise_BN[:, entries:].reshape(-1, coarse_steps, stride, entries)
        return noise_BN[:, :entries], steps


class DDIMNoiseMap(PipelineNoiseMap):
    """A DDIM sampler bound to its prompts, which offers coarser maps of itself."""

    @property
    def steps(self) -> int:
        """Denoising steps."""
        count: int = self.options["num_inference_steps"]
        return count

    def coarser(self, steps: int) -> CoarseDDIM:
        """The same prompts and seeds on `steps` of the timesteps.

        Raises:
            ConfigError: the grid has no such part, or not all of its noise moves.
        """
        stride = self._stride(steps)
        with quiet():
            scheduler = Thinned.from_config(self.pipe.scheduler.config, **UNCLIPPED)
        scheduler.stride = stride
        pipe: Any = copy.copy(self.pipe)
        pipe.scheduler = scheduler
        options = {**self.options, "num_inference_steps": steps}
        # Any seeds will do, since the noise to start from is that of the finer map.
        seeds = [0] * len(self.noise_BN)
        sample = DDIMNoiseMap(pipe, options, seeds, self.noise_BN.device)

        weights: Tensor | None = None
        if len(self.draws) > 1:
            weights = self._weights(steps, stride)
        coarse = CoarseDDIM(sample, weights)
        sample.noise_BN = coarse.coarsen(self.noise_BN)
        return coarse

    def _stride(self, steps: int) -> int:
        """Fine steps inside a coarse one."""
        stride, rest = divmod(self.steps, steps)
        if rest or stride < 2:
            parts = [str(n) for n in range(1, self.steps) if self.steps % n == 0]
            raise ConfigError(
                f"{steps} is not a part of the sampler's {self.steps} steps; choose one of "
                f"{', '.join(parts) or 'none'}"
            )
        moving = (1, self.steps + 1)
        if len(self.draws) not in moving or len(set(self.draws)) > 1:
            raise ConfigError(
                f"needs all the noise to move, but {len(self.draws)} of {self.steps + 1} draws do; "
                "leave last_steps out"
            )

        grid = self._timesteps()
        levels = self.pipe.scheduler.config.num_train_timesteps
        even = all(a - b == levels // self.steps for a, b in pairwise(grid))
        # `step` goes down by the number of levels over that of steps, rounded.
        if not even or levels // steps != stride * (levels // self.steps):
            raise ConfigError(
                f"the {self.steps} timesteps of this schedule cannot be thinned to {steps}; choose "
                "numbers that divide the model's noise levels, and the spacing leading or trailing"
            )
        return stride

    def _timesteps(self) -> list[int]:
        scheduler = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(self.steps)
        found: list[int] = scheduler.timesteps.tolist()
        return found

    def _weights(self, steps: int, stride: int) -> Tensor:
        """How the fine draws inside each coarse step add up, `steps x stride`, float64."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(self.steps)
        eta: float = self.options["eta"]
        sigma: list[Tensor] = []
        kept: list[Tensor] = []
        jump = scheduler.config.num_train_timesteps // self.steps
        for timestep in scheduler.timesteps.tolist():
            before = timestep - jump
            level = scheduler.alphas_cumprod[timestep].double()
            cleaner = scheduler.final_alpha_cumprod.double()
            if before >= 0:
                cleaner = scheduler.alphas_cumprod[before].double()
            variance = eta**2 * scheduler._get_variance(timestep, before).double()
            sigma.append(variance.sqrt())
            kept.append(((1 - cleaner - variance).clamp(min=0) / (1 - level)).sqrt())

        weights = torch.stack(sigma).view(steps, stride)
        factors = torch.stack(kept).view(steps, stride)
        for j in range(stride - 1):
            weights[:, j] *= factors[:, j + 1 :].prod(dim=1)
        normed: Tensor = weights / weights.norm(dim=1, keepdim=True)
        return normed
