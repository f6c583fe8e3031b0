"""What is wrong with a run that can be seen before torch is imported, which takes seconds."""

from __future__ import annotations

from typing import Any

from dno.errors import ConfigError
from dno.runs.parts import Parts, at
from dno.runs.run_config import RunConfig
from dno.runs.start import check_start


def check(config: RunConfig, *, fresh: bool = True, weights: bool = True) -> None:
    """Raise `ConfigError` for what is certain to fail, with its place; loads nothing.

    Args:
        config: what to run.
        fresh: whether the run is at its start, and so needs the noise to start from.
        weights: whether weights must be there; a plan does without them.
    """
    if fresh:
        check_start(config)
    if config.spread == 1:
        raise ConfigError("should be 0, or at least 2: one sample has no spread", at="spread")

    parts = Parts.of(config)
    weighty: list[Any] = [*config.rewards, *config.regularizers]
    if not any(part.weight for part in weighty):
        raise ConfigError(
            "every weight is 0, so there is nothing to optimise; give one a weight", at="rewards"
        )
    for reward in parts.rewards:
        exact = reward.config.differentiable or not reward.config.weight
        if config.gradient.method == "exact" and not exact:
            raise ConfigError(
                f'"{reward.name}" has no exact gradient; choose another gradient.method to '
                "estimate one, or give it weight 0",
                at=reward.place,
            )
    for part in parts:
        if weights or not getattr(part.config, "weightless", False):
            at(part.place, part.config.check)
