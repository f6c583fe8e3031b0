"""A row of noise as the maps that its draws are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor


def as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`C h w` of a draw: its last two axes are a map, those before them (channels, frames) are
    channels.

    A draw of one axis is a map of one line.
    """
    height, width = (1, 1, *shape)[-2:]
    return math.prod(shape[:-2]), height, width


def maps(noise_N: Tensor, draws: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The draws of one row, those of one shape together: `K x C x h x w` each; without draws the
    row is one line.
    """
    shapes = [as_map(shape) for shape in draws] or [(1, 1, noise_N.numel())]
    groups = defaultdict(list)
    for shape, draw in zip(
        shapes, torch.split(noise_N, [math.prod(shape) for shape in shapes]), strict=True
    ):
        groups[shape].append(draw.view(shape))
    return [torch.stack(group) for group in groups.values()]


def channels(noise_N: Tensor, draws: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The draws of one row, those of one shape together, as `K x channels x places` each.

    A draw of two axes is a sequence, whose last axis holds the channels; one of more has them, and
    frames, before its map. A draw of one axis has no channels and is left out.
    """
    groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    sizes = [math.prod(shape) for shape in draws]
    for shape, draw in zip(draws, torch.split(noise_N, sizes) if sizes else (), strict=True):
        if len(shape) == 2:
            groups[shape].append(draw.view(shape).T)
        elif len(shape) > 2:
            count, height, width = as_map(shape)
            groups[shape].append(draw.view(count, height * width))
    return [torch.stack(group) for group in groups.values()]
