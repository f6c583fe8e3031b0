"""Items of a study in one tensor: a run of several samples, taken apart into run folders.

It costs less a sample than each alone does. Each sample ends by itself, and then becomes the run
folder that it would have made alone, while the others go on without it. The numbers agree to
rounding, since torch adds up a batch in another order.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dno.core.result import Outcome, Status
from dno.errors import DNOError, RunFolderError
from dno.paths import current_folder
from dno.runs.attempt import Attempt, Attempts, End, attempt_of
from dno.runs.groups import (
    TOGETHER,
    Group,
    NamesItems,
    folders_together,
    groups_begun,
    groups_of,
    observers_of,
)
from dno.runs.lock import HeldError, hold
from dno.runs.making import Making
from dno.runs.pose import Posed
from dno.runs.run_config import RunConfig
from dno.runs.standing import Standing, standing
from dno.runs.storage import RunFolder


@dataclass
class SideBySide:
    """Runs groups of a study's items, and tells what came of each.

    Args:
        configs: of all items, by their names.
        ours: names of those that this process is to do.
        key: what configurations that may differ in prompt and seed alone have in common.
        size: how many like one are run together, but for groups that were begun; None: none are.
        study: the study's folder.
        items: where in it run folders of items are.
        attempts: makes attempts, with the models that are loaded.
        page: called with each run folder that was made.
    """

    configs: Mapping[str, RunConfig]
    ours: Sequence[str]
    key: Callable[[RunConfig], object]
    size: Callable[[RunConfig], int] | None
    study: Path
    items: Path
    attempts: Attempts
    page: Callable[[Path], object] = lambda path: None
    _groups: dict[str, Group] = field(default_factory=dict)
    """By the names of their items."""
    _seen: Sequence[Path] = ()
    """The groups' folders that were there when these were formed."""
    _found: dict[str, Attempt] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)
    """Folders of groups that there is nothing more to do for."""

    def __post_init__(self) -> None:
        self._form()

    def _form(self) -> None:
        """Who is run together: items of groups that were begun, and then the others."""
        self._seen = folders_together(self.study)
        begun = groups_begun(self.study, self.configs)
        self._groups = {name: group for group in begun for name in group.names}
        left = {
            name: self.configs[name]
            for name in self.ours
            if name not in self._groups and name not in self._found and self._is_free(name)
        }
        if self.size is not None:
            for group in groups_of(left, self.key, self.size):
                self._groups |= dict.fromkeys(group.names, group)

    def _is_free(self, name: str) -> bool:
        """Whether nobody has begun an item alone."""
        return not (self.items / name / "run.toml").exists()

    def attempt(self, name: str) -> Attempt | None:
        """What came of an item; None where it is to be run alone.

        Its group is run with the first of its items that is asked for.
        """
        group = self._groups.get(name)
        if group is not None and group.folder not in self._over and self._is_new(group):
            # Another process may have begun items of this one since.
            if self._seen != folders_together(self.study):
                self._form()
            group = self._groups.get(name)
        if group is None:
            return self._found.get(name)
        if group.folder not in self._over:
            if not self._run(group):
                return Attempt(End.HELD)
            self._over.add(group.folder)
        return self._found.get(name)

    def _path(self, group: Group) -> Path:
        return self.study / TOGETHER / group.folder

    def _is_new(self, group: Group) -> bool:
        return not (self._path(group) / "run.toml").exists()

    def _run(self, group: Group) -> bool:
        """Run a group, and note what came of those items that are not to be run alone; whether it
        could be, and no other process works on it."""
        path = self._path(group)
        where = [standing(self.items / name) for name in group.names]
        begun = standing(path)
        if begun is Standing.HELD:
            return False
        if begun is not Standing.NEW and all(one is Standing.DONE for one in where):
            # Items were run by other means meanwhile.
            _remove(path)
            return True
        if begun is Standing.NEW and any(one is not Standing.NEW for one in where):
            return True

        def ended(row: int, alone: Outcome, posed: Posed) -> None:
            self._make(group, row, alone, posed)

        try:
            outcome = self.attempts.outcome(
                group.config, path, onlookers=[NamesItems(group)], each=ended
            )
        except DNOError:
            # Another process may have been quicker. If not, each item is tried alone, and tells its
            # own error.
            return standing(path) is not Standing.HELD
        if outcome.status is Status.INTERRUPTED:
            left = [name for name in group.names if name not in self._found]
            self._found |= dict.fromkeys(left, Attempt(End.INTERRUPTED))
            return True
        # Where somebody holds it, or was quicker and has removed it, there is nothing to remove.
        with contextlib.suppress(HeldError, OSError):
            release = hold(path)
            _remove(path)
            release()
        return True

    def _make(self, group: Group, row: int, alone: Outcome, posed: Posed) -> None:
        """Make the run folder of a sample that has ended, as a run of its own would have."""
        name = group.names[row]
        config = group.configs[row].located(current_folder())
        config = config.model_copy(update={"coarse": posed.config.coarse})
        making = Making(config) if config.metadata else None
        place = self.items / name
        try:
            with RunFolder(place, new=True) as folder:
                folder.save_config(config)
                folder.save_outcome(alone, posed.problem.sample.draws, making)
        except RunFolderError:
            # Somebody else made it meanwhile.
            return
        if "report" in observers_of(config):
            with contextlib.suppress(DNOError):
                self.page(place)
        attempt = attempt_of(alone, alone.history[-1].seconds)
        self._found[name] = self.attempts.kept(attempt, place)


def _remove(path: Path) -> None:
    """Remove the run of a group, all of whose samples have folders of their own, or failed."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        # The last one takes the folder of them with it.
        path.parent.rmdir()
