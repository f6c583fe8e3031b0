"""The configuration that a run is compared with."""

from __future__ import annotations

from typing import Any, Final

from dno.errors import ConfigError
from dno.registry.registry import OPTIMIZERS
from dno.runs.run_config import RunConfig, build_plugin_config

_WITHOUT_END: Final = 10**6
"""Iterations of the rival, whom the seconds stop."""


def rival_of(config: RunConfig, against: Any) -> RunConfig:
    """The configuration with another optimizer; its seconds are still to be set.

    Args:
        config: the run to compare with.
        against: the rival's name, or a table with its options.

    Raises:
        ConfigError: there is no such optimizer.
    """
    try:
        optimizer = build_plugin_config(OPTIMIZERS, against)
    except ConfigError as error:
        raise error.inside("compare") from None
    changes = {"optimizer": optimizer, "iterations": _WITHOUT_END, "warm_start": None}
    return config.model_copy(update=changes)
