"""TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dno.plugin import RunInfo
from dno_builtin.observers._tracker import Log, TrackerConfig, module

if TYPE_CHECKING:
    from PIL.Image import Image


class TensorBoard(TrackerConfig):
    """Logs the run for TensorBoard: numbers of each iteration, pictures, the configuration, and why
    it ended. Needs the extra `dno[tensorboard]`.

    Files go to `tensorboard/` in the run folder: `tensorboard --logdir RUN`, or a folder of runs. A
    resumed run goes on in the same place.
    """

    package: ClassVar[str] = "tensorboard"

    def open(self, run: RunInfo, folder: Path, name: str, key: str) -> Log:
        """See `TrackerConfig.open`."""
        writing = module("torch.utils.tensorboard")
        # What was logged past the state that a killed run goes on from is hidden.
        purge = {"purge_step": run.start} if run.start else {}
        writer = writing.SummaryWriter(str(folder / "tensorboard"), **purge)
        return _TensorBoardLog(writer, run)


class _TensorBoardLog:
    def __init__(self, writer: Any, run: RunInfo) -> None:
        self.writer = writer
        self._step = run.start
        self._text("configuration", json.dumps(dict(run.config), indent=2, default=str))

    def _text(self, name: str, text: str) -> None:
        # Indented, it is shown as it stands.
        self.writer.add_text(name, "    " + text.replace("\n", "\n    "), self._step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Log`."""
        self._step = step
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, picture: Image, caption: str, step: int) -> None:
        """See `Log`."""
        import numpy as np

        self.writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def end(self, about: Mapping[str, Any]) -> None:
        """See `Log`."""
        self._text("ended", json.dumps(dict(about), indent=2))
        self.writer.close()
