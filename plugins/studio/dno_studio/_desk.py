"""Jobs, one at a time, whoever asks for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dno
from dno.plugin import ConfigError, out_of_memory
from dno_studio._job import NOTHING, Errand, Job, Phase, View
from dno_studio._limits import Limits
from dno_studio._workshop import Workshop

_log = logging.getLogger("dno")


class Desk:
    """Takes errands in, and carries them out in their order on one thread."""

    def __init__(self, runs: Path, limits: Limits | None = None) -> None:
        self.runs = runs.resolve()
        self.limits = limits or Limits()
        self._workshop = Workshop(self.runs, self.limits)
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._promised = 0
        """Places of the line that errands in preparation will take."""
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="dno-studio-runs", daemon=True)
        self._thread.start()

    def submit(self, errand: Errand) -> Job:
        """Put an errand at the end of the line.

        Raises:
            ConfigError: the line is too long, or the page is closing.
        """
        return self.submit_prepared(lambda: errand)

    def submit_prepared(self, prepare: Callable[[], Errand]) -> Job:
        """Put an errand at the end of the line that is prepared only where there is room for it.

        Args:
            prepare: what may not be done in vain, such as writing; gives the errand. Whatever it
                raises is passed on, and nothing is put into the line then.

        Raises:
            ConfigError: the line is too long, or the page is closing; nothing was prepared.
        """
        self._promise()
        job: Job | None = None
        try:
            job = Job(prepare())
        finally:
            with self._changed:
                self._promised -= 1
                closed = self._closed
                if job is not None and not closed:
                    self._waiting.append(job)
                    self._changed.notify_all()
        if closed:
            job.show(NOTHING)
        return job

    def _promise(self) -> None:
        with self._changed:
            if self._closed:
                raise ConfigError("the page is closing")
            most = self.limits.waiting
            if len(self._waiting) + self._promised >= most:
                wait = "1 job waits" if most == 1 else f"{most} jobs wait"
                raise ConfigError(f"{wait} already; try again later")
            self._promised += 1

    def before(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None)

    def stop(self, job: Job) -> None:
        """End a job after the iteration it is at, and keep what it reached; or leave the line."""
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
                job.show(View(Phase.LOADING))
                job.show(job.errand.carry_out(job, self._workshop))
            # Whatever happens to one, the others get their turn.
            except BaseException as error:
                self._failed(job, error)
            with self._changed:
                self._running = None

    def _failed(self, job: Job, error: BaseException) -> None:
        told = str(error)
        if not isinstance(error, dno.DNOError):
            told = f"The run failed with {type(error).__name__}: {error}"
            _log.error("a run of the page failed", exc_info=error)
        if out_of_memory(error):
            self._workshop.forget()
        folder = job.view.folder
        kept = folder if folder is not None and folder.exists() else None
        job.show(replace(job.view, phase=Phase.ENDED, told=told, failed=True, folder=kept))
