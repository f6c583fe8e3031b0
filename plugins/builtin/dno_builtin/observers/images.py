"""Pictures on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from dno.plugin import (
    BuildContext,
    ConfigError,
    ObserverConfig,
    RunError,
    RunInfo,
    StepRecord,
    hookimpl,
    pictures,
)

if TYPE_CHECKING:
    from torch import Tensor


class Images(ObserverConfig):
    """Writes the images of every so many iterations to `steps/<iteration>-<sample>.png` in the run
    folder.
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
    def run_started(self, run: RunInfo) -> None:
        """Refuse a run that has no folder.

        Raises:
            ConfigError: there is no run folder to write to.
        """
        if run.folder is None:
            raise ConfigError(
                "the images observer writes to the run folder, and this run has none; give it one"
            )

    @hookimpl
    def step_done(self, run: RunInfo, record: StepRecord, samples: Tensor) -> None:
        """Write this iteration's images, if it is one of those wanted.

        Raises:
            RunError: the samples are no images, or a file cannot be written.
        """
        assert run.folder is not None, "run_started refuses such a run"
        if record.iteration % self.every:
            return
        folder = run.folder / "steps"
        iteration = str(record.iteration).zfill(len(str(run.iterations)))
        digits = len(str(len(run.items) - 1))
        for sample, picture in enumerate(pictures(samples)):
            path = folder / f"{iteration}-{sample:0{digits}d}.png"
            part = path.with_suffix(".part")
            try:
                folder.mkdir(exist_ok=True)
                picture.save(part, "PNG")
                part.replace(path)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise RunError(
                    f"{path} cannot be written: {error}; make room, or run without images"
                ) from error
