"""Samples drawn one by one, where a pipeline cannot draw them side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from dno.plugin import Footprint, Medium

from .noise_map import PipelineNoiseMap


class ApartNoiseMap:
    """Bound maps of one sample each as one of all of them; see `dno.plugin.NoiseMap`.

    Some pipelines draw once for a whole batch, or several rows for each sample; a sample of its own
    call has all of a draw to itself.

    Args:
        maps: one for each sample, all of the same draws.
    """

    def __init__(self, maps: Sequence[PipelineNoiseMap]) -> None:
        self._maps = maps
        self.medium: Medium = maps[0].medium
        """What its samples are."""
        self.draws: Sequence[tuple[int, ...]] = maps[0].draws
        """Shape of each moving draw of one sample, in the order drawn."""
        self.network_evaluations: int = maps[0].network_evaluations
        """Passes through the denoising network that a call makes for each sample."""
        self.remedy: str = maps[0].remedy
        """What to do where a sample or its gradient is not finite."""
        self.noise_BN: Tensor = torch.cat([one.noise_BN for one in maps])
        """Where the seeds start, float32 `B x N`, on the sampler's device."""

    @property
    def footprint(self) -> Footprint | None:
        """What an evaluation with gradient needs: their graphs add up."""
        one = self._maps[0].footprint
        if one is None:
            return None
        more = len(self._maps) - 1
        graphs = {part: size * (1 + more) for part, size in one.graphs.items()}
        flop = None if one.flop is None else one.flop * (1 + more)
        peak = one.peak + more * sum(one.graphs.values())
        return one._replace(graphs=graphs, flop=flop, peak=peak)

    @contextlib.contextmanager
    def climbing(self) -> Iterator[None]:
        """Inside, what none of them calls lies elsewhere, where there is too little memory."""
        with ExitStack() as undo:
            for one in self._maps:
                undo.enter_context(one.climbing())
            yield

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """Samples of this noise, as their medium has them, in the noise's dtype and device."""
        if noise_BN.shape != self.noise_BN.shape:
            expected = tuple(self.noise_BN.shape)
            got = tuple(noise_BN.shape)
            raise ValueError(f"the noise of these prompts is {expected}, got {got}")

        rows = torch.split(noise_BN, 1)
        return torch.cat([one(row) for one, row in zip(self._maps, rows, strict=True)])
