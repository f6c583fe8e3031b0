"""What options for speed gain, and what they change, on the embedded model on a CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import torch
from measuring import Figure, Size, exact, in_turns, middle, ratios
from torch import Tensor

from parts.iteration import bound, iteration

OPTIONS = {"channels_last": "`channels_last`", "compile": "`compile`"}
"""What is measured, and what tables call it. On a CPU networks have the first in any case, so that
it is the decoder's."""


def slope(sample: Any) -> Tensor:
    """The gradient of the mean picture."""
    noise_BN = sample.noise_BN.clone().requires_grad_()
    (grad_BN,) = torch.autograd.grad(sample(noise_BN).mean(), noise_BN)
    return grad_BN


def measure(size: Size) -> Iterator[Figure]:
    """Iterations with each option beside those without, and how far the gradient goes."""
    options = dict(OPTIONS)
    if shutil.which("g++") is None:
        # Nothing can be compiled here.
        del options["compile"]
    maps = {name: bound(steps=size.steps, memory="keep", **{name: True}) for name in options}
    plain = bound(steps=size.steps, memory="keep")
    jobs = {"plain": iteration(plain)} | {name: iteration(one) for name, one in maps.items()}
    seconds = in_turns(jobs, size.rounds)
    expected_BN = slope(plain)
    for name, text in options.items():
        gains = ratios(seconds[name], seconds["plain"])
        yield middle(f"speed.{name}", f"an iteration with {text}", gains, "times one without")
        off = (slope(maps[name]) - expected_BN).norm() / expected_BN.norm()
        yield exact(f"speed.{name}.off", f"its gradient with {text} is off by", float(off), "of it")
