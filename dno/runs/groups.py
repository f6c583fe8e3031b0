"""Which items of a study are run together in one tensor, and which are already.

Items that differ in their prompts alone, or in their seeds alone, can be samples of one run. While
it goes on it has a folder of its own in `together/`, which names the items that it is of: whoever
goes on with the study goes on with it, however many items are to be side by side by then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dno.core.events import RunStarted, hookimpl
from dno.errors import RunFolderError
from dno.files import read_file, write_file
from dno.registry.registry import OBSERVERS
from dno.runs.earlier import holds
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
    several = {
        "prompts": tuple(dict.fromkeys(config.prompts[0] for config in own)),
        "seeds": tuple(dict.fromkeys(config.seeds[0] for config in own)),
        "observers": (),
    }
    config = own[0].model_copy(update=several)
    assert list(config.items()) == [one.items()[0] for one in own]
    return Group(names, own, config, folder or _folder(names))


def _folder(names: Sequence[str]) -> str:
    """The same for the same items."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


class NamesItems:
    """Looks on at the start of a group's run, and names its items in its folder."""

    def __init__(self, group: Group) -> None:
        self._names = list(group.names)

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Write the names, in the order of the samples."""
        if event.run.folder is not None:
            write_file(event.run.folder / NAMES, json.dumps(self._names).encode())


def folders_together(study: Path) -> list[Path]:
    """The run folders of groups that were begun."""
    place = study / TOGETHER
    if place.is_symlink() or not place.is_dir():
        return []
    return [
        path
        for path in sorted(place.iterdir())
        if not path.is_symlink() and (path / "run.toml").is_file()
    ]


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
        # A folder that is damaged, or of other items, is told of by who runs them.
        with contextlib.suppress(RunFolderError):
            if names and [items[name].items()[0] for name in names] == SavedRun(folder).items:
                groups.append(_group(names, items, folder.name))
    return groups


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
