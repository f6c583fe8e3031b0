"""DDIM's schedule, as the samplers here need it."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor


class Scheduler(DDIMScheduler):  # type: ignore[misc]
    """diffusers' DDIM, without its waits for the GPU and without its NaN at zero signal."""

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        """Timesteps on the CPU, where the table of noise levels is, so that `step` need not fetch
        each from a GPU.
        """
        super().set_timesteps(num_inference_steps)

    def _get_variance(self, timestep: int, prev_timestep: int) -> Tensor:
        variance: Tensor = super()._get_variance(timestep, prev_timestep)
        level = (
            self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        )
        # Where the signal is zero and eta is 1, all of `1 - level` is fresh noise; rounding makes
        # it a little more, and `step` then takes the root of what is left. Other steps are far
        # below.
        return torch.minimum(variance, (1 - level) * (1 - 1e-6))
