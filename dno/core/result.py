"""What a run leaves behind, as plain frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, TypeAdapter

from dno.errors import DNOError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PerSample = tuple[float, ...]
"""One float for each of the B samples."""

# JSON has no nan and no infinity: null stands for them, and these turn it back.
_OrNan = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
_OrNothingYet = Annotated[
    float, BeforeValidator(lambda value: -math.inf if value is None else value)
]


class Status(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    """All iterations were done."""
    STOPPED = "stopped"
    """A budget was spent, or an observer asked to stop."""
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
    best: tuple[_OrNothingYet, ...]
    """Highest objective so far among healthy evaluations; -inf before the first."""
    grad_norm: tuple[_OrNan, ...]
    """Norm of the gradient before clipping; nan where none was asked for."""
    seconds: float
    """Wall-clock time since the run began, its interruptions left out."""
    network_evaluations: int = 0
    """Forward passes of the denoising network so far, for each sample; guidance makes two of one
    step."""
    reward_calls: int = 0
    """Times so far that optimised rewards were asked about each sample."""

    def to_json(self) -> bytes:
        """One line of `history.jsonl`: strict JSON, without the line's end."""
        return TypeAdapter(StepRecord).dump_json(self)

    @classmethod
    def from_json(cls, line: str) -> StepRecord:
        """The record that `to_json` gave this line for.

        Raises:
            ValueError: it is none.
        """
        return TypeAdapter(StepRecord).validate_json(line)


@dataclass(frozen=True)
class Snapshot:
    """One evaluation of each sample's noise; all of a sample's values belong to the same one."""

    noise_BN: Tensor
    samples: Tensor
    """`B x 3 x H x W` in [0, 1] for images."""
    objective_B: Tensor
    """Without the penalties whose weight is adapted: their values at two evaluations cannot be
    compared."""
    iteration_B: Tensor
    """Steps done before the evaluation."""
    rewards: Mapping[str, Tensor]
    """`B` floats each, unweighted."""
    figures: Mapping[str, Tensor]
    """What regularizers reported, `B` floats each."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, such as `rewards.brightness`."""
        named = {
            name: value for name, value in vars(self).items() if name not in ("rewards", "figures")
        }
        named |= {f"rewards.{name}": value for name, value in self.rewards.items()}
        return named | {f"figures.{name}": value for name, value in self.figures.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Snapshot:
        """The snapshot that `tensors()` came from."""
        one = {name: value for name, value in tensors.items() if "." not in name}
        many = {
            kind: {
                n.partition(".")[2]: value
                for n, value in tensors.items()
                if n.startswith(f"{kind}.")
            }
            for kind in ("rewards", "figures")
        }
        return cls(**one, **many)  # type: ignore[arg-type]


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
    reason: str = ""
    """Why the run stopped before its last iteration, where the status is `stopped`."""
    held_out: Sequence[str] = ()
    """Rewards that were evaluated and never optimised."""
    peak_memory: int = 0
    """Most bytes that the process held at once: on the GPU, or in all where there is none; 0 if
    unknown."""

    def meter(self) -> dict[str, float]:
        """What the run cost: `iterations`, `seconds` of the loop, `network_evaluations` and
        `reward_calls` for each sample, `peak_memory` in bytes.
        """
        last = self.history[-1]
        counted = {
            name: getattr(last, name) for name in ("seconds", "network_evaluations", "reward_calls")
        }
        return {"iterations": last.iteration, **counted, "peak_memory": self.peak_memory}

    def verdict(self) -> str:
        """Rewards and log P from -> to, means over the samples; how and where it ended; what it
        cost; and, where the optimised rewards rose while a held-out one fell, that.
        """

        def change(name: str, before: Tensor, after: Tensor) -> str:
            return f"{name} {before.mean().item():.4g} -> {after.mean().item():.4g}"

        first, best = self.initial, self.best
        parts = [change(name, value, best.rewards[name]) for name, value in first.rewards.items()]
        if "log_p" in first.figures:
            parts.append(change("log P", first.figures["log_p"], best.figures["log_p"]))
        where = ", ".join(f"{iteration:.0f}" for iteration in best.iteration_B.tolist())
        because = f" ({self.reason})" if self.reason else ""
        done = f"{self.status}{because}: best at iteration {where} of {self.history[-1].iteration}"
        crossed = [at for i in range(len(self.items)) if (at := self.crossed_floor(i)) is not None]
        health = (
            f"; noise left N(0, I) at iteration {min(crossed)}, where it ended is last.png"
            if crossed
            else ""
        )
        end, memory = (
            self.history[-1],
            f"; peak memory {self.peak_memory / 2**20:.0f} MB" if self.peak_memory else "",
        )
        counts = (
            f"{end.network_evaluations:,} network evaluations, {end.reward_calls:,} reward calls"
        )
        cost = f"{end.seconds:.0f} s; a sample: {counts}{memory}"
        lines = [", ".join(parts), done + health, cost]
        moves = {
            name: (best.rewards[name] - value).mean().item()
            for name, value in first.rewards.items()
        }
        rose = [name for name, move in moves.items() if name not in self.held_out and move > 0]
        fell = [name for name in self.held_out if moves[name] < 0]
        if rose and fell:
            held = " and ".join(fell)
            lines.append(
                f"careful: {' and '.join(rose)} rose while {held}, held out, fell; look at best.png"
            )
        return "\n".join(lines)

    def raise_for_status(self) -> Result:
        """This result, unless the run failed: then its error is raised."""
        if self.error is not None:
            raise self.error
        return self

    def crossed_floor(self, sample: int) -> int | None:
        """First iteration at which this sample's noise was no longer healthy; None if it always
        was.
        """
        return next((r.iteration for r in self.history if not r.healthy[sample]), None)
