"""Items of a study in one tensor: a run of several samples, taken apart into run folders.

Items that differ in their prompts alone, or in their seeds alone, are one run of several samples,
which costs less a sample than each alone does. It has a run folder of its own while it goes on, in
`together/`, so that it is resumed like any other. When it has ended, each sample becomes the run
folder that it would have made alone; the numbers agree to rounding, since torch adds up a batch in
another order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dno.core.result import Outcome, Snapshot, Status, StepRecord
from dno.errors import DNOError, RunFolderError
from dno.paths import current_folder
from dno.registry.registry import OBSERVERS
from dno.runs.attempt import Attempt, Attempts, End, attempt_of
from dno.runs.lock import HeldError, hold
from dno.runs.making import Making
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.standing import Standing, standing
from dno.runs.storage import RunFolder
from dno.runs.tensor_files import unpack

TOGETHER: Final = "together"
"""Where runs of several items are while they go on, in a study's folder."""

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

    @property
    def folder(self) -> str:
        """What the folder of their run is called: the same for the same items."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]


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
    """Whether a neighbour changes nothing for an item: not where a limit is shared by all samples,
    nor where each starts from noise of its own or is told of to somebody."""
    shared = config.budget.model_dump(exclude_none=True)
    return not shared and config.start is None and _observers(config) <= _ITEM_OBSERVERS


def _observers(config: RunConfig) -> set[str | None]:
    """Names of what looks on; None for what has none."""
    return {OBSERVERS.name_of(observer) for observer in config.observers}


def _chunks(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def _group(names: Sequence[str], configs: Mapping[str, RunConfig]) -> Group:
    own = [configs[name] for name in names]
    several = {
        "prompts": tuple(dict.fromkeys(config.prompts[0] for config in own)),
        "seeds": tuple(dict.fromkeys(config.seeds[0] for config in own)),
        "observers": (),
    }
    config = own[0].model_copy(update=several)
    assert list(config.items()) == [one.items()[0] for one in own]
    return Group(names, own, config)


@dataclass
class SideBySide:
    """Runs groups of a study's items, and tells what came of each.

    Args:
        groups: which items are run together.
        study: the study's folder.
        items: where in it run folders of items are.
        attempts: makes attempts, with the models that are loaded.
        page: called with each run folder that was made.
    """

    groups: Sequence[Group]
    study: Path
    items: Path
    attempts: Attempts
    page: Callable[[Path], object] = lambda path: None
    _found: dict[str, Attempt] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)
    """Folders of groups that there is nothing more to do for."""

    def attempt(self, name: str) -> Attempt | None:
        """What came of an item; None where it is to be run alone.

        Its group is run with the first of its items that is asked for.
        """
        group = next((group for group in self.groups if name in group.names), None)
        if group is None:
            return None
        if group.folder not in self._over:
            found = self._run(group)
            if found is None:
                return Attempt(End.HELD)
            self._over.add(group.folder)
            self._found |= found
        return self._found.get(name)

    def _run(self, group: Group) -> dict[str, Attempt] | None:
        """What came of those items of a group that are not to be run alone; None where another
        process works on it."""
        path = self.study / TOGETHER / group.folder
        where = [standing(self.items / name) for name in group.names]
        begun = standing(path)
        if begun is Standing.HELD:
            return None
        if begun is not Standing.NEW and all(one is Standing.DONE for one in where):
            # Items were run by other means meanwhile.
            _remove(path)
            return {}
        if begun is Standing.NEW and any(one is not Standing.NEW for one in where):
            return {}
        try:
            outcome = self.attempts.outcome(group.config, path)
        except DNOError:
            # Another process may have been quicker. If not, each item is tried alone, and tells its
            # own error.
            return None if standing(path) is Standing.HELD else {}
        match outcome.status:
            case Status.INTERRUPTED:
                return dict.fromkeys(group.names, Attempt(End.INTERRUPTED))
            case Status.FAILED:
                _remove(path)
                return {}
        try:
            release = hold(path)
        except HeldError:
            return None
        except OSError:
            # Another process was quicker, and has removed it.
            return {}
        try:
            found = self._taken_apart(group, outcome, path)
            _remove(path)
        except (OSError, ValueError):
            return {}
        finally:
            release()
        return found

    def _taken_apart(self, group: Group, outcome: Outcome, path: Path) -> dict[str, Attempt]:
        """Make a run folder of each sample that got to the end."""
        about, _ = unpack(path / "noise.safetensors")
        coarse = tuple(SavedRun(path).values["coarse"])
        found: dict[str, Attempt] = {}
        for row, (name, config) in enumerate(zip(group.names, group.configs, strict=True)):
            if row in outcome.failures:
                continue
            # As a run of its own would have written it.
            config = config.located(current_folder()).model_copy(update={"coarse": coarse})
            alone = of_sample(outcome, row)
            making = Making(config) if config.metadata else None
            place = self.items / name
            try:
                with RunFolder(place, new=True) as folder:
                    folder.save_config(config)
                    folder.save_outcome(alone, about["draws"], making)
            except RunFolderError:
                # Somebody else made it meanwhile.
                continue
            if "report" in _observers(config):
                with contextlib.suppress(DNOError):
                    self.page(place)
            found[name] = self.attempts.kept(attempt_of(alone, alone.history[-1].seconds), place)
        return found


def of_sample(outcome: Outcome, row: int) -> Outcome:
    """What a run reached for one of its samples that did not fail, as a run of that sample alone.

    Seconds are an equal share.
    """
    share = 1 / len(outcome.items)
    finished = Status.STOPPED if outcome.status is Status.STOPPED else Status.FINISHED
    return replace(
        outcome,
        status=finished,
        items=[outcome.items[row]],
        failures={},
        error=None,
        folder=None,
        history=[_record_of(record, row, share) for record in outcome.history],
        initial=_snapshot_of(outcome.initial, row),
        best=_snapshot_of(outcome.best, row),
        last=_snapshot_of(outcome.last, row),
    )


def _snapshot_of(snapshot: Snapshot, row: int) -> Snapshot:
    return Snapshot.of({name: value[row : row + 1] for name, value in snapshot.tensors().items()})


def _record_of(record: StepRecord, row: int, share: float) -> StepRecord:
    own: dict[str, Any] = {}
    for one in dataclasses.fields(record):
        value = getattr(record, one.name)
        if isinstance(value, Mapping):
            own[one.name] = {name: (values[row],) for name, values in value.items()}
        elif isinstance(value, tuple):
            own[one.name] = (value[row],)
        else:
            own[one.name] = value
    return StepRecord(**own | {"seconds": record.seconds * share})


def _remove(path: Path) -> None:
    """Remove the run of a group, all of whose samples have folders of their own, or failed."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        # The last one takes the folder of them with it.
        path.parent.rmdir()
