"""A sampler with no network, for tests of everything around one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dno.noise import gaussian_noise


@dataclass(frozen=True)
class ToyMap:
    """M of `ToySampler`: two draws, added and squashed into an image; row i depends on row i alone."""

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
