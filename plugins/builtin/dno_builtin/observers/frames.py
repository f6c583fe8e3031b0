"""Small pictures on the way, for the report."""

from __future__ import annotations

import logging

from dno.plugin import (
    BuildContext,
    Film,
    ObserverConfig,
    RunError,
    RunStarted,
    StepDone,
    hookimpl,
    thumbnails,
)

_log = logging.getLogger("dno")


class Frames(ObserverConfig):
    """Small pictures on the way, from which the report shows how the samples changed.

    At most 60 are kept, in `frames/` in the run folder: of each iteration at first, then of each
    second, fourth and so on. Each holds all samples, with at most 256 pixels a side for one of
    them and a million in all. A run without a folder, and samples without pictures, have none.
    """

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        return FrameKeeper()


class FrameKeeper:
    """Keeps frames; where they cannot be written it says so once, and the run goes on."""

    def __init__(self) -> None:
        self._film: Film | None = None

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Begin, or go on where an earlier process stopped."""
        self._film = None
        if event.run.folder is None:
            return
        film = Film(event.run.folder)
        try:
            film.begin(event.run.start)
        except RunError as error:
            _tell(error)
        else:
            self._film = film

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Keep this iteration's frame, if it is one of those wanted."""
        iteration = event.record.iteration
        if self._film is None or not self._film.wants(iteration):
            return
        try:
            self._film.keep(iteration, thumbnails(event.medium, event.samples))
        except RunError as error:
            self._film = None
            _tell(error)


def _tell(error: RunError) -> None:
    _log.warning("%s; the run goes on without frames", error)
