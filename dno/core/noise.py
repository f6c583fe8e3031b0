"""Gaussian noise from seeds: the same numbers on every device, and those that diffusers would
draw.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def gaussian_noise(draws: Sequence[tuple[int, ...]], seeds: Sequence[int]) -> Tensor:
    """One row of N(0, I) noise a seed, float32, on the CPU: `B x N`.

    Each row comes draw by draw from a CPU generator of its own, as diffusers draws when it is given
    one `torch.Generator("cpu").manual_seed(seed)` a sample.

    Args:
        draws: shape of each draw of one sample, in the order used.
        seeds: one seed a sample.
    """
    import torch

    rows = []
    for seed in seeds:
        generator = torch.Generator("cpu").manual_seed(seed)
        # The leading 1 and the draw-by-draw order are diffusers' own; torch's Gaussian stream
        # depends on both.
        drawn = [normal((1, *shape), generator).flatten() for shape in draws]
        rows.append(torch.cat(drawn))
    return torch.stack(rows)


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Draws from N(0, 1): float32 on the CPU, whatever torch's defaults are."""
    import torch

    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def evaluation_generators(seeds: Sequence[int], evaluation: int) -> list[Generator]:
    """A CPU generator a sample for one objective evaluation, a function of seed and evaluation
    alone.

    So nothing about random state needs saving, and a sample's randomness never depends on its
    neighbours.
    """
    import torch

    # Hashed, because torch's CPU generator looks at the low 32 bits of a seed alone.
    mixed = [zlib.crc32(f"{seed} {evaluation}".encode()) for seed in seeds]
    return [torch.Generator("cpu").manual_seed(value) for value in mixed]
