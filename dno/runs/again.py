"""What a run that is to go on is made of, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dno.paths import current_folder, user_path
from dno.runs.config_files import read_values
from dno.runs.run_config import RunConfig, located, put
from dno.runs.saved import config_file


def configuration_of(
    path: Path,
    *,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a run folder, with what is to change.

    Args:
        path: the run folder.
        iterations: optimizer steps in all, in place of the run's own number.
        settings: what else to change by its dotted place.

    Raises:
        ConfigError: the folder holds no run, or what it holds is no configuration.
    """
    path = user_path(path)
    file = config_file(path)
    # From where the file is, so that a run goes on from anywhere.
    values = located(read_values(file), path)
    sources = {"": str(file)}
    for place, value in (settings or {}).items():
        put(values, place, value)
        sources[place] = "--set"
    if iterations is not None:
        values["iterations"] = iterations
        sources["iterations"] = "--iterations"
    return RunConfig.parse(values, sources).located(current_folder())
