"""Which items of a study are run together in one tensor, and which are already.

Items that differ in their prompts alone, or in their seeds alone, can be samples of one run. While
it goes on it has a folder of its own in `together/`, which names the items that it is of: whoever
goes on with the study goes on with it, however many items are to be side by side by then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dno.errors import RunFolderError
from dno.files import read_file
from dno.registry.registry import OBSERVERS
from dno.runs.earlier import holds
from dno.runs.folders import holds_nothing
from dno.runs.lock import HeldError, hold
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.standing import Standing, standing

TOGETHER: Final = "together"
"""Where runs of several items are while they go on, in a study's folder."""
NAMES: Final = "items.json"
"""What such a run folder names its items in."""
_LARGEST: Final = 2**24
"""Bytes of such a file."""
_ITEM_OBSERVERS: Final = frozenset({"progress", "curve", "frames", "report"})
"""Observers that items run together do without. With any other an item is run alone, so that
nobody who is to be told of it is left out."""


@dataclass(frozen=True)
class Group:
    """Items that are run together."""

    names: Sequence[str]
    configs: Sequence[RunConfig]
    """Of each, in the order in which they are the samples of `config`."""
    config: RunConfig
    """Of all of them."""
    folder: str
    """What the folder of their run is called."""


def groups_of(
    items: Mapping[str, RunConfig],
    key: Callable[[RunConfig], object],
    size: Callable[[RunConfig], int],
) -> list[Group]:
    """Items in groups of at most `size` of them; who can only be run alone is in none.

    Args:
        items: by their names, each of one prompt and one seed.
        key: what configurations that may differ in prompt and seed alone have in common.
        size: samples side by side, of one such configuration.
    """
    by_key: dict[object, dict[str, RunConfig]] = {}
    for name, config in items.items():
        if _may_be_together(config):
            by_key.setdefault(key(config), {})[name] = config

    groups: list[Group] = []
    for alike in by_key.values():
        most = size(next(iter(alike.values())))
        by_seed: dict[object, list[str]] = {}
        for name, config in alike.items():
            by_seed.setdefault(config.seeds, []).append(name)
        left: dict[object, list[str]] = {}
        for names in by_seed.values():
            for chunk in _chunks(names, most):
                if len(chunk) > 1:
                    groups.append(_group(chunk, alike))
                else:
                    left.setdefault(alike[chunk[0]].prompts, []).extend(chunk)
        for names in left.values():
            groups += [_group(chunk, alike) for chunk in _chunks(names, most) if len(chunk) > 1]
    return groups


def _may_be_together(config: RunConfig) -> bool:
    """Whether a neighbour changes nothing for an item: not where each starts from noise of its own,
    nor where somebody is told of it, who may ask to stop."""
    return config.start is None and observers_of(config) <= _ITEM_OBSERVERS


def observers_of(config: RunConfig) -> set[str | None]:
    """Names of what looks on; None for what has none."""
    return {OBSERVERS.name_of(observer) for observer in config.observers}


def _chunks(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def _group(names: Sequence[str], configs: Mapping[str, RunConfig], folder: str = "") -> Group:
    own = [configs[name] for name in names]
    config = _several(own)
    assert list(config.items()) == [one.items()[0] for one in own]
    return Group(names, own, config, folder or _folder(names))


def _several(own: Sequence[RunConfig]) -> RunConfig:
    """One configuration of all prompts and seeds."""
    several = {
        "prompts": tuple(dict.fromkeys(config.prompts[0] for config in own)),
        "seeds": tuple(dict.fromkeys(config.seeds[0] for config in own)),
        "observers": (),
    }
    return own[0].model_copy(update=several)


def _folder(names: Sequence[str]) -> str:
    """The same for the same items."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def folders_together(study: Path) -> list[Path]:
    """The run folders of groups that were begun, or are being begun by a process that is alive."""
    return [
        path
        for path in _folders(study)
        if (path / "run.toml").is_file() or ((path / NAMES).is_file() and _is_held(path))
    ]


def _folders(study: Path) -> list[Path]:
    place = study / TOGETHER
    if place.is_symlink() or not place.is_dir():
        return []
    return [path for path in sorted(place.iterdir()) if not path.is_symlink() and path.is_dir()]


def _is_held(path: Path) -> bool:
    return standing(path) is Standing.HELD


def remove_left_over(study: Path) -> None:
    """Remove folders of groups whose processes died before they began. To be called in turn."""
    with contextlib.suppress(OSError):
        for path in _folders(study):
            with contextlib.suppress(HeldError, OSError):
                release = hold(path)
                try:
                    if holds_nothing(path, {NAMES}):
                        shutil.rmtree(path)
                finally:
                    release()
        # Where it holds nothing any more.
        if not (study / TOGETHER).is_symlink():
            (study / TOGETHER).rmdir()


def names_in(folder: Path) -> list[str]:
    """The names of a group's items; none where its folder does not tell them."""
    try:
        found = json.loads(read_file(folder / NAMES, _LARGEST))
    except (OSError, RecursionError, ValueError):
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return []
    return found


def groups_begun(study: Path, items: Mapping[str, RunConfig]) -> list[Group]:
    """The groups that were begun in a study, of whatever size; not those of which some items are
    not among these.

    Args:
        study: its folder.
        items: by their names, each of one prompt and one seed.
    """
    folders = folders_together(study)
    if not folders:
        return []
    by_key: dict[tuple[str, int], list[str]] = {}
    for name, config in items.items():
        by_key.setdefault(config.items()[0], []).append(name)

    groups = []
    for folder in folders:
        names = names_in(folder)
        if not names or not all(name in items for name in names):
            names = list(_names_by_content(folder, items, by_key))
        if names and _is_of(folder, [items[name] for name in names]):
            groups.append(_group(names, items, folder.name))
    return groups


def _is_of(folder: Path, configs: Sequence[RunConfig]) -> bool:
    """Whether a group's folder is of these items, which it names."""
    own = [config.items()[0] for config in configs]
    try:
        return own == SavedRun(folder).items
    except RunFolderError:
        # It is being begun; or it is damaged, which who runs it tells.
        return own == list(_several(configs).items())


def _names_by_content(
    folder: Path,
    items: Mapping[str, RunConfig],
    by_key: Mapping[tuple[str, int], Sequence[str]],
) -> Iterator[str]:
    """The names of items that a group's run is of, told by its configuration."""
    run = SavedRun(folder)
    with contextlib.suppress(RunFolderError):
        for key in run.items:
            yield from [name for name in by_key.get(key, ()) if holds(run, items[name])][:1]


def standings(study: Path, folder: Path, items: Mapping[str, RunConfig]) -> dict[str, Standing]:
    """How far items are, those that are run together too.

    Args:
        study: its folder.
        folder: in it, that of the items' run folders.
        items: by their names.
    """
    found = {name: standing(folder / name) for name in items}
    for group in groups_begun(study, items):
        how_far = standing(study / TOGETHER / group.folder)
        for name in group.names:
            if found[name] is Standing.NEW:
                found[name] = Standing.HELD if how_far is Standing.HELD else Standing.BEGUN
    return found
