"""What starting costs: a process from nothing to its first iteration."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from measuring import Figure, Size, middle

STEP = "iteration 0/"
"""How the first iteration's line begins."""
STOCK = """
import gc
gc.disable()
import time
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
import dno_emoji.codec
pipe = StableDiffusionPipeline.from_pretrained(dno_emoji.PIPELINE)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
pipe("a black cat", num_inference_steps={steps}, guidance_scale=5.0, eta=1.0, output_type="pt")
print(time.process_time())
"""
"""The sample of the first iteration by diffusers alone, with no search for garbage among imports.

The model's decoder is a class of its own."""
DNO = (sys.executable, "-c", "from dno.cli.entry import main; main()")


def whole(command: Sequence[str]) -> float:
    """CPU seconds of a process that ends by itself."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True, env=_environment())
    after = os.times()
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


def to_first_iteration(steps: int) -> float:
    """CPU seconds of `dno optimize` until it prints its first iteration, of so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*DNO, "optimize", "a black cat", "--reward", "brightness"]
        command += ["--iterations", "1", "--steps", str(steps), "--out", str(Path(folder, "run"))]
        times = None
        with subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        ) as started:
            assert started.stderr is not None
            # To its end, or it would wait for somebody to read on.
            for line in started.stderr:
                if times is None and line.startswith(STEP):
                    times = psutil.Process(started.pid).cpu_times()
    if times is None:
        raise RuntimeError("no iteration was printed")
    return times.user + times.system


def to_first_sample(steps: int) -> float:
    """CPU seconds of a script until it has drawn as much, without `dno`."""
    script = [sys.executable, "-c", STOCK.format(steps=steps)]
    told = subprocess.run(script, check=True, capture_output=True, text=True, env=_environment())
    return float(told.stdout)


def _environment() -> dict[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # Installed packages have their bytecode, and so do those whose source is run twice.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def measure(size: Size) -> Iterator[Figure]:
    """Medians over processes, in turns; bytecode is there from first ones that do not count."""
    seconds: dict[str, list[float]] = {"help": [], "torch": [], "stock": [], "first": []}
    for turn in range(size.starts_before + size.starts):
        found = {
            "help": whole([*DNO, "--help"]),
            "torch": whole([sys.executable, "-c", "import torch"]),
            "stock": to_first_sample(size.steps),
            "first": to_first_iteration(size.steps),
        }
        if turn >= size.starts_before:
            for name, value in found.items():
                seconds[name].append(value)
        time.sleep(0.1)
    yield middle("startup.help", "`dno --help`", seconds["help"], "CPU s")
    yield middle("startup.torch", "`import torch` alone", seconds["torch"], "CPU s")
    text = "the same sample by a script of diffusers alone"
    yield middle("startup.stock", text, seconds["stock"], "CPU s")
    text = "`dno optimize` until its first iteration, that one included"
    yield middle("startup.first", text, seconds["first"], "CPU s")
    text = "what is `dno`'s own of that"
    own = [first - stock for first, stock in zip(seconds["first"], seconds["stock"], strict=True)]
    yield middle("startup.own", text, own, "CPU s")
