"""Pictures on the way."""

from __future__ import annotations

import io

from pydantic import Field

from dno.plugin import (
    BuildContext,
    ConfigError,
    ObserverConfig,
    RunError,
    RunStarted,
    StepDone,
    hookimpl,
    thumbnails,
    write_file,
)


class Images(ObserverConfig):
    """Writes a picture of each sample of every so many iterations to
    `steps/<iteration>-<sample>.png` in the run folder: the image itself, the middle frame of a
    video, the waveform of a sound.
    """

    every: int = Field(default=10, ge=1)
    """Iterations from one picture of a sample to its next; the first is of iteration 0."""

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        return ImageWriter(self.every)


class ImageWriter:
    """Writes each file whole or not at all; numbers have as many digits as the run's largest.

    Args:
        every: iterations from one picture to the next.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Refuse a run that has no folder.

        Raises:
            ConfigError: there is no run folder to write to.
        """
        if event.run.folder is None:
            raise ConfigError(
                "the images observer writes to the run folder, and this run has none; give it one"
            )

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Write this iteration's pictures, if it is one of those wanted.

        Raises:
            RunError: the samples have no pictures, or a file cannot be written.
        """
        run = event.run
        assert run.folder is not None, "run_started refuses such a run"
        if event.record.iteration % self.every:
            return
        steps = run.folder / "steps"
        if steps.is_symlink():
            raise RunError(
                f"{steps} is a link, and pictures are written into the run folder alone; remove it"
            )
        iteration = str(event.record.iteration).zfill(len(str(run.iterations)))
        digits = len(str(len(run.items) - 1))
        shown = thumbnails(event.medium, event.samples)
        if not shown:
            shape = "x".join(map(str, event.samples.shape))
            raise RunError(
                f"the images observer has no picture of samples of shape {shape}, which are no "
                "images, videos or sounds; run without it"
            )
        for sample, picture in enumerate(shown):
            data = io.BytesIO()
            picture.save(data, "PNG")
            try:
                write_file(steps / f"{iteration}-{sample:0{digits}d}.png", data.getvalue())
            except RunError as error:
                raise RunError(f"{error}; make room, or run without images") from error
