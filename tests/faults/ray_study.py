"""A study for clusters that lose machines: items of a second or two, without any model.

    python tests/faults/ray_study.py FOLDER ITEMS [RAY]

Functions of a script are sent to workers whole. On Ray an item saves its state after each
iteration, and takes its time, so that a kill falls between two. It notes in FOLDER/ended that it
ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import dno
from dno.plugin import RunFinished, hookimpl

ITERATIONS = 30
SECONDS = 0.06


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        import dno.runs.run

        dno.runs.run.SAVE_SECONDS = 0.0
        time.sleep(SECONDS)
    return images.mean(dim=(1, 2, 3))


class NotesTheEnd:
    """Appends a line for each run that ended, whichever process that was."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        line = f"{event.run.items[0][0]},{os.getpid()},{event.run.start}\n"
        descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def study_of(folder: Path, items: int, ray: str | None = None) -> dno.Study:
    """The study, run or gone on with in this process and, where there is one, on a cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    return dno.batch(
        [f"animal {number}" for number in range(items)],
        out=folder,
        reward=bright,
        sampler=dno.FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
        iterations=ITERATIONS,
        observer=[NotesTheEnd(folder / "ended")],
        ray=ray,
        ray_cpus=None if ray is None else 1,
    )


def main() -> None:
    folder, items, *ray = sys.argv[1:]
    study = study_of(Path(folder).absolute(), int(items), *ray)
    if study.interrupted:
        sys.exit(130)
    sys.exit(1 if study.failed else 0)


if __name__ == "__main__":
    # Shells have it ignored by what they run in the background, tests among it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
