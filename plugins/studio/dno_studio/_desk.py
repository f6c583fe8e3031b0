"""Runs, one at a time, whoever asks for them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from dataclasses import replace
from itertools import count
from pathlib import Path

import dno
from dno.plugin import ConfigError, out_of_memory
from dno_studio._job import Job, Onlooker, Phase, View, Wish, address

_log = logging.getLogger("dno")

LONGEST_LINE = 20
"""How many may wait."""
NOTHING = View(Phase.ENDED, told="Nothing was run.")
"""Of a job that was stopped before it began."""


class Desk:
    """Takes wishes in, and carries them out in their order on one thread.

    Models of the last wish are kept: most people change the prompt or the seed, and wait for
    nothing then.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs.resolve()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._loaded: tuple[object, dno.Session] | None = None
        self._thread = threading.Thread(target=self._work, name="dno-studio-runs", daemon=True)
        self._thread.start()

    def submit(self, wish: Wish) -> Job:
        """Put a wish at the end of the line.

        Raises:
            ConfigError: the line is too long, or the page is closing.
        """
        job = Job(wish)
        with self._changed:
            if self._closed:
                raise ConfigError("the page is closing")
            if len(self._waiting) >= LONGEST_LINE:
                raise ConfigError(f"{LONGEST_LINE} people wait already; try again later")
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def before(self, job: Job) -> int:
        """How many runs come before this one."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None)

    def stop(self, job: Job) -> None:
        """End a run after its iteration, and keep what it reached; or leave the line."""
        job.stop()
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        job.show(NOTHING)

    def close(self) -> None:
        """Take nothing in any more, and wait until what runs has kept what it reached."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            jobs = [*self._waiting, *([self._running] if self._running else [])]
        for job in jobs:
            self.stop(job)
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                self._running = job
            try:
                self._carry_out(job)
            # Whatever happens to one, the others get their turn.
            except BaseException as error:
                self._failed(job, error)
            with self._changed:
                self._running = None

    def _carry_out(self, job: Job) -> None:
        wish = job.wish
        job.show(View(Phase.LOADING))
        session = self._session(wish)
        if job.stop_asked:
            job.show(NOTHING)
            return
        folder = self._folder(wish.prompt)
        job.show(View(Phase.LOADING, folder=folder))
        result = session.optimize(
            wish.prompt,
            seed=wish.seed,
            iterations=wish.iterations,
            settings={f"rewards.{i}.weight": weight for i, (_, weight) in enumerate(wish.rewards)},
            onlookers=[Onlooker(job)],
            out=folder,
        )
        best = result.images[0]
        job.show(
            replace(
                job.view,
                phase=Phase.ENDED,
                now=address(best),
                told=result.verdict(),
                failed=result.status.value in ("failed", "partial"),
            )
        )

    def _session(self, wish: Wish) -> dno.Session:
        """Models for a wish: those that are there, or new ones in their place."""
        if self._loaded is not None and self._loaded[0] == wish.models:
            return self._loaded[1]
        # Given up before others are loaded: there may not be room for both.
        self._loaded = None
        session = dno.load(
            reward=[{"use": name, "weight": weight} for name, weight in wish.rewards],
            model=wish.model,
            steps=wish.steps,
        )
        self._loaded = wish.models, session
        return session

    def _folder(self, prompt: str) -> Path:
        """Where a run goes: a name that is free, of harmless letters alone."""
        harmless = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or "run"
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{harmless}"
        self.runs.mkdir(parents=True, exist_ok=True)
        for number in count():
            folder = self.runs / (f"{name}-{number}" if number else name)
            if not folder.exists():
                return folder
        raise AssertionError("numbers do not end")

    def _failed(self, job: Job, error: BaseException) -> None:
        told = str(error)
        if not isinstance(error, dno.DNOError):
            told = f"The run failed with {type(error).__name__}: {error}"
            _log.error("a run of the page failed", exc_info=error)
        if out_of_memory(error):
            self._loaded = None
        folder = job.view.folder
        kept = folder if folder is not None and folder.exists() else None
        job.show(replace(job.view, phase=Phase.ENDED, told=told, failed=True, folder=kept))
