"""Schedulers: a pipeline's own with changes, never clipping, and DDIM's as the sampler needs it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor

from dno.plugin import ConfigError, first_line, quiet

from .kinds import check_same

UNCLIPPED = {"clip_sample": False, "thresholding": False}
"""Scheduler options that are always put in: gradients vanish where either acts."""


class Scheduler(DDIMScheduler):  # type: ignore[misc]
    """diffusers' DDIM, without its waits for the GPU and without its NaN at zero signal."""

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        """Put the timesteps on the CPU, where the table of noise levels is.

        So `step` need not fetch each of them from a GPU.
        """
        super().set_timesteps(num_inference_steps)

    def _get_variance(self, timestep: int, prev_timestep: int) -> Tensor:
        variance: Tensor = super()._get_variance(timestep, prev_timestep)
        level = self.final_alpha_cumprod
        if prev_timestep >= 0:
            level = self.alphas_cumprod[prev_timestep]

        # Where the signal is zero and eta is 1, all of `1 - level` is fresh noise; rounding makes
        # it a little more, and `step` then takes the root of what is left. Other steps are far
        # below.
        return torch.minimum(variance, (1 - level) * (1 - 1e-6))


def unclipped(scheduler: Any) -> Any:
    """A new scheduler of the same class and options that clips nothing."""
    known = scheduler_options(type(scheduler))
    changes = {name: value for name, value in UNCLIPPED.items() if name in known}
    with quiet():
        return scheduler.from_config(scheduler.config, **changes)


def scheduler_options(cls: Any) -> list[str]:
    """Names of the options of a scheduler class."""
    _, *names = inspect.signature(cls.__init__).parameters
    return names


def make_scheduler(pipe: Any, cls: str | None, changes: Mapping[str, Any]) -> Any:
    """The pipeline's scheduler with other options, or of another of diffusers' scheduler classes.

    Args:
        pipe: where the schedule comes from.
        cls: name of the class; None: the class of the pipeline's own scheduler.
        changes: options that differ from the pipeline's own.

    Raises:
        ConfigError: there is no such class, or it has no such option.
    """
    own = getattr(pipe, "scheduler", None)
    if cls is None and not changes:
        return own

    at = "scheduler_class"
    if changes:
        at = "scheduler"
    if not isinstance(own, SchedulerMixin):
        raise ConfigError(f"a {type(pipe).__name__} has no `scheduler` to change", at=at)

    kind: Any = type(own)
    if cls is not None:
        kind = _scheduler_class(cls)
    _check_options(kind, changes)

    try:
        with quiet():
            made = kind.from_config(own.config, **changes)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"{kind.__name__} cannot be made of the model's schedule: {first_line(error)}",
            at=at,
        ) from error
    check_same(options_of(own), options_of(made), at)
    return made


def options_of(scheduler: Any) -> dict[str, Any]:
    """A scheduler's options, with the name of its class, as its file would have them."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def _scheduler_class(name: str) -> type:
    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, SchedulerMixin):
        raise ConfigError(
            f'diffusers has no scheduler "{name}" here; name one, such as DDIMScheduler',
            at="scheduler_class",
        )
    return found


def _check_options(kind: type, names: Iterable[str]) -> None:
    known = scheduler_options(kind)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{kind.__name__} has no option `{name}`; it has {', '.join(known)}",
                at="scheduler",
            )
