"""Progress of a run, on standard error or in a notebook."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

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

_BAR = "{desc}|{bar}| {postfix[0]}"


class Progress(ObserverConfig):
    """A bar on a terminal and in a notebook, kept up to date; elsewhere some ten lines on standard
    error.
    """

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        stream = _Enduring(sys.stderr)
        if _in_notebook() or stream.isatty():
            return ProgressBar(stream)
        return ProgressLines(stream)


@dataclass
class ProgressBar:
    """How much is done as a bar of tqdm; beside it what `ProgressLines` writes."""

    stream: _Enduring
    _bar: Any = field(default=None, init=False)
    _pace: _Pace | None = field(default=None, init=False)

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Say what the run takes of memory."""
        _tell_memory(self.stream, event.run)

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Move the bar on."""
        if self._pace is None:
            self._pace = _Pace(event.record)
        head, *told = _told(event.run, event.record, self._pace)
        shown = {
            "desc": f"{head} ",
            "postfix": ["  ".join(told)],
            "n": min(_share(event.run, event.record), 1.0),
        }

        if self._bar is None:
            self._bar = _bar(self.stream, shown)
            return
        for name, value in shown.items():
            setattr(self._bar, name, value)
        self._bar.refresh()

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Leave the last state on a line of its own."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._pace = None


@dataclass
class ProgressLines:
    """Writes iteration, rewards, best weighted reward, log P and the time left, a line for each
    tenth of the run. Means are over the samples.
    """

    stream: _Enduring
    _pace: _Pace | None = field(default=None, init=False)
    _shown: StepRecord | None = field(default=None, init=False)
    _last: StepRecord | None = field(default=None, init=False)

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Forget what a run before this one left, and say what this one takes of memory."""
        self._pace = self._shown = self._last = None
        _tell_memory(self.stream, event.run)

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """Show the record, if a tenth of the run has gone by since the last that was shown."""
        run = event.run
        record = event.record
        if self._pace is None:
            self._pace = _Pace(record)
        self._last = record
        if self._shown is None or _share(run, record) - _share(run, self._shown) > 0.0999:
            self._write(run, record)

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Show the last record."""
        if self._last is not None and self._shown is not self._last:
            self._write(event.run, self._last)

    def _write(self, run: RunInfo, record: StepRecord) -> None:
        assert self._pace is not None
        # In one piece, so that nothing else comes between.
        self.stream.write(f"{'  '.join(_told(run, record, self._pace))}\n")
        self.stream.flush()
        self._shown = record


class _Enduring:
    """A stream that takes whatever is written: no run ends because nobody looks on."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:
        # So that tqdm knows which bars to take aside for who writes on the stream itself.
        return other is self or other is self._stream

    def __hash__(self) -> int:
        return id(self)

    def isatty(self) -> bool:
        """Whether somebody may be watching."""
        # A stream that is closed says so with a ValueError.
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        """Write, if there is still somebody to read."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        self._try("flush")

    def _try(self, method: str, *args: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*args)
        except (OSError, ValueError):
            self._stream = None


@dataclass
class _Pace:
    """How fast a run goes, from this process's own records: a resumed run may go on with another
    machine.
    """

    first: StepRecord

    def seconds_left(self, run: RunInfo, record: StepRecord) -> float | None:
        """Until the last iteration, or the end of what the run may take; None if unknown."""
        done = record.iteration - self.first.iteration
        if done < 1:
            return None
        pace = (record.seconds - self.first.seconds) / done
        left = pace * max(run.iterations - record.iteration, 0)
        return left if run.seconds is None else min(left, max(run.seconds - record.seconds, 0))


def _tell_memory(stream: _Enduring, run: RunInfo) -> None:
    if run.memory:
        stream.write(f"{clean(run.memory)}\n")
        stream.flush()


def _bar(stream: _Enduring, shown: dict[str, Any]) -> Any:
    """A bar of tqdm, of the kind that this terminal or notebook can show.

    Args:
        stream: where one of text is written.
        shown: what it shows at first, by tqdm's names.
    """
    with warnings.catch_warnings():
        # In a notebook without widgets it is one of text.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        # Without a thread that looks after it.
        monitor_interval = 0

    return Bar(
        total=1.0,
        initial=shown["n"],
        desc=shown["desc"],
        postfix=shown["postfix"],
        file=stream,
        bar_format=_BAR,
        dynamic_ncols=True,
    )


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def _told(run: RunInfo, record: StepRecord, pace: _Pace) -> list[str]:
    """What is told of a record: first where the run is, then what it has reached."""
    by_time = _share(run, record) > record.iteration / max(run.iterations, 1)
    limit = f", {record.seconds:.0f}/{run.seconds:.0f} s" if by_time else f"/{run.iterations}"
    parts = [f"iteration {record.iteration}{limit}{_stage(run, record)}"]

    parts += [f"{name} {_mean(values):.4g}" for name, values in record.rewards.items()]
    parts += [f"{name} {_mean(values):.4g}" for name, values in record.monitors.items()]
    best = _mean(record.best)
    parts.append("best -" if math.isnan(best) else f"best {best:.4g}")

    log_p = record.least_log_p
    if log_p is not None:
        known = [value for value in log_p if math.isfinite(value)]
        least = f" (least {min(known):.2f})" if len(log_p) > 1 and known else ""
        parts.append(f"log P {_mean(log_p):.2f}{least}")
    left = pace.seconds_left(run, record)
    if left is not None:
        parts.append(f"{_duration(left)} left")
    return [clean(part) for part in parts]


def _stage(run: RunInfo, record: StepRecord) -> str:
    """On which time grid a run is that climbs on several."""
    if record.grid is not None:
        return f" on {record.grid} steps"
    return " on all steps" if run.config.get("coarse") else ""


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
