"""What a run gives, as plain frozen values."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BeforeValidator, TypeAdapter

from dno.errors import DNOError
from dno.media import OTHER, Medium, medium_of, thumbnails

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

# JSON has no nan and no infinity: null stands for them, and these turn it back.
_OrNan = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
_OrNothingYet = Annotated[
    float, BeforeValidator(lambda value: -math.inf if value is None else value)
]

PerSample = tuple[_OrNan, ...]
"""One float for each of the B samples; nan for one that could not be evaluated."""


class Status(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    """All iterations were done."""
    STOPPED = "stopped"
    """A budget was spent, or an observer asked to stop."""
    PARTIAL = "partial"
    """Some samples could not go on, and `failures` says why; the others are finished or stopped."""
    INTERRUPTED = "interrupted"
    """The process was asked to stop; the run can be resumed."""
    FAILED = "failed"
    """The run could not go on, and `error` says why. What was reached is kept."""


@dataclass(frozen=True)
class StepRecord:
    """One evaluation, made at the noise that iteration `iteration` starts from."""

    iteration: int
    grid: int | None
    """Denoising steps of the coarser grid that it was made on; None: the run's own."""
    reward: PerSample
    """Weighted sum of the rewards that are climbed."""
    objective: PerSample
    """The same less weighted penalties."""
    rewards: Mapping[str, PerSample]
    """Unweighted, by name."""
    monitors: Mapping[str, PerSample]
    """Rewards that are watched and never climbed."""
    penalties: Mapping[str, PerSample]
    """Unweighted, by regularizer."""
    log_p: Mapping[str, PerSample]
    """Natural log of the probability of noise like this, by the regularizer that reports it."""
    gamma: PerSample | None
    """Weight of the penalties that hold log P at a target; None where none does."""
    figures: Mapping[str, PerSample]
    """What else regularizers report, such as p-values."""
    healthy: tuple[bool, ...]
    """Whether the least `log_p` and the free p-values were above the run's floors, and the sample
    could be evaluated."""
    best: tuple[_OrNothingYet, ...]
    """Highest weighted reward so far among healthy evaluations on the same grid; -inf before the
    first."""
    grad_norm: PerSample
    """Norm of the objective's gradient before clipping; nan where none was asked for."""
    seconds: float
    """Wall-clock time since the run began, its interruptions left out."""
    network_evaluations: int = 0
    """Forward passes of the denoising network so far, per sample; guidance doubles a step's.

    Repairs ask only about samples that move: then it is the count of those that moved longest."""
    reward_calls: int = 0
    """Times so far that optimised rewards were asked about each sample."""

    def has_left(self, sample: int) -> bool:
        """Whether this sample's noise had left N(0, I); not so where it could not be evaluated."""
        return not self.healthy[sample] and math.isfinite(self.objective[sample])

    @property
    def least_log_p(self) -> PerSample | None:
        """The least of all `log_p` of each sample, which decides its health; None without any."""
        if not self.log_p:
            return None
        return tuple(min(values) for values in zip(*self.log_p.values(), strict=True))

    def to_json(self) -> bytes:
        """One line of `history.jsonl`: strict JSON, without the line's end."""
        return _record_adapter().dump_json(self)

    @classmethod
    def from_json(cls, line: str | bytes) -> StepRecord:
        """The record that `to_json` gave this line for.

        Raises:
            ValueError: it is not one.
        """
        return _record_adapter().validate_json(line)


@functools.cache
def _record_adapter() -> TypeAdapter[StepRecord]:
    """What reads and writes records. Making one takes longer than 400 records do."""
    return TypeAdapter(StepRecord)


@dataclass(frozen=True)
class Snapshot:
    """One evaluation of each sample's noise; all of a sample's values belong to the same one."""

    noise_BN: Tensor
    samples: Tensor
    """`B x 3 x H x W` in [0, 1] for images."""
    score_B: Tensor
    """Weighted rewards; -inf where noise has left N(0, I) or the sample could not be evaluated."""
    iteration_B: Tensor
    """Steps done before the evaluation."""
    rewards: Mapping[str, Tensor]
    """`B` floats each, unweighted."""
    monitors: Mapping[str, Tensor]
    log_p: Mapping[str, Tensor]
    """By the regularizer that reports it, `B` floats each."""
    figures: Mapping[str, Tensor]
    """What else regularizers reported, `B` floats each."""

    def __repr__(self) -> str:
        # A tensor's own repr prints its numbers, by the thousand.
        shape = "x".join(map(str, self.samples.shape))
        means = [f"{name} {_mean(value):.4g}" for name, value in self.rewards.items()]
        return f"Snapshot(samples {shape}, {', '.join(means) or 'no rewards'})"

    @property
    def images(self) -> list[Image]:
        """The samples as pictures; samples other than images have none."""
        return thumbnails(medium_of(None, self.samples), self.samples)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, such as `rewards.brightness`."""
        named: dict[str, Tensor] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                named |= {f"{field.name}.{key}": tensor for key, tensor in value.items()}
            else:
                named[field.name] = value
        return named

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Snapshot:
        """The snapshot that `tensors()` came from."""
        alone = {name: tensor for name, tensor in tensors.items() if "." not in name}
        grouped: dict[str, dict[str, Tensor]] = {
            "rewards": {},
            "monitors": {},
            "log_p": {},
            "figures": {},
        }
        for name, tensor in tensors.items():
            group, dot, key = name.partition(".")
            if dot:
                grouped[group][key] = tensor
        return cls(**alone, **grouped)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Outcome:
    """What a run reached; row i of everything belongs to `items[i]`."""

    status: Status
    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    initial: Snapshot
    best: Snapshot
    """Per sample the highest weighted reward among healthy evaluations."""
    last: Snapshot
    history: Sequence[StepRecord]
    climbed: Sequence[str] = ()
    """The rewards that were optimised; others were only reported."""
    kept: Sequence[str] = ()
    """P-values among the figures that a constraint kept by construction, and so are no evidence."""
    medium: Medium = OTHER
    """What the samples are."""
    error: DNOError | None = None
    """What went wrong and how to mend it, where the status is `failed`."""
    failures: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Why samples, by their row, could not go on; they stayed where they were."""
    folder: Path | None = None
    """The run folder, where one was asked for."""
    reason: str = ""
    """Why the run stopped before its last iteration, where the status is `stopped`."""
    peak_memory: int = 0
    """Most bytes that the process held at once: on the GPU, or in all where there is none; 0 if
    unknown."""

    def __repr__(self) -> str:
        means = [
            f"{name} {_mean(first):.4g} -> {_mean(self.best.rewards[name]):.4g}"
            for name, first in self.initial.rewards.items()
        ]
        count = len(self.items)
        samples = "1 sample" if count == 1 else f"{count} samples"
        about = [str(self.status), samples, f"{len(self.history)} records", *means]
        if self.folder is not None:
            about.append(f"in {self.folder}")
        return f"{type(self).__name__}({', '.join(about)})"

    def meter(self) -> dict[str, float]:
        """What the run cost.

        Returns:
            `iterations`, `seconds` of the loop, `network_evaluations` and `reward_calls` per
            sample, `peak_memory` in bytes.
        """
        last = self.history[-1]
        return {
            "iterations": last.iteration,
            "seconds": last.seconds,
            "network_evaluations": last.network_evaluations,
            "reward_calls": last.reward_calls,
            "peak_memory": self.peak_memory,
        }

    def copy(self) -> Self:
        """The same outcome, with tensors of its own."""
        snapshots = {
            name: Snapshot.of(
                {key: value.clone() for key, value in getattr(self, name).tensors().items()}
            )
            for name in ("initial", "best", "last")
        }
        return dataclasses.replace(self, **snapshots)  # type: ignore[arg-type]

    def raise_for_status(self) -> Self:
        """This outcome, unless the run failed: then its error is raised."""
        if self.error is not None:
            raise self.error
        return self

    def crossed_floor(self, sample: int) -> int | None:
        """First iteration at which this sample's noise had left N(0, I); None if it never had."""
        return next((r.iteration for r in self.history if r.has_left(sample)), None)


def _mean(values: Tensor) -> float:
    return float(values.nanmean())
