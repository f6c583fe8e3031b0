"""The tab Pick's errand: pictures to pick one of."""

from __future__ import annotations

import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dno_studio._job import NOTHING, Drawn, Job, Onlooker, Phase, View, address
from dno_studio._workshop import Workshop

SHOWN = 4
"""Pictures to pick from."""
NO_REWARD = "brightness"
"""A run names a reward, be it one that nothing climbs."""


@dataclass(frozen=True)
class Shot:
    """How one of the pictures is drawn."""

    seed: int
    climbs: bool = False
    """Whether it climbs what was learnt, or is a plain picture of its seed."""
    start: Path | None = None
    """Run folder with the noise that it starts from; None for the seed's own."""


@dataclass(frozen=True)
class Learnt:
    """What picks have led to."""

    file: Path
    lines: int
    """So many lines of it count: more may follow."""

    def reward(self) -> dict[str, Any]:
        """It as a reward."""
        return {"use": "picks", "file": str(self.file), "lines": self.lines}


@dataclass(frozen=True)
class Round:
    """Pictures that somebody asks for."""

    prompt: str
    model: str
    steps: int
    iterations: int
    """Of each that climbs."""
    shots: tuple[Shot, ...]
    learnt: Learnt | None
    """None before the first pick."""

    def reward(self) -> Mapping[str, Any]:
        """What is climbed."""
        return {"use": NO_REWARD} if self.learnt is None else self.learnt.reward()

    def carry_out(self, job: Job, workshop: Workshop) -> View:
        """Draw them, one run after the other."""
        session = workshop.session(self.model, self.steps, [self.reward()], small=True)
        for shot in self.shots:
            if job.stop_asked:
                break
            folder = workshop.folder(self.prompt)
            job.show(View(Phase.LOADING, drawn=job.view.drawn, folder=folder))
            result = session.optimize(
                self.prompt,
                seed=shot.seed,
                iterations=self.iterations if shot.climbs else 0,
                start=shot.start,
                onlookers=[Onlooker(job)],
                out=folder,
                **workshop.budget(),
            )
            picture = result.images[0]
            status = result.status.value
            new = Drawn(picture, address(picture), folder, whole=status == "finished")
            job.show(replace(job.view, drawn=(*job.view.drawn, new)))
            if status in ("failed", "partial"):
                return replace(job.view, phase=Phase.ENDED, told=result.verdict(), failed=True)
        if not job.view.drawn:
            return NOTHING
        return replace(job.view, phase=Phase.ENDED, told="")

    def command(self, shot: Shot, home: Path) -> str:
        """The command that draws a picture again.

        Args:
            shot: which.
            home: the folder that it is typed in.
        """
        words = ["dno", "optimize"]
        # One that looks like an option is read as a prompt behind two dashes, which come last.
        dashed = self.prompt.startswith("-")
        words += [] if dashed else [self.prompt]
        words += ["--reward", str(self.reward()["use"])]
        for name in ("file", "lines"):
            if name in self.reward():
                value = self.reward()[name]
                shown = beside(Path(value), home) if name == "file" else value
                words += ["--set", f"rewards.0.{name}={shown}"]
        words += ["--model", self.model, "--steps", str(self.steps), "--seed", str(shot.seed)]
        words += ["--iterations", str(self.iterations if shot.climbs else 0)]
        words += [] if shot.start is None else ["--start", str(beside(shot.start, home))]
        words += ["--", self.prompt] if dashed else []
        return shlex.join(words)


def beside(path: Path, home: Path) -> Path:
    """A path as it is typed in a folder."""
    return path.relative_to(home) if path.is_relative_to(home) else path


def next_shots(seeds: Sequence[int], held: Path | None) -> tuple[Shot, ...]:
    """Four pictures: before the first pick plain ones; then one that goes on from the noise that
    was picked last, two that climb from fresh noise, and a plain one, which what was learnt has
    not chosen. Where each stands is drawn by lot, so that no place means anything.

    Args:
        seeds: four that nobody saw yet.
        held: run folder of the last pick.
    """
    if held is None:
        return tuple(Shot(seed) for seed in seeds)
    own, first, second, plain = seeds
    shots = [Shot(own, True, held), Shot(first, True), Shot(second, True), Shot(plain)]
    random.Random(own).shuffle(shots)
    return tuple(shots)
