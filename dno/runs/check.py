"""What is wrong with a run that can be seen before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dno.errors import ConfigError
from dno.paths import user_path
from dno.runs.parts import Parts, at
from dno.runs.run_config import RunConfig
from dno.wording import named


def noise_file(path: Path) -> Path:
    """The file with the noise of a run folder; a file is itself."""
    return path / "noise.safetensors" if path.is_dir() else path


def check(config: RunConfig, *, fresh: bool = True, weights: bool = True) -> None:
    """Raise `ConfigError` for what is certain to fail, with its place; loads nothing.

    Args:
        config: what to run.
        fresh: whether the run is at its start, and so needs the noise to start from.
        weights: whether weights must be there; a plan does without them.
    """
    if fresh and config.start is not None:
        file = noise_file(user_path(config.start, at="start"))
        if not file.is_file():
            raise ConfigError(f"there is no file {named(file)}", at="start")
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
