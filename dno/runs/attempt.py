"""One attempt at one item of a study, on models that stay loaded for the next.

Whoever makes it, this process or an actor on another machine, tells what came of it in a few
numbers and words: what an item made lies in its run folder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dno.core.result import Outcome, Status
from dno.errors import ConfigError, DNOError, RunFolderError
from dno.runs.keep import Keep, thin
from dno.runs.load import Loaded, load
from dno.runs.run import Each, begin, go_on, run
from dno.runs.run_config import RunConfig
from dno.runs.standing import Standing, standing
from dno.runs.storage import RunFolder


class End(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    BEFORE = "before"
    """It was done already."""
    HELD = "held"
    """Another process works on it."""
    FAILED = "failed"
    WRONG = "wrong"
    """Its configuration cannot be run, and would be as wrong the next time."""
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt."""

    end: End
    error: str = ""
    rises: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Each reward that was climbed, at the start and at the best."""
    seconds: float = 0.0


class Attempts:
    """Makes attempts one after the other; models of one stay for the next, where they fit it.

    Args:
        keep: what is kept of an item that is done.
    """

    def __init__(self, keep: Keep = Keep.ALL) -> None:
        self._keep = keep
        self._loaded: Loaded | None = None

    def make(self, config: RunConfig, path: Path) -> Attempt:
        """Run an item, or go on with it, unless it is done or held.

        Args:
            config: the item's.
            path: its run folder.
        """
        return self.kept(self._make(config, path), path)

    def kept(self, attempt: Attempt, path: Path) -> Attempt:
        """The attempt, once its run folder holds no more than is to be kept."""
        if self._keep is Keep.BEST and attempt.end in (End.DONE, End.BEFORE):
            thin(path)
        return attempt

    def begin(self, config: RunConfig, folder: RunFolder, each: Each) -> Outcome:
        """Run what is to be in a folder that is held for it; see `dno.runs.run.begin`."""
        return begin(config, folder, loaded=self._models(config), each=each)

    def outcome(self, config: RunConfig, path: Path, each: Each | None = None) -> Outcome:
        """Run what is to be in a folder, or go on with it.

        Args:
            config: what to run.
            path: its run folder.
            each: see `dno.runs.run.run`.

        Raises:
            DNOError: see `dno.runs.run.run`.
        """
        if standing(path) is Standing.NEW:
            return run(config, path, loaded=self._models(config), each=each)
        return go_on(config, path, loaded=self._models(config), each=each)

    def _make(self, config: RunConfig, path: Path) -> Attempt:
        began = time.perf_counter()
        try:
            match standing(path):
                case Standing.DONE:
                    return Attempt(End.BEFORE)
                case Standing.HELD:
                    return Attempt(End.HELD)
                case _:
                    outcome = self.outcome(config, path)
        except RunFolderError as error:
            # Another process may have been quicker.
            match standing(path):
                case Standing.DONE:
                    return Attempt(End.BEFORE)
                case Standing.HELD:
                    return Attempt(End.HELD)
                case _:
                    return Attempt(End.FAILED, str(error))
        except ConfigError as error:
            return Attempt(End.WRONG, str(error))
        except DNOError as error:
            return Attempt(End.FAILED, str(error))
        return attempt_of(outcome, time.perf_counter() - began)

    def _models(self, config: RunConfig) -> Loaded:
        if self._loaded is not None:
            with contextlib.suppress(ConfigError):
                self._loaded.check_fits(config)
                return self._loaded
        # Freed before others are loaded.
        self._loaded = None
        self._loaded = load(config)
        return self._loaded


def attempt_of(outcome: Outcome, seconds: float) -> Attempt:
    """What an outcome says of the attempt that it came of, which took so many seconds."""
    rises = {
        name: (float(outcome.initial.rewards[name][0]), float(outcome.best.rewards[name][0]))
        for name in outcome.climbed
    }
    match outcome.status:
        case Status.INTERRUPTED:
            end = End.INTERRUPTED
        case Status.FAILED:
            end = End.FAILED
        case _:
            end = End.DONE
    error = str(outcome.error or "it failed") if end is End.FAILED else ""
    return Attempt(end, error, rises, seconds)
