"""Where runs are made: models that stay loaded, and the folder that runs go into."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import dno
from dno.plugin import ConfigError
from dno_studio._limits import Limits


class Workshop:
    """Belongs to the thread that runs are carried out on.

    Models of the last run are kept: most people change the prompt or the seed, and wait for
    nothing then.
    """

    def __init__(self, runs: Path, limits: Limits) -> None:
        self.runs = runs
        self.limits = limits
        self._sampling: tuple[str, int] | None = None
        self._judging: object = None
        self._session: dno.Session | None = None

    def session(
        self, model: str, steps: int, rewards: Sequence[Mapping[str, Any]], *, small: bool = False
    ) -> dno.Session:
        """Models that are there, or new ones in their place.

        Args:
            model: as `dno.load` takes it.
            steps: of the sampler.
            rewards: plugins with their options, but for weights.
            small: whether there is room for these rewards beside those that were loaded before, so
                that the sampler may stay.
        """
        sampling = (model, steps)
        judging = [*map(dict, rewards)]
        if self._session is not None and self._sampling == sampling:
            if self._judging == judging:
                return self._session
            if small:
                self._session = self._session.with_reward(judging)
                self._judging = judging
                return self._session
        # Given up before others are loaded: there may not be room for both.
        self.forget()
        self._session = dno.load(reward=judging, model=model, steps=steps)
        self._sampling = sampling
        self._judging = judging
        return self._session

    def forget(self) -> None:
        """Give all models up."""
        self._session = None

    def budget(self) -> dict[str, Any]:
        """Options of a run that end it in time."""
        seconds = self.limits.seconds
        return {} if seconds is None else {"seconds": seconds}

    def folder(self, prompt: str) -> Path:
        """Where a run goes: a name that is free, of harmless letters alone.

        Raises:
            ConfigError: there are as many runs as there may be.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        most = self.limits.runs
        if most is not None and sum(1 for _ in self.runs.iterdir()) >= most:
            raise ConfigError(f"{most} runs are kept here already, and no more are made")
        name = named_after(prompt)
        for number in count():
            folder = self.runs / (f"{name}-{number}" if number else name)
            if not folder.exists():
                return folder
        raise AssertionError("numbers do not end")


def named_after(prompt: str) -> str:
    """The time and a prompt as a name, of harmless letters alone."""
    harmless = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or "run"
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{harmless}"
