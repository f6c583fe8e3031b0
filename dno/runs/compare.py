"""Two ways of climbing one problem, at equal seconds, on models that are loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dno.core.budget import Budget
from dno.core.result import Outcome, Status
from dno.errors import ConfigError
from dno.paths import current_folder
from dno.registry.registry import OPTIMIZERS
from dno.runs.folders import free_folder, slug
from dno.runs.load import Loaded, load
from dno.runs.rival import rival_of
from dno.runs.run import run
from dno.runs.run_config import RunConfig


def _beside(out: Path, name: str) -> Path:
    """The rival's folder.

    Raises:
        ConfigError: there can be none beside that folder.
    """
    # `.` and `..` have a name only where they are.
    place = out if out.name not in ("", "..") else out.resolve()
    if not place.name:
        raise ConfigError(f"nothing can be beside {out}; name another folder", source="--out")
    return place.with_name(f"{place.name}-{slug(name)}")


@dataclass(frozen=True)
class Comparison:
    """What each of two optimizers reached in the same time."""

    ours: Outcome
    rival: Outcome | None
    """None where ours was interrupted or failed, so that there is nothing to compare with."""
    against: str
    """What the rival is called."""


def compare(
    config: RunConfig,
    against: Any,
    out: Path | None = None,
    *,
    loaded: Loaded | None = None,
) -> Comparison:
    """Run a configuration, and then a rival optimizer for as many seconds.

    Both are judged by the reward of their best healthy noise.

    Args:
        config: what to run.
        against: the rival's name, or a table with its options.
        out: folder of the run; the rival's has its name behind it. None keeps nothing on disk.
        loaded: see `dno.runs.run.run`.

    Raises:
        ConfigError: see `dno.runs.run.run`; nothing was run.
        RunError: see `dno.runs.run.run`.
    """
    config = config.located(current_folder())
    rival = rival_of(config, against)
    name = OPTIMIZERS.label(rival.optimizer)
    beside: Path | None = None
    if out is not None:
        free_folder(out)
        beside = free_folder(_beside(out, name))

    models = loaded or load(config)
    ours = run(config, out, loaded=models)
    if ours.status in (Status.INTERRUPTED, Status.FAILED):
        return Comparison(ours, None, name)
    seconds = max(ours.meter()["seconds"], 1e-3)
    rival = rival.model_copy(update={"budget": Budget(seconds=seconds)})
    return Comparison(ours, run(rival, beside, loaded=models), name)
