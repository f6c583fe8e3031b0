"""The `curve` observer's drawing."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dno.plugin import Outcome, RunFinished, hookimpl, thumbnails, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4
"""Samples whose pictures are shown; the curves show all."""
_INTERVALS = 5
"""Between the ticks of an axis, at most: half of the drawing's time goes into their labels."""


class CurveObserver:
    """Writes `curve.png` at the end of a run."""

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Draw what the run recorded."""
        if event.run.folder is None:
            return
        write_file(event.run.folder / "curve.png", painted(draw(event.outcome)))


def painted(figure: Figure) -> bytes:
    """A figure as a PNG file; `savefig` would draw it twice, for kinds of files that need it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(file, "PNG")
    return file.getvalue()


def draw(outcome: Outcome) -> Figure:
    """The run as a figure: a row of pictures where samples have them, above the curves."""
    # Here, since it takes a second that no run should wait for before it begins.
    from matplotlib.figure import Figure

    rows = {
        title: _row(outcome, snapshot.samples)
        for title, snapshot in {
            "initial": outcome.initial,
            "best": outcome.best,
            "last": outcome.last,
        }.items()
    }
    shows_pictures = all(row is not None for row in rows.values())
    height = 6 if shows_pictures else 3.4
    figure = Figure(figsize=(9, height), dpi=100, layout="constrained")
    lower: Any = figure
    if shows_pictures:
        upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.3]), dtype=object)
        for axis, (title, row) in zip(upper.subplots(1, 3), rows.items(), strict=True):
            axis.imshow(row, interpolation="nearest")
            axis.set_title(title)
            # Ticks that are not seen are laid out all the same.
            axis.set(xticks=[], yticks=[])
            axis.set_axis_off()

    curves = _curves(outcome)
    iterations = [record.iteration for record in outcome.history]
    axes = lower.subplots(1, len(curves), squeeze=False)[0]
    for axis, (name, lines) in zip(axes, curves.items(), strict=True):
        for sample, line in enumerate(lines):
            axis.plot(iterations, line, linewidth=1.2)
            left = outcome.crossed_floor(sample)
            if left is not None:
                axis.axvline(left, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(name)
        axis.set_xlabel("iteration")
        axis.locator_params(nbins=_INTERVALS)
    return figure


def _curves(outcome: Outcome) -> dict[str, list[Any]]:
    """Rewards, monitors and log P by title, a line per sample."""
    history = outcome.history
    rows: dict[str, list[Any]] = {}
    for name in history[0].rewards:
        rows[name] = [record.rewards[name] for record in history]
    for name in history[0].monitors:
        rows[f"{name} (held out)"] = [record.monitors[name] for record in history]
    if any(record.log_p for record in history):
        # A coarse grid may have too little noise to say it of.
        nothing = (math.nan,) * len(history[0].reward)
        rows["log P(z)"] = [record.least_log_p or nothing for record in history]
    return {title: list(zip(*values, strict=True)) for title, values in rows.items()}


def _row(outcome: Outcome, samples: Any) -> np.ndarray | None:
    """The first samples' pictures side by side; None where they have none."""
    pictures = thumbnails(outcome.medium, samples[:_SHOWN])
    if not pictures:
        return None
    return np.concatenate([np.asarray(picture) for picture in pictures], axis=1)
