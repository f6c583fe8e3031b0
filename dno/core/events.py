"""Run events, as pluggy hooks on observers that a run was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from dno.errors import ConfigError, DNOError, RunError
from dno.wording import said

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dno.core.result import Outcome, StepRecord

_PROJECT = "dno"
_KNOWN = "there are run_started(event), step_done(event) and run_finished(event)"

_hookspec = pluggy.HookspecMarker(_PROJECT)
hookimpl = pluggy.HookimplMarker(_PROJECT)
"""Marks an observer's method as wanting the event of the same name."""


@dataclass(frozen=True)
class RunInfo:
    """What observers are told about the run they watch."""

    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    iterations: int
    """In all, those of a warm start too."""
    start: int
    """The iteration that this process begins at: 0, or more in a resumed run."""
    folder: Path | None
    """The run folder, where observers may add files under names of their own
    (`dno.plugin.write_file`)."""
    seconds: float | None = None
    """Wall-clock time that the run may take in all, where that is bounded."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's whole configuration as plain values, as its `run.toml` holds them."""


@dataclass(frozen=True)
class RunStarted:
    """Everything is built; the first evaluation comes next."""

    run: RunInfo


@dataclass(frozen=True)
class StepDone:
    """One iteration was evaluated and recorded."""

    run: RunInfo
    record: StepRecord
    """What was measured."""
    samples: Tensor
    """The samples of this evaluation, detached: `B x 3 x H x W` for images."""


@dataclass(frozen=True)
class RunFinished:
    """The run has ended, whatever its status; its files are written."""

    run: RunInfo
    outcome: Outcome


class Events:
    """The events an observer can ask for. Observers look on: they never change tensors."""

    @_hookspec
    def run_started(self, event: RunStarted) -> None:
        """Everything is built; the first evaluation comes next."""

    @_hookspec
    def step_done(self, event: StepDone) -> bool | None:
        """One iteration was evaluated and recorded; return True to ask the run to stop."""

    @_hookspec
    def run_finished(self, event: RunFinished) -> None:
        """The run has ended, whatever its status."""


class Bus:
    """Calls the observers of one run.

    Raises:
        ConfigError: an observer marks a method that is not an event.
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
                f"{type(error.plugin).__name__} cannot observe: {reason}; {_KNOWN}",
                at="observers",
            ) from error
        self._hook = manager.hook

    def started(self) -> None:
        """Tell that the run begins."""
        self._tell("run_started", RunStarted(self.run))

    def step(self, record: StepRecord, samples: Tensor) -> bool:
        """Tell of one iteration; True if any observer asks to stop."""
        return any(self._tell("step_done", StepDone(self.run, record, samples)))

    def finished(self, outcome: Outcome) -> None:
        """Tell that the run has ended."""
        self._tell("run_finished", RunFinished(self.run, outcome))

    def _tell(self, name: str, event: object) -> list[object]:
        try:
            answers: list[object] = getattr(self._hook, name)(event=event)
        except DNOError:
            raise
        except Exception as error:
            raise RunError(
                f"an observer failed at {name} with {type(error).__name__}: {said(error)}"
            ) from error
        return answers
