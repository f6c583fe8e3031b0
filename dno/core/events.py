"""Run events, as pluggy hooks on observers that a run was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

from dno.errors import ConfigError, DNOError, RunError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dno.core.result import Result, StepRecord

_PROJECT = "dno"
_KNOWN = "there are run_started(run), step_done(run, record, samples) and run_finished(run, result)"
_hookspec = pluggy.HookspecMarker(_PROJECT)
hookimpl = pluggy.HookimplMarker(_PROJECT)
"""Marks an observer's method as wanting the event of the same name; it may leave out arguments."""


@dataclass(frozen=True)
class RunInfo:
    """What observers are told about the run they watch."""

    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    iterations: int
    start: int
    """The iteration that this process begins at: 0, or more in a resumed run."""
    folder: Path | None
    """The run folder, where observers may add files under names of their own."""
    seconds: float | None = None
    """Wall-clock time that the run may take in all, where that is bounded."""


class Events:
    """The events an observer can ask for. Observers look on: they never change tensors."""

    @_hookspec
    def run_started(self, run: RunInfo) -> None:
        """Everything is built; the first evaluation comes next."""

    @_hookspec
    def step_done(self, run: RunInfo, record: StepRecord, samples: Tensor) -> bool | None:
        """One iteration was evaluated and recorded; return True to ask the run to stop.

        Args:
            run: the run.
            record: what was measured.
            samples: the detached samples of this evaluation, `B x 3 x H x W` for images.
        """

    @_hookspec
    def run_finished(self, run: RunInfo, result: Result) -> None:
        """The run has ended, whatever its status."""


class Bus:
    """Calls the observers of one run.

    Raises:
        ConfigError: an observer marks a method that is no event.
        RunError: from the methods, where an observer fails.
    """

    def __init__(self, run: RunInfo, observers: Sequence[object] = ()) -> None:
        self.run = run
        manager = pluggy.PluginManager(_PROJECT)
        manager.add_hookspecs(Events)
        try:
            # Called in the order given; pluggy's own order is last registered first.
            for observer in reversed(observers):
                manager.register(observer)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            reason = str(error).splitlines()[-1].partition(" in plugin")[0]
            raise ConfigError(
                f"{type(error.plugin).__name__} cannot observe: {reason}; {_KNOWN}", at="observers"
            ) from error
        self._hook = manager.hook

    def started(self) -> None:
        """Tell that the run begins."""
        self._tell("run_started")

    def step(self, record: StepRecord, samples: Tensor) -> bool:
        """Tell of one iteration; True if any observer asks to stop."""
        return any(self._tell("step_done", record=record, samples=samples))

    def finished(self, result: Result) -> None:
        """Tell that the run has ended."""
        self._tell("run_finished", result=result)

    def _tell(self, event: str, **about: object) -> list[object]:
        try:
            answers: list[object] = getattr(self._hook, event)(run=self.run, **about)
        except DNOError:
            raise
        except Exception as error:
            raise RunError(
                f"an observer failed at {event} with {type(error).__name__}: {error}"
            ) from error
        return answers
