"""A bound pipeline on fewer of its own timesteps, with draws on the same Brownian path.

With the network's guess of the clean sample held, each step of a scheduler is linear in the sample
and in the noise that it draws, so that the draws of the fine steps j = 1..m inside one coarse step
add up to sum_j w_j z_j. Scaled to |w| = 1 that is one draw from N(0, 1). For DDIM at eta = 1 and
the ancestral samplers it is exactly the increment of the Brownian motion in signal-to-noise time
that both grids share.

The weights are measured and not derived: the scheduler steps from a sample that has one entry for
each draw, and what is in an entry in the end is that draw's weight.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dno.plugin import ConfigError, quiet

from .call import call_parameters
from .schedule import UNCLIPPED, scheduler_options
from .tape import NoiseTape

if TYPE_CHECKING:
    from .noise_map import PipelineNoiseMap

KNOWN: Final = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
"""Schedulers of diffusers whose grids can be thinned."""


@dataclass(frozen=True)
class CoarsePath:
    """A bound pipeline on fewer timesteps; see `dno.plugin.CoarseMap`."""

    sample: PipelineNoiseMap
    weights: Tensor | None
    """Of the fine draws inside each coarse step that draws, `coarse draws x stride`, each row of
    norm 1; None where no step draws noise, so that both grids share what is drawn before the first
    step alone."""

    def coarsen(self, noise_BN: Tensor, /) -> Tensor:
        """The coarse noise of fine noise, `B x M`."""
        if self.weights is None:
            return noise_BN
        initial, steps, _ = self._split(noise_BN)
        drawn = torch.einsum("cs,bcsn->bcn", self.weights.to(noise_BN), steps)
        return torch.cat([initial, drawn.flatten(1)], dim=1)

    def refine(self, noise_BN: Tensor, coarse_BM: Tensor, /) -> Tensor:
        """Fine noise with that coarse noise, `B x N`: what the coarse map cannot see stays."""
        if self.weights is None:
            return coarse_BM
        initial, steps, rest = self._split(noise_BN)
        weights = self.weights.to(noise_BN)
        wanted = coarse_BM[:, initial.shape[1] :].reshape(len(steps), len(weights), -1)
        missing = wanted - torch.einsum("cs,bcsn->bcn", weights, steps)
        moved = steps + torch.einsum("cs,bcn->bcsn", weights, missing)
        return torch.cat([coarse_BM[:, : initial.shape[1]], moved.flatten(1), rest], dim=1)

    def _split(self, noise_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is drawn before the first step, `B x` its entries, the draws of each coarse step,
        `B x c x stride x n`, and the rest: those of a last coarse step that draws nothing.
        """
        assert self.weights is not None
        coarse_draws, stride = self.weights.shape
        # The last draw is a step's.
        entries = math.prod(self.sample.draws[-1])
        first = self.sample.noise_BN.shape[1] - coarse_draws * entries
        end = first + entries * coarse_draws * stride
        steps = noise_BN[:, first:end].reshape(-1, coarse_draws, stride, entries)
        return noise_BN[:, :first], steps, noise_BN[:, end:]


def coarse_path(fine: PipelineNoiseMap, steps: int) -> CoarsePath:
    """The same prompts and seeds on `steps` of the timesteps.

    Raises:
        ConfigError: the grid has no such part, the scheduler is of another kind, or not all of the
            noise moves.
    """
    scheduler = _scheduler(fine)
    asked: int = fine.options["num_inference_steps"]
    stride = _stride(fine, scheduler, asked, steps)

    pipe: Any = copy.copy(fine.pipe)
    pipe.scheduler = thinned(scheduler, stride)
    options = {**fine.options, "num_inference_steps": steps}
    # Any seeds will do, since the noise to start from is that of the finer map. No features are
    # reused: neighbours of so few steps differ too much.
    sample = type(fine)(
        pipe,
        options,
        [0] * len(fine.noise_BN),
        fine.noise_BN.device,
        spare=fine.spare,
        idle=fine.idle,
    )

    # Where a picture is redrawn the first steps are left out, of both grids.
    if sample.steps * stride != fine.steps:
        raise ConfigError(
            f"of {asked} steps {fine.steps} are taken and of {steps} steps {sample.steps}, which "
            "do not begin at the same timestep; choose a strength that leaves a multiple of "
            f"{stride}"
        )

    drawing = len(sample.draws) - sample.before
    drawn = len(fine.draws) - fine.before
    weights: Tensor | None = None
    if drawing:
        rows = _weights(scheduler, asked, stride, fine.options)[-sample.steps :]
        weights = rows[:drawing]
    if drawn < drawing * stride or bool(drawing) != bool(drawn) or sample.before != fine.before:
        raise ConfigError(
            f"draws noise {drawing} times on {steps} steps and {drawn} times on {asked}, which do "
            "not go together"
        )
    coarse = CoarsePath(sample, weights)
    sample.noise_BN = coarse.coarsen(fine.noise_BN)
    return coarse


def thinned(scheduler: Any, stride: int) -> Any:
    """A scheduler that visits every so many of the timesteps of a finer grid, the first among them.

    Args:
        scheduler: its class and options are kept.
        stride: how many; on n steps it visits a part of the grid of n times as many.
    """
    kind: Any = type(scheduler)

    class Thinned(kind):  # type: ignore[misc]
        timesteps: Tensor

        def set_timesteps(
            self, num_inference_steps: int | None = None, device: object = None, **given: Any
        ) -> None:
            """Thin the grid of `stride` times as many steps."""
            sigmas = given.pop("sigmas", None)
            steps = num_inference_steps or len(sigmas)
            if sigmas is not None:
                given["sigmas"] = _finer(sigmas, stride)
                super().set_timesteps(device=device, **given)
            else:
                super().set_timesteps(steps * stride, device=device, **given)

            self.timesteps = self.timesteps[::stride]
            # Some find the next timestep from the number of steps.
            self.num_inference_steps = steps
            levels = getattr(self, "sigmas", None)
            if isinstance(levels, Tensor) and len(levels) == steps * stride + 1:
                self.sigmas = torch.cat([levels[:-1:stride], levels[-1:]])

    known = scheduler_options(kind)
    changes = {name: value for name, value in UNCLIPPED.items() if name in known}
    with quiet():
        return Thinned.from_config(scheduler.config, **changes)


def _finer(sigmas: Any, stride: int) -> Any:
    """The noise levels of the finer grid, where a pipeline gives evenly spaced ones itself.

    Raises:
        ConfigError: they are spaced otherwise.
    """
    given = np.asarray(sigmas, dtype=float)
    count = len(given)
    if not np.allclose(given, np.linspace(1.0, 1 / count, count)):
        raise ConfigError("the pipeline chooses noise levels that cannot be thinned")
    return np.linspace(1.0, 1 / (count * stride), count * stride)


def _scheduler(fine: PipelineNoiseMap) -> Any:
    """The one scheduler of the pipeline, if its grid can be thinned."""
    scheduler = getattr(fine.pipe, "scheduler", None)
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    if not any(name in KNOWN for name in names):
        raise ConfigError(
            f"the grid of a {names[0]} cannot be thinned; those of {', '.join(KNOWN)} can"
        )
    asked = fine.options.get("num_inference_steps")
    redraws = "strength" in call_parameters(type(fine.pipe))
    if asked is None or not (asked == fine.steps or (redraws and fine.steps < asked)):
        raise ConfigError(
            "needs a pipeline that takes as many steps as it is asked for; set `steps`, and leave "
            "out what starts it later"
        )
    return scheduler


def _stride(fine: PipelineNoiseMap, scheduler: Any, asked: int, steps: int) -> int:
    """Fine steps inside a coarse one, where `asked` are asked for in all."""
    stride, rest = divmod(asked, steps)
    if rest or stride < 2:
        parts = [str(n) for n in range(1, asked) if asked % n == 0]
        raise ConfigError(
            f"{steps} is not a part of the sampler's {asked} steps; choose one of "
            f"{', '.join(parts) or 'none'}"
        )
    of_steps = fine.draws[fine.before :]
    whole = len(of_steps) in (0, fine.steps - 1, fine.steps) and len(set(of_steps)) < 2
    if not fine.moves_all or not whole:
        raise ConfigError(
            f"needs all the noise to move, but {len(of_steps)} of the {fine.steps} draws of steps "
            "do; leave last_steps out"
        )
    if isinstance(scheduler, DDIMScheduler):
        _check_it_is_even(scheduler, asked, steps, stride)
    return stride


def _check_it_is_even(scheduler: Any, fine_steps: int, steps: int, stride: int) -> None:
    """DDIM goes down by the number of noise levels over that of steps, rounded."""
    own = copy.deepcopy(scheduler)
    own.set_timesteps(fine_steps)
    grid: list[int] = own.timesteps.tolist()
    levels: int = scheduler.config.num_train_timesteps
    even = all(a - b == levels // fine_steps for a, b in pairwise(grid))
    if not even or levels // steps != stride * (levels // fine_steps):
        raise ConfigError(
            f"the {fine_steps} timesteps of this schedule cannot be thinned to {steps}; choose "
            "numbers that divide the model's noise levels, and the spacing leading or trailing"
        )


def _weights(scheduler: Any, steps: int, stride: int, options: Mapping[str, Any]) -> Tensor:
    """How the fine draws inside each coarse step add up, `coarse steps x stride`, float64.

    Rows of steps that draw nothing are zero.
    """
    own = copy.deepcopy(scheduler)
    shifts = own.config.get("use_dynamic_shifting", False)
    # By how much the levels are shifted is for the size of the picture to say; it does not matter
    # to a path that starts afresh at each step.
    with quiet():
        own.set_timesteps(steps, **({"mu": 1.0} if shifts else {}))

    drawn = itertools.count(1)

    def draw(shape: tuple[int, ...]) -> Tensor:
        unit = torch.zeros(shape, dtype=torch.float64)
        unit[..., next(drawn)] = 1.0
        return unit

    # An entry for each draw: the initial one, and one a step.
    sample = torch.zeros(1, 1, 1, steps + 1, dtype=torch.float64)
    sample[..., 0] = 1.0
    given = {"eta": options["eta"]} if "eta" in options else {}
    rows = []
    with quiet(), NoiseTape(draw):
        for done, timestep in enumerate(own.timesteps, start=1):
            if hasattr(own, "scale_model_input"):
                own.scale_model_input(sample, timestep)
            answer = guess_of_nothing(own, sample, timestep)
            (sample, *_) = own.step(answer, timestep, sample, return_dict=False, **given)
            if done % stride == 0:
                rows.append(sample[0, 0, 0, 1 + done - stride : 1 + done].double())

    weights: Tensor = torch.stack(rows)
    normed: Tensor = weights / weights.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return normed


def guess_of_nothing(scheduler: Any, sample: Tensor, timestep: Tensor) -> Tensor:
    """What a network says that takes the clean sample to be zero everywhere.

    Args:
        scheduler: before it steps from there.
        sample: what it steps from.
        timestep: where it stands.

    Raises:
        ConfigError: the network predicts something unknown.
    """
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind == "sample":
        return torch.zeros_like(sample)

    # The sample is signal x clean + sigma x noise.
    signal = torch.ones((), dtype=torch.float64)
    if hasattr(scheduler, "sigmas"):
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        sigma = scheduler.sigmas[scheduler.step_index].double()
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
            signal, sigma = scheduler._sigma_to_alpha_sigma_t(sigma)
    else:
        level = scheduler.alphas_cumprod[timestep].double()
        signal = level.sqrt()
        sigma = (1 - level).sqrt()

    noise: Tensor = sample / sigma
    flows = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if flows or kind in ("epsilon", "flow_prediction"):
        return noise
    if kind == "v_prediction":
        scaled: Tensor = noise * signal / (signal.square() + sigma.square()).sqrt()
        return scaled
    raise ConfigError(f"cannot be thinned for a model that predicts {kind!r}")
