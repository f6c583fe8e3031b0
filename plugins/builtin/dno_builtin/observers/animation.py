"""The way as one moving picture."""

from __future__ import annotations

from dno.plugin import (
    BuildContext,
    ObserverConfig,
    RunFinished,
    RunStarted,
    StepDone,
    animation_of,
    hookimpl,
    write_file,
)
from dno_builtin.observers.frames import FrameKeeper


class Animation(ObserverConfig):
    """The way from the first sample to the last as one moving picture, `animation.webp` in the run
    folder, which browsers and messengers play.

    It is made of the frames when the run ends, and keeps them where the observer `frames` does not.
    """

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        return Animator()


class Animator:
    """Writes the animation at the end of a run; without a run folder or frames there is none."""

    def __init__(self) -> None:
        self._keeper = FrameKeeper()

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Begin, or go on where an earlier process stopped."""
        self._keeper = FrameKeeper()
        if not _has_frames(event):
            self._keeper.run_started(event)

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Keep a frame, unless another observer does."""
        self._keeper.step_done(event)

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Put the frames together."""
        folder = event.run.folder
        data = None if folder is None else animation_of(folder)
        if folder is not None and data is not None:
            write_file(folder / "animation.webp", data)


def _has_frames(event: RunStarted) -> bool:
    """Whether the run has the observer `frames`, too."""
    return any(
        str(part.get("use")).rpartition(":")[2] == "frames"
        for part in event.run.config.get("observers", ())
    )
