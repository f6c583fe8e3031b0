"""Which coarser time grids a run climbs on."""

from __future__ import annotations

from typing import Final

import torch

from dno.errors import ConfigError
from dno.protocols import CoarseMap, NoiseMap
from dno.runs.run_config import RunConfig

CANDIDATES: Final = (10, 25)
"""Grids that `coarse = "auto"` tries, the cheapest first."""
WORTH_IT: Final = 30
"""Fewer steps than this are cheap enough as they are."""
CLOSE: Final = 0.1
"""Root mean square difference of pictures in [0, 1] up to which a coarse grid shows the same."""


def coarser(sample: NoiseMap, steps: int) -> CoarseMap:
    """A bound sampler on so many of its own timesteps.

    Raises:
        ConfigError: the sampler offers no such grid.
    """
    offered = getattr(sample, "coarser", None)
    if offered is None:
        raise ConfigError("the sampler offers no coarser grid; leave it out", at="coarse")
    try:
        made: CoarseMap = offered(steps)
    except ConfigError as error:
        raise error.inside("coarse") from None
    return made


def coarse_steps(config: RunConfig, sample: NoiseMap) -> tuple[int, ...]:
    """Denoising steps of the coarser grids, fewest first; empty where the run has none."""
    if config.coarse == "auto":
        return _closest(sample)
    assert isinstance(config.coarse, tuple)
    return config.coarse


def _closest(sample: NoiseMap) -> tuple[int, ...]:
    """The coarsest candidate whose pictures of the starting noise are close to the fine ones."""
    steps = getattr(sample, "steps", 0)
    if not hasattr(sample, "coarser") or steps < WORTH_IT:
        return ()
    with torch.no_grad():
        fine = sample(sample.noise_BN)
        for candidate in CANDIDATES:
            try:
                coarse = coarser(sample, candidate)
            except ConfigError:
                continue
            shown = coarse.sample(coarse.coarsen(sample.noise_BN))
            difference = (shown - fine).square().flatten(1).mean(dim=1).sqrt()
            if bool((difference <= CLOSE).all()):
                return (candidate,)
    return ()
