"""What a run of the command line has before its options go over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def start_values(
    file: Path | None,
    *,
    quiet: bool = False,
    no_report: bool = False,
    over: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values of the configuration file, if there is one, with what looks on at a run.

    Args:
        file: the file.
        quiet: whether progress is not to be shown.
        no_report: whether no report is wanted, nor the frames that it shows.
        over: values in place of a file's.

    Raises:
        ConfigError: the file cannot be read.
    """
    from dno.runs.shorthands import COMMAND_LINE_OBSERVERS, REPORTING

    values = dict(over or {}) if file is None else _read(file)
    watching = values.setdefault("observers", list(COMMAND_LINE_OBSERVERS))
    unwanted = [*(("progress",) if quiet else ()), *(REPORTING if no_report else ())]
    if unwanted and isinstance(watching, list):
        values["observers"] = [part for part in watching if _name(part) not in unwanted]
    return values


def _read(file: Path) -> dict[str, Any]:
    from dno.paths import user_path
    from dno.runs.config_files import read_values
    from dno.runs.run_config import located

    path = user_path(file, source="--config")
    return located(read_values(path), path.parent)


def _name(part: Any) -> Any:
    """The plugin's name in a part, which is that name or a table."""
    return part.get("use") if isinstance(part, Mapping) else part
