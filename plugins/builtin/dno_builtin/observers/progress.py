"""Progress of a run, on standard error."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TextIO

from dno.plugin import (
    BuildContext,
    ObserverConfig,
    RunFinished,
    RunInfo,
    RunStarted,
    StepDone,
    StepRecord,
    clean,
    hookimpl,
)


class Progress(ObserverConfig):
    """One line of progress on standard error, kept up to date; where that is no terminal, some ten
    lines.
    """

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        return ProgressLine(sys.stderr)


@dataclass
class ProgressLine:
    """Writes iteration, rewards, best weighted reward, log P and the time left. Means are over the
    samples.
    """

    stream: TextIO | None
    _first: StepRecord | None = field(default=None, init=False)
    _shown: StepRecord | None = field(default=None, init=False)
    _last: StepRecord | None = field(default=None, init=False)
    _width: int = field(default=0, init=False)

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Forget what a run before this one left, and say what this one takes of memory."""
        self._first = self._shown = self._last = None
        self._width = 0
        if event.run.memory:
            self._write(f"{clean(event.run.memory)}\n")

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Show the record; where no terminal is watching, only each tenth of the run."""
        run = event.run
        record = event.record
        self._first = self._first or record
        self._last = record
        if self._is_terminal():
            # The last column stays free: a full line would wrap, and \r then return to its second
            # half.
            line = self._line(run, record)[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r{line:<{self._width}}")
            self._width = len(line)
        elif self._shown is None or _share(run, record) - _share(run, self._shown) > 0.0999:
            self._write(f"{self._line(run, record)}\n")
        else:
            return
        self._shown = record

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Leave the last state on a line of its own."""
        if self._last is None:
            return
        if self._is_terminal():
            self._write("\n")
        elif self._shown is not self._last:
            self._write(f"{self._line(event.run, self._last)}\n")

    def _is_terminal(self) -> bool:
        # A stream that is closed says so with a ValueError.
        with contextlib.suppress(OSError, ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    def _write(self, text: str) -> None:
        """Write, if there is still somebody to read: no run ends because nobody looks on."""
        if self.stream is None:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.stream = None

    def _line(self, run: RunInfo, record: StepRecord) -> str:
        by_time = _share(run, record) > record.iteration / max(run.iterations, 1)
        limit = f", {record.seconds:.0f}/{run.seconds:.0f} s" if by_time else f"/{run.iterations}"
        parts = [f"iteration {record.iteration}{limit}"]
        parts += [f"{name} {_mean(values):.4g}" for name, values in record.rewards.items()]
        parts += [f"{name} {_mean(values):.4g}" for name, values in record.monitors.items()]
        best = _mean(record.best)
        parts.append("best -" if math.isnan(best) else f"best {best:.4g}")
        log_p = record.least_log_p
        if log_p is not None:
            known = [value for value in log_p if math.isfinite(value)]
            least = f" (least {min(known):.2f})" if len(log_p) > 1 and known else ""
            parts.append(f"log P {_mean(log_p):.2f}{least}")
        left = self._seconds_left(run, record)
        if left is not None:
            parts.append(f"{_duration(left)} left")
        return clean("  ".join(parts))

    def _seconds_left(self, run: RunInfo, record: StepRecord) -> float | None:
        # From this process's own records: a resumed run may go on with another machine.
        first = self._first or record
        done = record.iteration - first.iteration
        if done < 1:
            return None
        left = (record.seconds - first.seconds) / done * max(run.iterations - record.iteration, 0)
        return left if run.seconds is None else min(left, max(run.seconds - record.seconds, 0))


def _share(run: RunInfo, record: StepRecord) -> float:
    """How much of the run is done, by iterations or by time, whichever is nearer its end."""
    by_time = record.seconds / run.seconds if run.seconds else 0.0
    return max(record.iteration / max(run.iterations, 1), by_time)


def _mean(values: Iterable[float]) -> float:
    """Of the samples that have a value; nan where none has."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s"
