"""Items of a study that earlier commands left in its folder, whatever their release was.

An item's folder is named by what the item sets. A folder of its prompt and seed that holds the very
same configuration under another name is its own too: releases differ in what they make names of,
and what was a default once may have to be set now.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dno.errors import ConfigError, RunFolderError
from dno.paths import current_folder
from dno.runs.identity import Difference, differences, digests_of
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.wording import short

_log = logging.getLogger("dno")

_NAME: Final = re.compile(r"(?P<prompt>.+)-(?P<digest>[0-9a-f]{8})-(?P<seed>s\d+)")
_MAY_CHANGE: Final = ("iterations", "budget")
"""Fields that `dno resume` may change in a run folder."""


def names_there(items: Mapping[str, RunConfig], folder: Path) -> dict[str, str]:
    """The names by which items are in a folder already, where these are others than their own.

    Args:
        items: by the names that are theirs.
        folder: of the run folders; need not be there.
    """
    if not folder.is_dir():
        return {}
    inside = {path.name for path in folder.iterdir() if not path.is_symlink()}
    strangers: dict[tuple[str, str], list[str]] = {}
    for name in sorted(inside - items.keys()):
        strangers.setdefault(_apart_from_digest(name), []).append(name)

    found: dict[str, str] = {}
    for name, config in items.items():
        if name in inside:
            continue
        for other in strangers.get(_apart_from_digest(name), ()):
            run = SavedRun(folder / other)
            if holds(run, config) and not _sets_its_grids(run, config):
                found[name] = other
                break
    return found


def _apart_from_digest(name: str) -> tuple[str, str]:
    """What of a folder's name does not depend on settings."""
    match = _NAME.fullmatch(name)
    return (match["prompt"], match["seed"]) if match else (name, "")


def _sets_its_grids(run: SavedRun, config: RunConfig) -> bool:
    """Whether a folder is of an item that names the coarser grids that this one leaves open."""
    match = _NAME.fullmatch(run.path.name)
    if match is None or config.coarse != "auto":
        return False
    return match["digest"] in digests_of(run.values)


def holds(run: SavedRun, config: RunConfig) -> bool:
    """Whether a run folder holds an item of this very configuration, among others or alone."""
    try:
        items = run.items
        saved = run.values
    except RunFolderError:
        return False
    own = config.items()[0]
    return own in items and not differences(saved, _located(config))


def _located(config: RunConfig) -> RunConfig:
    # What cannot be a path is told when the item is run.
    with contextlib.suppress(ConfigError):
        return config.located(current_folder())
    return config


def check_defaults(items: Iterable[tuple[Path, RunConfig]]) -> None:
    """Compare run folders with what their items would be now, so that no default that has changed
    since mixes two settings in one table.

    What `dno resume` may have changed is only told.

    Args:
        items: the run folder of each, which need not be there, and its configuration.

    Raises:
        ConfigError: a run was made with another default, and how to go on with it.
    """
    told: dict[str, int] = {}
    for path, config in items:
        for one in _of_defaults(path, config):
            if one.place.split(".")[0] not in _MAY_CHANGE:
                if one.is_noted:
                    raise _of_another_state(path, one)
                raise ConfigError(
                    f"was made with {_shown(one.place, one.saved)}, where the default is "
                    f"{short(one.ours)} now; go on with it by {_as_option(one)}, or name another "
                    "folder for a study with the new default",
                    source=str(path),
                )
            change = f"{_shown(one.place, one.saved)}, and not {short(one.ours)}"
            told[change] = told.get(change, 0) + 1
    for change, count in told.items():
        _log.warning("%d of the items there were made with %s; they stay so", count, change)


def _of_another_state(path: Path, one: Difference) -> ConfigError:
    return ConfigError(
        f"was made with {_shown(one.place, one.saved)}, and it would be {short(one.ours)} now; go "
        f"on with it by {_as_option(one)}, or name another folder for a study with what there is "
        "now",
        source=str(path),
    )


def _of_defaults(path: Path, config: RunConfig) -> Iterator[Difference]:
    """Differences where the item sets nothing."""
    if not (path / "run.toml").is_file():
        return
    # A file that is damaged is told of when the item is run.
    with contextlib.suppress(RunFolderError):
        saved = SavedRun(path).values
        yield from (one for one in differences(saved, _located(config)) if not one.is_set)


def _shown(place: str, value: Any) -> str:
    return f"{place} = {short(value)}" if value is not None else f"no {place}"


def _as_option(one: Difference) -> str:
    if one.saved is None:
        return "the release that made it"
    return f"--set {one.place}={short(one.saved)}"
