"""Run events, as pluggy hooks on observers that a run was given."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from dno.errors import ConfigError
from dno.guard import PluginError, as_error, guarded, undisturbed
from dno.media import OTHER, Medium, medium_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dno.core.result import Outcome, StepRecord

_log = logging.getLogger("dno")

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
    memory: str = ""
    """What is kept for the backward pass and what that takes, in a line; empty: not known."""


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
    medium: Medium = OTHER
    """What they are, for `dno.plugin.thumbnails`."""


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


@dataclass(frozen=True)
class _Steps:
    """A plain function as an observer of each iteration."""

    function: Callable[[StepDone], object]

    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        """Pass the event on; only True itself asks to stop."""
        return self.function(event) is True


@dataclass(frozen=True, eq=False)
class _Watching:
    """An observer of a run."""

    who: str
    hook: Any
    essential: bool


class Bus:
    """Calls the observers of one run: objects with methods that `hookimpl` marks, and functions,
    which are told of each iteration.

    Each gets tensors of its own, so that one that writes into them changes nothing.

    Args:
        run: what they are told of it.
        observers: in the order in which they are called.
        names: what messages call them; unless given, by their classes.
        essential: of each whether the run fails where it does; if not, that is told once, and it is
            called no more. All are unless given. What one refuses at the start, with a
            `ConfigError`, is the caller's mistake and always raised.

    Raises:
        ConfigError: an observer marks a method that is not an event.
        RunError: from the methods, where an essential observer fails.
    """

    def __init__(
        self,
        run: RunInfo,
        observers: Sequence[object] = (),
        names: Sequence[str] = (),
        essential: Sequence[bool] = (),
    ) -> None:
        self.run = run
        called = names or [type(observer).__name__ for observer in observers]
        needed = essential or [True] * len(observers)
        self._watching = [
            _Watching(f'observer "{name}"', hook_of(observer), is_needed)
            for name, observer, is_needed in zip(called, observers, needed, strict=True)
        ]

    def started(self) -> None:
        """Tell that the run begins."""
        self._tell("run_started", lambda: RunStarted(self.run))

    def step(self, record: StepRecord, samples: Tensor, medium: Medium | None = None) -> bool:
        """Tell of one iteration; True if any observer asks to stop.

        Args:
            record: what was measured.
            samples: what it was measured on.
            medium: what these are; None: what their shape says.
        """
        kind = medium or medium_of(None, samples)
        answers = self._tell("step_done", lambda: StepDone(self.run, record, samples.clone(), kind))
        return any(answers)

    def finished(self, outcome: Outcome) -> None:
        """Tell that the run has ended."""
        self._tell("run_finished", lambda: RunFinished(self.run, outcome.copy()))

    def _tell(self, name: str, event: Callable[[], object]) -> list[object]:
        answers: list[object] = []
        for one in list(self._watching):
            call = getattr(one.hook, name)
            # One that does not look at this event needs no copy of it.
            if not call.get_hookimpls():
                continue
            try:
                with undisturbed(randomness=True):
                    answers += guarded(f"{one.who} at {name}", call, event=event())
            except Exception as error:
                refused = name == "run_started" and isinstance(error, ConfigError)
                if one.essential or refused:
                    raise
                self._drop(one, name, error)
        return answers

    def _drop(self, one: _Watching, name: str, error: Exception) -> None:
        """Go on without an observer, and say so."""
        self._watching.remove(one)
        told = as_error(error)
        # Our own errors do not say who raised them.
        who = "" if isinstance(error, PluginError) else f"{one.who} at {name}: "
        _log.warning("%s%s; the run goes on without it", who, told)
        _log.debug("observer dropped", exc_info=error)


def hook_of(observer: object) -> Any:
    """What calls one observer's methods.

    Raises:
        ConfigError: it marks a method that is not an event.
    """
    manager = pluggy.PluginManager(_PROJECT)
    manager.add_hookspecs(Events)
    told = _Steps(observer) if inspect.isroutine(observer) else observer
    try:
        manager.register(told)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        reason = str(error).splitlines()[-1].partition(" in plugin")[0]
        raise ConfigError(
            f"{type(error.plugin).__name__} cannot observe: {reason}; {_KNOWN}",
            at="observers",
        ) from error
    return manager.hook
