"""What a run leaves behind, as plain frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dno.errors import DNOError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PerSample = tuple[float, ...]
"""One float for each of the B samples."""


class Status(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    """All iterations were done."""
    STOPPED = "stopped"
    """An observer asked to stop."""
    INTERRUPTED = "interrupted"
    """The process was asked to stop; the run can be resumed."""
    FAILED = "failed"
    """The run could not go on; `Result.error` says why. What was reached is kept."""


@dataclass(frozen=True)
class StepRecord:
    """One objective evaluation, made at the noise that iteration `iteration` starts from."""

    iteration: int
    objective: PerSample
    rewards: Mapping[str, PerSample]
    penalties: Mapping[str, PerSample]
    """Unweighted, by regularizer."""
    figures: Mapping[str, PerSample]
    """What regularizers report besides, such as `log_p`."""
    healthy: tuple[bool, ...]
    """Whether `log_p` was above the run's floor."""
    best: PerSample
    """Highest objective so far among healthy evaluations; -inf before the first."""
    grad_norm: PerSample
    """Norm of the gradient before clipping; nan where none was asked for."""
    seconds: float
    """Wall-clock time since the run began, its interruptions left out."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, as in `history.jsonl`."""
        return {k: _plain(v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> StepRecord:
        """The record that `to_json` gave this row for."""
        return cls(**{k: _thawed(v, -math.inf if k == "best" else math.nan) for k, v in row.items()})


def _plain(value: Any) -> Any:
    """JSON has no nan and no infinity: null stands for them."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _thawed(value: Any, missing: float) -> Any:
    if isinstance(value, Mapping):
        return {k: _thawed(v, missing) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_thawed(v, missing) for v in value)
    return missing if value is None else value


@dataclass(frozen=True)
class Snapshot:
    """One evaluation of one noise: the three always belong together."""

    noise_BN: Tensor
    samples: Tensor
    """`B x 3 x H x W` in [0, 1] for images."""
    objective_B: Tensor


@dataclass(frozen=True)
class Result:
    """A run's outcome; row i of everything belongs to `items[i]`."""

    status: Status
    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    initial: Snapshot
    best: Snapshot
    """Per sample the highest objective among healthy evaluations."""
    last: Snapshot
    history: Sequence[StepRecord]
    error: DNOError | None = None
    """What went wrong and how to mend it, where the status is `failed`."""
    folder: Path | None = None
    """The run folder, where one was asked for."""

    def best_record(self, sample: int) -> StepRecord:
        """The record of the evaluation that gave this sample's best; the first where none was healthy."""
        value = self.best.objective_B[sample].item()
        return next((r for r in self.history if r.objective[sample] == value), self.history[0])

    def verdict(self) -> str:
        """Two lines: rewards and log P from -> to, means over the samples; then iterations, seconds and health."""
        first, bests = self.history[0], [self.best_record(i) for i in range(len(self.items))]

        def change(name: str, before: PerSample, after: Sequence[float]) -> str:
            return f"{name} {sum(before) / len(before):.4g} -> {sum(after) / len(after):.4g}"

        parts = [change(n, v, [r.rewards[n][i] for i, r in enumerate(bests)]) for n, v in first.rewards.items()]
        if "log_p" in first.figures:
            after = [r.figures["log_p"][i] for i, r in enumerate(bests)]
            parts.append(change("log P", first.figures["log_p"], after))
        where = ", ".join(str(r.iteration) for r in bests)
        done = f"{self.status}: best at iteration {where} of {self.history[-1].iteration}"
        crossed = [at for i in range(len(self.items)) if (at := self.crossed_floor(i)) is not None]
        health = f"; noise left N(0, I) at iteration {min(crossed)}, later pictures are in last.png" if crossed else ""
        return f"{', '.join(parts)}\n{done}, {self.history[-1].seconds:.0f} s{health}"

    def raise_for_status(self) -> Result:
        """This result, unless the run failed: then its error is raised."""
        if self.error is not None:
            raise self.error
        return self

    def crossed_floor(self, sample: int) -> int | None:
        """First iteration at which this sample's noise was no longer healthy; None if it always was."""
        return next((r.iteration for r in self.history if not r.healthy[sample]), None)
