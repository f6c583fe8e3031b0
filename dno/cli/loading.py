"""The line that tells why nothing is to be seen yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dno.cli.say import say

if TYPE_CHECKING:
    from dno.runs.run_config import RunConfig


def tell_loading(config: RunConfig) -> None:
    """Say what will be loaded, on standard error: libraries and models take seconds."""
    say(f"loading {', '.join(dict.fromkeys(_models(config)))} ...", err=True)


def _models(config: RunConfig) -> Iterator[str]:
    """What draws, then what judges by a model of its own."""
    from dno.registry.registry import REWARDS, SAMPLERS

    model = getattr(config.sampler, "model", None)
    yield model if isinstance(model, str) and model else SAMPLERS.label(config.sampler)
    for reward in (*config.rewards, *config.monitors):
        if "model" in type(reward).model_fields:
            yield REWARDS.label(reward)
