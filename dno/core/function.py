"""Any function from noise to samples, as a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dno.core.noise import gaussian_noise

if TYPE_CHECKING:
    from torch import Tensor

    from dno.media import Medium


@dataclass(frozen=True)
class FunctionSampler:
    """A sampler made of a function; prompts change nothing.

        >>> import torch, dno
        >>> line = dno.FunctionSampler(lambda z: 2 * z + 1, draws=[(3,)])
        >>> line.bind(["any"], [0])(torch.zeros(1, 3))
        tensor([[1., 1., 1.]])

    Args:
        function: takes each draw with the batch in front, `B x *draw`, and returns `B x ...`
            samples; differentiable, sample i from row i of each draw alone.
        draws: shape of each Gaussian draw of one sample.
        medium: what the samples are, such as `Medium("audio", rate=16_000)`; None: images where
            they are `B x 3 x H x W`.
    """

    function: Callable[..., Tensor]
    draws: Sequence[tuple[int, ...]]
    medium: Medium | None = None

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> FunctionMap:
        """The function, and the noise that these seeds stand for."""
        return FunctionMap(
            gaussian_noise(self.draws, seeds), self.draws, self.function, self.medium
        )


@dataclass(frozen=True)
class FunctionMap:
    """M of a `FunctionSampler`."""

    noise_BN: Tensor
    draws: Sequence[tuple[int, ...]]
    function: Callable[..., Tensor]
    medium: Medium | None = None

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """The function's samples for this noise."""
        import torch

        parts = torch.split(noise_BN, [math.prod(shape) for shape in self.draws], dim=1)
        return self.function(
            *(part.reshape(-1, *shape) for part, shape in zip(parts, self.draws, strict=True))
        )
