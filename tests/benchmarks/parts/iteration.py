"""An iteration in plain samples, by memory policy; on the embedded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from dno_builtin.samplers.ddim import DDIM
from measuring import Figure, Size, in_turns, middle, ratios

from dno.plugin import BuildContext

POLICIES = ("keep", "recompute")
"""Memory policies that are measured: one more is one more word."""


def bound(prompts: int = 1, **options: Any) -> Any:
    """The embedded model's noise map."""
    context = BuildContext(torch.device("cpu"), torch.float32)
    return DDIM(**options).build(context).bind(["a black cat"] * prompts, list(range(prompts)))


def plain(sample: Any) -> Callable[[], None]:
    """A job that draws, without a gradient."""

    def job() -> None:
        with torch.no_grad():
            sample(sample.noise_BN)

    return job


def iteration(sample: Any) -> Callable[[], None]:
    """A job that draws, and goes back through what it drew."""

    def job() -> None:
        noise_BN = sample.noise_BN.clone().requires_grad_()
        torch.autograd.grad(sample(noise_BN).mean(), noise_BN)

    return job


def measure(size: Size) -> Iterator[Figure]:
    """Times by policy, and of the last steps alone."""
    maps = {policy: bound(steps=size.steps, memory=policy) for policy in POLICIES}
    last = min(10, size.steps)
    maps["last_10"] = bound(steps=size.steps, last_steps=last)
    jobs = {"plain": plain(maps[POLICIES[0]])}
    jobs |= {name: iteration(sample) for name, sample in maps.items()}
    seconds = in_turns(jobs, size.rounds)

    yield middle("iteration.plain", f"plain sample, {size.steps} steps", seconds["plain"], "CPU s")
    for name in maps:
        text = f"iteration, `{name}`"
        if name == "last_10":
            text = f"iteration, the noise of the last {last} steps alone"
        yield middle(f"iteration.{name}", text, ratios(seconds[name], seconds["plain"]), "samples")
