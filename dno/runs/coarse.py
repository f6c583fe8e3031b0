"""Which coarser time grids a run climbs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dno.errors import ConfigError
from dno.protocols import CoarseMap, NoiseMap
from dno.runs.run_config import RunConfig

FEWEST: Final = 10
"""Steps below which a grid's pictures are often another picture than the fine one's."""
WORTH_IT: Final = 30
"""Fewer steps than this are cheap enough as they are."""


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


def coarse_grids(config: RunConfig, sample: NoiseMap) -> Mapping[int, CoarseMap]:
    """The sampler on the coarser grids by their denoising steps, fewest first; empty where the run
    has none.

    Raises:
        ConfigError: the sampler has no grid that was asked for.
    """
    if config.coarse == "auto":
        return _usual(sample) if config.optimizer.constrained else {}
    assert isinstance(config.coarse, tuple)
    return {steps: coarser(sample, steps) for steps in config.coarse}


def _usual(sample: NoiseMap) -> Mapping[int, CoarseMap]:
    """The coarsest grid that is worth a try with any prompts.

    It goes by the number of steps, and by no look at pictures: a sample must not climb on another
    grid because of what it is drawn beside. Whether its gain survives is seen sample by sample, at
    the hand-over.
    """
    steps = getattr(sample, "steps", 0)
    if not hasattr(sample, "coarser") or steps < WORTH_IT:
        return {}
    for fewer in range(FEWEST, steps):
        try:
            return {fewer: coarser(sample, fewer)}
        except ConfigError:
            continue
    return {}
