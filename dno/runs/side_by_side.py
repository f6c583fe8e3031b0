"""Items of a study in one tensor: a run of several samples, taken apart into run folders.

It costs less a sample than each alone does. Each sample ends by itself, and then becomes the run
folder that it would have made alone, while the others go on without it. The numbers agree to
rounding, since torch adds up a batch in another order.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dno.core.result import Outcome, Status
from dno.errors import ConfigError, DNOError, RunError, RunFolderError
from dno.paths import current_folder
from dno.runs.attempt import Attempt, Attempts, End, attempt_of
from dno.runs.folders import free_folder, holds_nothing
from dno.runs.groups import (
    NAMES,
    TOGETHER,
    Group,
    folders_together,
    groups_begun,
    groups_of,
    observers_of,
    remove_left_over,
)
from dno.runs.lock import HeldError, hold, in_turn
from dno.runs.making import Making
from dno.runs.pose import Posed
from dno.runs.run_config import RunConfig
from dno.runs.standing import Standing, standing
from dno.runs.storage import RunFolder, has_state
from dno.wording import named


@dataclass
class SideBySide:
    """Runs groups of a study's items, and tells what came of each.

    What a group has reached is kept until each of its items has a run folder of its own, or failed
    by itself. Used as a context, it leaves no folder of a group that never began.

    Args:
        configs: of all items, by their names.
        ours: names of those that this process is to do.
        key: what configurations that may differ in prompt and seed alone have in common.
        size: how many like one are run together, but for groups that were begun; None: none are.
        study: the study's folder.
        items: where in it run folders of items are.
        attempts: makes attempts, with the models that are loaded.
        retries: how often a group that failed is gone on with at once.
        page: called with each run folder that was made.
    """

    configs: Mapping[str, RunConfig]
    ours: Sequence[str]
    key: Callable[[RunConfig], object]
    size: Callable[[RunConfig], int] | None
    study: Path
    items: Path
    attempts: Attempts
    retries: int = 0
    page: Callable[[Path], object] = lambda path: None
    _groups: dict[str, Group] = field(default_factory=dict)
    """By the names of their items."""
    _seen: Sequence[Path] = ()
    """The groups' folders that were there when these were formed."""
    _found: dict[str, Attempt] = field(default_factory=dict)
    _alone: set[str] = field(default_factory=set)
    """Items that are to be run alone, now that their group is over."""

    def __post_init__(self) -> None:
        self._form()

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *_: object) -> None:
        if (self.study / TOGETHER).exists():
            with in_turn(self.study):
                remove_left_over(self.study)

    def _form(self) -> None:
        """Who is run together: items of groups that were begun, and then the others."""
        self._seen = folders_together(self.study)
        begun = groups_begun(self.study, self.configs)
        self._groups = {name: group for group in begun for name in group.names}
        left = {
            name: self.configs[name]
            for name in self.ours
            if not (name in self._groups or name in self._found or name in self._alone)
            and self._is_free(name)
        }
        if self.size is not None:
            for group in groups_of(left, self.key, self.size):
                self._groups |= dict.fromkeys(group.names, group)

    def _is_free(self, name: str) -> bool:
        """Whether nobody has begun an item alone, and nothing else is in its place, which whoever
        runs it alone tells."""
        try:
            free_folder(self.items / name)
        except ConfigError:
            return False
        return True

    def attempt(self, name: str) -> Attempt | None:
        """What came of an item; None where it is to be run alone.

        Its group is run with the first of its items that is asked for.
        """
        if name in self._found:
            return self._found[name]
        if name in self._alone:
            return None
        group = self._of(name)
        if group is None:
            return None

        folder = None
        if self._is_new(group):
            with in_turn(self.study):
                group = self._of(name)
                if group is None:
                    return None
                try:
                    folder = self._claimed(group)
                except DNOError:
                    # Each item is tried alone, and tells its own error.
                    self._alone.update(group.names)
                    return None
        if folder is None and standing(self._path(group)) is Standing.HELD:
            return Attempt(End.HELD)
        if not self._run(group, folder):
            return Attempt(End.HELD)
        self._alone.update(other for other in group.names if other not in self._found)
        return self._found.get(name)

    def _of(self, name: str) -> Group | None:
        """The group of an item, as things are now: others may have begun some of these since."""
        group = self._groups.get(name)
        if group is not None and not self._is_new(group):
            return group
        changed = self._seen != folders_together(self.study)
        if changed or (group is not None and not all(map(self._is_free, group.names))):
            self._form()
        return self._groups.get(name)

    def _path(self, group: Group) -> Path:
        return self.study / TOGETHER / group.folder

    def _is_new(self, group: Group) -> bool:
        return not (self._path(group) / "run.toml").exists()

    def _claimed(self, group: Group) -> RunFolder | None:
        """The folder of a group that is to begin, held and with its items' names in it, so that
        others know of it while models are still loaded; None where it was begun.

        Raises:
            RunFolderError: something is there already, or it cannot be made.
            RunError: it cannot be written.
        """
        path = self._path(group)
        if path in self._seen:
            return None
        if path.is_symlink() or (path.is_dir() and not holds_nothing(path, {NAMES})):
            raise RunFolderError(f"{named(path)} is in use; remove what is there")
        folder = RunFolder(path)
        try:
            folder.write(NAMES, json.dumps(list(group.names)).encode())
        except BaseException:
            with folder:
                raise
        return folder

    def _run(self, group: Group, folder: RunFolder | None) -> bool:
        """Run a group, and note what came of those items that are not to be run alone; whether it
        could be, and no other process works on it.

        Args:
            group: whose.
            folder: its folder, where it begins; None where it was begun.
        """
        path = self._path(group)
        if folder is None:
            if not self._missing(group, ()):
                # Items were run by other means meanwhile.
                self._remove(path)
                return True
            strange = [name for name in self._missing(group, ()) if not self._may_be_made(name)]
            if strange:
                self._fail(group, str(_in_the_way(self.items / strange[0])))
                return True

        for left in range(self.retries, -1, -1):
            try:
                outcome = self._outcome(group, folder)
            except DNOError as error:
                # Another process may have been quicker.
                if standing(path) is Standing.HELD:
                    return False
                if not has_state(path):
                    break
                if isinstance(error, ConfigError) or not left:
                    self._fail(group, _told(path, error))
                    return True
            else:
                if outcome.status is Status.INTERRUPTED:
                    rest = [name for name in group.names if name not in self._found]
                    self._found |= dict.fromkeys(rest, Attempt(End.INTERRUPTED))
                    return True
                failed = [group.names[row] for row in outcome.failures]
                if not self._missing(group, failed) or not has_state(path):
                    break
                if not left:
                    self._fail(group, _told(path, outcome.error or RunError("it failed")))
                    return True
            folder = None
        # Those that failed are tried alone, as are all where nothing was reached.
        self._remove(path)
        return True

    def _outcome(self, group: Group, folder: RunFolder | None) -> Outcome:
        """Begin a group in its folder, or go on with it where there is none."""

        def ended(row: int, alone: Outcome, posed: Posed) -> None:
            self._make(group, row, alone, posed)

        if folder is None:
            return self.attempts.outcome(group.config, self._path(group), each=ended)
        with folder:
            return self.attempts.begin(group.config, folder, each=ended)

    def _missing(self, group: Group, failed: Sequence[str]) -> list[str]:
        """The items of a group that neither have a run of their own nor failed."""
        return [
            name
            for name in group.names
            if name not in failed and not self._is_elsewhere(self.items / name)
        ]

    def _is_elsewhere(self, place: Path) -> bool:
        """Whether an item is done, or somebody runs it, or began to, alone."""
        how_far = standing(place)
        if how_far is Standing.BEGUN:
            return has_state(place)
        return how_far is not Standing.NEW

    def _may_be_made(self, name: str) -> bool:
        """Whether an item's run folder can be made, or was begun by who made it last."""
        return (self.items / name / "run.toml").is_file() or self._is_free(name)

    def _fail(self, group: Group, error: str) -> None:
        """Note why items of a group that is kept have no run of their own."""
        for name in self._missing(group, [*self._found]):
            self._found[name] = Attempt(End.FAILED, error)

    def _remove(self, path: Path) -> None:
        """Remove the run of a group that there is nothing more to do for."""
        # Where somebody holds it, or was quicker and has removed it, there is nothing to remove.
        with in_turn(self.study), contextlib.suppress(HeldError, OSError):
            release = hold(path)
            try:
                shutil.rmtree(path)
            finally:
                release()
            # The last one takes the folder of them with it.
            path.parent.rmdir()

    def _make(self, group: Group, row: int, alone: Outcome, posed: Posed) -> None:
        """Make the run folder of a sample that has ended, as a run of its own would have.

        Raises:
            RunError: it cannot be written.
            RunFolderError: something else is in its place.
        """
        name = group.names[row]
        config = group.configs[row].located(current_folder())
        config = config.model_copy(update={"coarse": posed.config.coarse})
        making = Making(config) if config.metadata else None
        place = self.items / name
        if self._is_elsewhere(place):
            # Somebody else made it meanwhile.
            return
        try:
            # Who made it last may have been killed, or had no room.
            with RunFolder(place, new=not (place / "run.toml").is_file()) as folder:
                folder.save_config(config)
                folder.save_outcome(alone, posed.problem.sample.draws, making)
        except RunFolderError as error:
            if self._is_elsewhere(place):
                return
            raise _in_the_way(place) from error
        if "report" in observers_of(config):
            with contextlib.suppress(DNOError):
                self.page(place)
        attempt = attempt_of(alone, alone.history[-1].seconds)
        self._found[name] = self.attempts.kept(attempt, place)


def _in_the_way(place: Path) -> RunFolderError:
    return RunFolderError(
        f"{named(place)} holds what is no run, or cannot be written; once that is mended, the same "
        "command makes the item there"
    )


def _told(path: Path, error: DNOError) -> str:
    """Why a group whose state is kept was not gone on with, and what to do."""
    anew = f"remove {named(path)} to have its items, which are side by side there, begun anew"
    if isinstance(error, ConfigError):
        return f"{error}; or {anew}"
    # How to go on with one item's folder does not matter here.
    first = error.__cause__ if isinstance(error.__cause__, RunError) else error
    return f"{first}; the same command goes on from what is kept of its group; or {anew}"
