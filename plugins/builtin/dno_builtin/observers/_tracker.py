"""What the observers have in common that log a run to a tracker."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
import re
import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from pydantic import Field

from dno.plugin import (
    BuildContext,
    ConfigError,
    Medium,
    ObserverConfig,
    RunError,
    RunFinished,
    RunInfo,
    RunStarted,
    StepDone,
    StepRecord,
    hookimpl,
    thumbnails,
    write_file,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ID_FILE: Final = "tracker.id"
"""Of a run folder: what all trackers know the run by, so that a resumed one goes on there."""
_ID: Final = re.compile(r"[0-9a-f]{16}")
_SHOWN: Final = 16
"""Samples that have lines and pictures of their own; means are over all."""


class Log(Protocol):
    """One run in a tracker."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of an iteration."""

    def picture(self, name: str, picture: Image, caption: str, step: int) -> None:
        """Log a picture of an iteration."""

    def end(self, about: Mapping[str, Any]) -> None:
        """Log how the run ended, and close it."""


class TrackerConfig(ObserverConfig):
    """Base of observers that log to a tracker."""

    package: ClassVar[str]
    """The package that has to be installed, and the extra of that name."""

    every: int = Field(default=10, ge=1)
    """Iterations from one picture of a sample to its next; the first is of iteration 0."""
    project: str = Field(default="dno", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """What the tracker files the run under."""
    name: str | None = Field(default=None, min_length=1)
    """What the tracker calls the run; its folder's name if not given."""

    def check(self) -> None:
        """Raise `ConfigError` where the package is not installed."""
        if importlib.util.find_spec(self.package) is None:
            raise ConfigError(
                f'needs the package {self.package}; try: pip install "dno[{self.package}]"'
            )

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        self.check()
        return Tracker(self)

    @abstractmethod
    def open(self, run: RunInfo, folder: Path, name: str, key: str) -> Log:
        """Begin to log a run, or go on with one.

        Args:
            run: what is known of it.
            folder: the run folder.
            name: what to call it.
            key: what the tracker knows it by: 16 digits of hexadecimal.
        """


class Tracker:
    """Logs numbers of every iteration, pictures of some, and how it ended.

    Args:
        config: which tracker, and how.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config
        self._log: Log | None = None
        self._best: dict[int, tuple[float, Image]] = {}
        self._grid: int | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Begin, or go on.

        Raises:
            ConfigError: there is no run folder to write to.
        """
        folder = event.run.folder
        if folder is None:
            raise ConfigError(
                f"the {self._config.package} observer writes into the run folder, and this run has "
                "none; give it one"
            )
        self._best = {}
        # Trackers ask for it as an absolute path, wherever the process goes.
        place = folder.absolute()
        name = self._config.name or place.name
        self._log = self._config.open(event.run, place, name, _key(place))

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Log an iteration."""
        if self._log is None:
            return
        record = event.record
        self._log.scalars(dict(scalars(record)), record.iteration)
        shown = self._pictures(event.medium, event.samples)
        self._mind_best(record, shown)
        if record.iteration % self._config.every:
            return

        self._show("now", event.run, shown, record.iteration)
        best = [self._best[row][1] for row in sorted(self._best)]
        if len(best) == len(shown):
            self._show("best", event.run, best, record.iteration)

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Log what was reached, and why the run ended."""
        if self._log is None:
            return
        outcome = event.outcome
        step = outcome.history[-1].iteration
        for name, snapshot in {"initial": outcome.initial, "best": outcome.best}.items():
            self._show(name, event.run, self._pictures(outcome.medium, snapshot.samples), step)

        reached = {
            f"best_{name}": _mean(value.tolist()) for name, value in outcome.best.rewards.items()
        }
        told = {
            "status": outcome.status.value,
            "reason": outcome.reason or str(outcome.error or ""),
            "iterations": step,
            **{name: value for name, value in reached.items() if math.isfinite(value)},
        }
        log = self._log
        self._log = None
        log.end(told)

    def _pictures(self, medium: Medium, samples: Tensor) -> list[Image]:
        return thumbnails(medium, samples[:_SHOWN])

    def _mind_best(self, record: StepRecord, shown: Sequence[Image]) -> None:
        """Keep the best picture seen of each sample on the grid that the run is on."""
        if record.grid != self._grid:
            self._best = {}
            self._grid = record.grid
        for row, picture in enumerate(shown):
            reward = record.reward[row]
            before = self._best[row][0] if row in self._best else -math.inf
            if record.healthy[row] and reward > before:
                self._best[row] = (reward, picture)

    def _show(self, name: str, run: RunInfo, shown: Sequence[Image], step: int) -> None:
        assert self._log is not None
        for row, picture in enumerate(shown):
            prompt, seed = run.items[row]
            # No number has such a name, which some trackers would refuse.
            called = f"pictures/{name}"
            if len(run.items) > 1:
                called = f"{called}/{row}"
            self._log.picture(called, picture, f"{prompt} (seed {seed})", step)


class ModuleLog:
    """A run of a module that has the interface of wandb.

    Args:
        run: what the module's `init` returned.
        image: the module's class of pictures.
    """

    def __init__(self, run: Any, image: Any) -> None:
        self.run = run
        self.image = image

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Log`."""
        self.run.log(dict(values), step=step)

    def picture(self, name: str, picture: Image, caption: str, step: int) -> None:
        """See `Log`."""
        self.run.log({name: self.image(picture, caption=caption)}, step=step)

    def end(self, about: Mapping[str, Any]) -> None:
        """See `Log`; where a module has a summary, it goes there."""
        self.run.summary.update(dict(about))
        self.run.finish()


def module(name: str) -> Any:
    """A tracker's module. Importing one takes seconds."""
    return importlib.import_module(name)


@contextlib.contextmanager
def unprinted() -> Iterator[None]:
    """Keeps to itself what a tracker prints about itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as trackers take it."""
    return {**config}


def scalars(record: StepRecord) -> Iterator[tuple[str, float]]:
    """The numbers of an iteration by name: means over the samples, and those of each of several.

    `grid` is the coarser grid that the evaluation was made on, in steps; 0: the sampler's own.
    """
    groups: dict[str, Mapping[str, Sequence[float]]] = {
        "rewards": record.rewards,
        "monitors": record.monitors,
        "penalties": record.penalties,
        "log_p": record.log_p,
        "figures": record.figures,
    }
    lists: dict[str, Sequence[float]] = {
        "reward": record.reward,
        "objective": record.objective,
        "best": record.best,
        "grad_norm": record.grad_norm,
        **({} if record.gamma is None else {"gamma": record.gamma}),
    }
    for group, inner in groups.items():
        lists |= {f"{group}/{name}": values for name, values in inner.items()}

    found = {name: _mean(values) for name, values in lists.items()}
    if len(record.reward) > 1:
        for name in ("reward", "best"):
            found |= {f"{name}/{row}": one for row, one in enumerate(lists[name][:_SHOWN])}
    found |= {
        "healthy": sum(record.healthy) / len(record.healthy),
        "grid": record.grid or 0,
        "seconds": record.seconds,
        "network_evaluations": record.network_evaluations,
        "reward_calls": record.reward_calls,
    }
    for name, value in found.items():
        if math.isfinite(value):
            yield name, float(value)


def _mean(values: Sequence[float]) -> float:
    """Of the samples that have a value; nan where none has."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _key(folder: Path) -> str:
    """What trackers know a run by: kept in its folder, wherever that is moved."""
    file = folder / ID_FILE
    try:
        # What is there may be anything.
        kept = file.read_bytes()[:64].decode().strip() if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from None
    if _ID.fullmatch(kept):
        return kept
    key = secrets.token_hex(8)
    write_file(file, f"{key}\n".encode())
    return key
