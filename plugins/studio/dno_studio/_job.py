"""One person's errand: what is asked for, how far it is, and that it may stop."""

from __future__ import annotations

import base64
import io
import math
import threading
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dno.plugin import RunStarted, StepDone, hookimpl, thumbnails

if TYPE_CHECKING:
    from PIL.Image import Image

    from dno_studio._workshop import Workshop


class Errand(Protocol):
    """What somebody asks for."""

    def carry_out(self, job: Job, workshop: Workshop) -> View:
        """Do it, showing what is reached on the way.

        Args:
            job: where it is shown, and whether it is to stop.
            workshop: models, and the place of run folders.

        Returns:
            What is to be seen at its end.

        Raises:
            DNOError: it cannot be done.
        """


class Phase(StrEnum):
    """How far a job is."""

    WAITING = "waiting"
    LOADING = "loading"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Drawn:
    """One of some pictures to pick from."""

    picture: Image
    address: str
    """It as a `data:` address."""
    folder: Path
    """Its run's."""
    whole: bool
    """Whether the run went to its end, and so would go there again."""


@dataclass(frozen=True)
class View:
    """What is to be seen of a job at one moment."""

    phase: Phase = Phase.WAITING
    iterations: int = 0
    """In all, as far as that is known."""
    rewards: tuple[float, ...] = ()
    """The weighted reward of each evaluation so far."""
    first: str = ""
    """The picture of the first evaluation, as a `data:` address; empty before it."""
    now: str = ""
    """The latest picture, and at the end the best."""
    drawn: tuple[Drawn, ...] = ()
    """Of pictures to pick from, those that are there."""
    folder: Path | None = None
    told: str = ""
    """What the run's verdict or a mistake says."""
    failed: bool = False


NOTHING = View(Phase.ENDED, told="Nothing was run.")
"""Of a job that was stopped before it began."""


@dataclass(eq=False)
class Job:
    """An errand on its way. Threads of the page read it, that of the runs writes it."""

    errand: Errand
    view: View = field(default_factory=View)
    stop_asked: bool = False
    version: int = 0
    """Rises with every change of the view, and when it is asked to stop."""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def show(self, view: View) -> None:
        """Replace what is to be seen."""
        with self._changed:
            self.view = view
            self.version += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Return when there is more to be seen than version `seen`, or after some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.version != seen, seconds)

    def stop(self) -> None:
        """Ask it to end after the iteration it is at; what was reached is kept.

        Who waits for it looks again: it may be shown no more.
        """
        with self._changed:
            self.stop_asked = True
            self.version += 1
            self._changed.notify_all()


class Onlooker:
    """Tells a job of its run, and the run that the job is to stop."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Show that it runs."""
        view = self._job.view
        iterations = event.run.iterations
        self._job.show(View(Phase.RUNNING, iterations, drawn=view.drawn, folder=view.folder))

    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        """Show the picture and the reward; whether the run is to stop."""
        view = self._job.view
        shown = thumbnails(event.medium, event.samples)
        now = address(shown[0]) if shown else ""
        self._job.show(
            View(
                Phase.RUNNING,
                view.iterations,
                (*view.rewards, event.record.reward[0]),
                view.first or now,
                now,
                view.drawn,
                view.folder,
            )
        )
        return self._job.stop_asked


def address(picture: Image) -> str:
    """A picture as a `data:` address, at most 768 pixels wide or high."""
    small = picture.copy()
    small.thumbnail((768, 768))
    file = io.BytesIO()
    small.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def finite(values: tuple[float, ...]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if math.isfinite(value)]
