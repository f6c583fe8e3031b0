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
from dno.runs.identity import Difference, differences, digests_of, fingerprint
from dno.runs.objects import OBJECTS, Likeness, Print, likenesses, prints_of
from dno.runs.run_config import RunConfig, located
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

    new = {name: config for name, config in items.items() if name not in inside}
    wanted = {_apart_from_digest(name) for name in new}
    runs = [
        SavedRun(folder / other)
        for kind, others in strangers.items()
        if kind in wanted
        for other in others
    ]
    by_content = _by_content(runs)
    found: dict[str, str] = {}
    # Without strangers there is nothing to compare with.
    for name, config in new.items() if by_content else ():
        key = (config.items()[0], fingerprint(_located(config).dump()))
        for run in by_content.get(key, ()):
            if holds(run, config) and not _sets_its_grids(run, config):
                found[name] = run.path.name
                break
    return found


def _by_content(runs: Iterable[SavedRun]) -> dict[tuple[tuple[str, int], str], list[SavedRun]]:
    """Run folders by each item and the settings that they hold; each is read once."""
    found: dict[tuple[tuple[str, int], str], list[SavedRun]] = {}
    for run in runs:
        # What is damaged, or no configuration, is of nobody.
        with contextlib.suppress(RunFolderError, TypeError):
            content = fingerprint(run.values)
            for item in run.items:
                found.setdefault((item, content), []).append(run)
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
    """Compare run folders with what their items would be now, so that no two settings are mixed in
    one table: by a default that has changed since, a path that means another file from another
    folder, or another Python object of the same name.

    What `dno resume` may have changed is only told, and so is where it cannot be told whether a
    Python object is the same.

    Args:
        items: the run folder of each, which need not be there, and its configuration.

    Raises:
        ConfigError: a run was made with something else, and how to go on with it.
    """
    told: dict[str, int] = {}
    doubts: dict[str, int] = {}
    for path, config in items:
        for place in _doubtful(path, prints_of(config)):
            doubts[place] = doubts.get(place, 0) + 1
        for one in _differences(path, config):
            if one.place.split(".")[0] not in _MAY_CHANGE:
                if one.is_noted:
                    raise _of_another_state(path, one)
                if one.is_set:
                    raise _means_another(one, path)
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
    for place, count in doubts.items():
        _log.warning(
            "it cannot be told whether %d of the items there were made with the Python object that "
            "%s is now; where it does something else now, name another --out",
            count,
            place,
        )


def _of_another_state(path: Path, one: Difference) -> ConfigError:
    return ConfigError(
        f"was made with {_shown(one.place, one.saved)}, and it would be {short(one.ours)} now; go "
        f"on with it by {_as_option(one)}, or name another folder for a study with what there is "
        "now",
        source=str(path),
    )


def _means_another(one: Difference, path: Path) -> ConfigError:
    """What to say where a setting has the same words, and another meaning."""
    return ConfigError(
        f"was made with {_shown(one.place, one.saved)}, and this command means "
        f"{_shown(one.place, one.ours)}; go on with it where it was begun, or with that path in "
        "full, or name another --out",
        source=str(path),
    )


def _doubtful(path: Path, prints: Mapping[str, Print]) -> Iterator[str]:
    """Places of Python objects that may not be those that a run was made with.

    Raises:
        ConfigError: one is certainly another.
    """
    if not (path / "run.toml").is_file():
        return
    for place, like in likenesses(path, prints).items():
        if like is Likeness.OTHER:
            raise ConfigError(
                f"was made with another Python object of this name as {place}, whose code differs "
                f"from that of the one given now; name another --out, or remove {OBJECTS} there if "
                "both do the same",
                source=str(path),
            )
        if like is Likeness.UNKNOWN:
            yield place


def _differences(path: Path, config: RunConfig) -> Iterator[Difference]:
    if not (path / "run.toml").is_file():
        return
    # A file that is damaged is told of when the item is run.
    with contextlib.suppress(RunFolderError):
        # Folders of format 2 have paths as they were given.
        saved = located(SavedRun(path).values, path)
        for one in differences(saved, _located(config)):
            if one.place.split(".")[0] == "start" and _in_memory(config):
                # It is a file of the folder now; the folder's name has its digest.
                continue
            yield one


def _in_memory(config: RunConfig) -> bool:
    return config.start is not None and not isinstance(config.start, Path)


def _shown(place: str, value: Any) -> str:
    return f"{place} = {short(value)}" if value is not None else f"no {place}"


def _as_option(one: Difference) -> str:
    if one.saved is None:
        return "the release that made it"
    return f"--set {one.place}={short(one.saved)}"
