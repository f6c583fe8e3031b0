"""Draws a run with matplotlib."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from dno.plugin import Result, RunInfo, hookimpl

_SHOWN = 4
"""Samples whose pictures are shown; the curves show all."""


class CurveObserver:
    """Writes `curve.png` at the end of a run."""

    @hookimpl
    def run_finished(self, run: RunInfo, result: Result) -> None:
        """Draw what the run recorded."""
        if run.folder is not None:
            picture = io.BytesIO()
            draw(result).savefig(picture, format="png", dpi=100)
            part = run.folder / ".curve.png.part"
            part.write_bytes(picture.getvalue())
            part.replace(run.folder / "curve.png")


def draw(result: Result) -> Figure:
    """The run as a figure: a row of pictures where samples are images, above the curves."""
    shown = {"initial": result.initial, "best": result.best, "last": result.last}
    are_images = result.best.samples.dim() == 4
    figure = Figure(figsize=(9, 6 if are_images else 3.4), layout="constrained")
    lower: Any = figure
    if are_images:
        upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1, 1.3]), dtype=object)
        for axis, (title, snapshot) in zip(upper.subplots(1, 3), shown.items(), strict=True):
            axis.imshow(_pixels(snapshot.samples), interpolation="nearest")
            axis.set_title(title)
            axis.set_axis_off()

    names = [
        *result.history[0].rewards,
        *(["log_p"] if "log_p" in result.history[0].figures else []),
    ]
    curves = lower.subplots(1, len(names), squeeze=False)[0]
    iterations = [record.iteration for record in result.history]
    for axis, name in zip(curves, names, strict=True):
        for sample in range(len(result.items)):
            rows = [
                (r.figures if name == "log_p" else r.rewards)[name][sample] for r in result.history
            ]
            axis.plot(iterations, rows, linewidth=1.2)
            left = result.crossed_floor(sample)
            if left is not None:
                axis.axvline(left, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title("log P(z)" if name == "log_p" else name)
        axis.set_xlabel("iteration")
    return figure


def _pixels(samples: Tensor) -> np.ndarray:
    row = samples[:_SHOWN].detach().clamp(0, 1).permute(2, 0, 3, 1).flatten(1, 2)
    return np.asarray(row.cpu())
