"""The line that tells why nothing is to be seen yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dno.cli.say import say
from dno.wording import named

if TYPE_CHECKING:
    from dno.runs.run_config import RunConfig

_LONGEST: Final = 80
"""Characters of what a model is called."""


def tell_loading(config: RunConfig) -> None:
    """Say what will be loaded, on standard error: libraries and models take seconds.

    A run that shows no progress is as silent before it begins.
    """
    from dno.registry.registry import OBSERVERS

    if any(OBSERVERS.name_of(observer) == "progress" for observer in config.observers):
        tell_that_it_loads(config)


def tell_that_it_loads(config: RunConfig) -> None:
    """Say it, whatever looks on."""
    names = (named(name, _LONGEST) for name in dict.fromkeys(_models(config)))
    say(f"loading {', '.join(names)} ...", err=True)


def _models(config: RunConfig) -> Iterator[str]:
    """What draws, then what judges by a model of its own."""
    from dno.registry.registry import REWARDS, SAMPLERS

    model = getattr(config.sampler, "model", None)
    yield model if isinstance(model, str) and model else SAMPLERS.label(config.sampler)
    for reward in (*config.rewards, *config.monitors):
        if "model" in type(reward).model_fields:
            yield REWARDS.label(reward)
