"""Where the time of an iteration goes: the sampler, the reward, the way back, and the rest."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from dno_builtin.optimizers._ascent import SphereAscent
from measuring import Figure, Size, average

from dno import RunConfig
from dno.core import engine
from dno.core.asking import Asking
from dno.core.events import StepDone
from dno.core.problem import Problem
from dno.plugin import hookimpl
from dno.runs.load import load
from dno.runs.run import run
from dno.runs.storage import RunFolder

PARTS = {
    "sampler": "the sampler, forward",
    "gradient": "the way back through it",
    "reward": "the reward",
    "laws": "log P and other laws of the noise",
    "rule": "the optimizer and the shell",
    "asking": "asking, checking and adding up",
    "saving": "writing the state",
}
"""What is watched; what is left is the loop's own."""
ENGINE = ("asking", "saving", "loop")
REST = ("laws", "rule", *ENGINE)


class Watch:
    """CPU seconds of each part so far, less those of parts inside of it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = 0.0

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted to a part."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._turn(name)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn(None)

        return watched

    def _turn(self, name: str | None) -> None:
        """From here on, time is another part's: a new one's, or the one's around this."""
        now = time.process_time()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        if name is None:
            self._inside.pop()
        else:
            self._inside.append(name)
        self._since = now


class WatchedSampler:
    """A sampler whose maps are watched."""

    def __init__(self, sampler: Any, watch: Watch) -> None:
        self._sampler = sampler
        self._watch = watch

    def bind(self, *items: Any) -> WatchedMap:
        return WatchedMap(self._sampler.bind(*items), self._watch)


class WatchedMap:
    """A noise map that is watched, and is in all else what it was."""

    def __init__(self, sample: Any, watch: Watch) -> None:
        self._sample = sample
        self._call = watch.of("sampler", sample)

    def __call__(self, noise_BN: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._call(noise_BN)
        return images

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sample, name)


class Laps:
    """An observer that notes what each iteration took."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._before: tuple[float, dict[str, float]] | None = None
        self.laps: list[dict[str, float]] = []

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        now = (time.process_time(), dict(self._watch.seconds))
        if self._before is not None:
            began, seconds = self._before
            lap = {name: now[1].get(name, 0.0) - seconds.get(name, 0.0) for name in PARTS}
            lap["all"] = now[0] - began
            lap["loop"] = lap["all"] - sum(lap[name] for name in PARTS)
            self.laps.append(lap)
        self._before = now


def measure(size: Size) -> Iterator[Figure]:
    """Shares of an iteration, the first left out, in a run that keeps a folder."""
    watch = Watch()
    laps = Laps(watch)
    config = RunConfig.parse(
        {
            "prompts": "a black cat",
            "rewards": "brightness",
            "iterations": size.iterations,
            "coarse": [],
            "sampler": {"use": "ddim", "steps": size.steps},
            "observers": [laps],
            "device": "cpu",
        }
    )
    loaded = load(config)
    rewards = {name: watch.of("reward", call) for name, call in loaded.rewards.items()}
    watched = replace(loaded, sampler=WatchedSampler(loaded.sampler, watch), rewards=rewards)
    with contextlib.ExitStack() as patches:
        folder = Path(patches.enter_context(tempfile.TemporaryDirectory()))
        for owner, name, part in (
            (torch.autograd, "grad", "gradient"),
            (Problem, "evaluate", "asking"),
            (engine, "put_back", "rule"),
            (SphereAscent, "step", "rule"),
            (Asking, "ask_regularizer", "laws"),
            (Asking, "ask_report", "laws"),
            (RunFolder, "save_state", "saving"),
        ):
            watched_one = watch.of(part, getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, watched_one))
        run(config, folder / "run", loaded=watched).raise_for_status()

    def shares(*names: str) -> list[float]:
        return [100 * sum(lap[name] for name in names) / lap["all"] for lap in laps.laps]

    for name, text in PARTS.items():
        yield average(f"engine.{name}", text, shares(name), "%")
    yield average("engine.loop", "the loop itself", shares("loop"), "%")
    yield average("engine.share", "engine: asking, writing, loop", shares(*ENGINE), "%")
    text = "all but sampler, way back and reward"
    yield average("engine.rest", text, shares(*REST), "%")
