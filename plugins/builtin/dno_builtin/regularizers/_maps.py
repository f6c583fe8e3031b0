"""A row of noise as the maps that its draws are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`C h w` of a draw: its last two axes are a map, those before them (channels, frames) are
    channels.

    A draw of one axis is a map of one line.
    """
    height, width = (1, 1, *shape)[-2:]
    return math.prod(shape[:-2]), height, width


def as_field(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`C h w` of a draw as `as_map` has it, but two axes are a sequence of channels: `C x 1 x L`.

    The Gaussian shell reads draws so too.
    """
    if len(shape) < 3:
        return math.prod(shape[:-1]), 1, math.prod(shape[-1:])
    return as_map(shape)


def maps(
    noise_N: Tensor,
    draws: Sequence[tuple[int, ...]],
    cut: Callable[[tuple[int, ...]], tuple[int, int, int]] = as_map,
) -> list[Tensor]:
    """The draws of one row, those of one shape together: `K x C x h x w` each; without draws the
    row is one line.
    """
    shapes = [cut(shape) for shape in draws] or [(1, 1, noise_N.numel())]
    groups = defaultdict(list)
    for shape, draw in zip(
        shapes, torch.split(noise_N, [math.prod(shape) for shape in shapes]), strict=True
    ):
        groups[shape].append(draw.view(shape))
    return [torch.stack(group) for group in groups.values()]
