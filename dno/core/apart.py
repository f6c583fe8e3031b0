"""Samples of one run taken apart: what the run was for each of them alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dno.core.result import Outcome, Snapshot, Status, StepRecord


def shares(history: Sequence[StepRecord], ended: Mapping[int, int], samples: int) -> list[float]:
    """The seconds of one sample at each record, of those that are asked to the end: an equal part
    of each iteration among the samples that were still going on.

    Args:
        history: of all samples.
        ended: of samples that ended by themselves, their last iteration.
        samples: how many there are.
    """
    found: list[float] = []
    total = before = 0.0
    for record in history:
        going = samples - sum(last < record.iteration for last in ended.values())
        total += (record.seconds - before) / max(going, 1)
        before = record.seconds
        found.append(total)
    return found


def record_of(record: StepRecord, row: int, seconds: float) -> StepRecord:
    """One sample's part of a record, at so many seconds of its own."""
    own: dict[str, Any] = {}
    for one in dataclasses.fields(record):
        value = getattr(record, one.name)
        if isinstance(value, Mapping):
            own[one.name] = {name: (values[row],) for name, values in value.items()}
        elif isinstance(value, tuple):
            own[one.name] = (value[row],)
        else:
            own[one.name] = value
    return StepRecord(**own | {"seconds": seconds})


def snapshot_of(snapshot: Snapshot, row: int) -> Snapshot:
    """One sample's part of a snapshot."""
    return Snapshot.of({name: value[row : row + 1] for name, value in snapshot.tensors().items()})


def outcome_of(
    outcome: Outcome, row: int, seconds: Sequence[float], status: Status, reason: str = ""
) -> Outcome:
    """What a run reached for one of its samples that did not fail, as a run of that sample alone.

    Args:
        outcome: of all samples.
        row: the sample's place.
        seconds: its own, at each record.
        status: how it ended for this sample.
        reason: why, where it stopped early.
    """
    records = zip(outcome.history, seconds, strict=True)
    return dataclasses.replace(
        outcome,
        status=status,
        items=[outcome.items[row]],
        failures={},
        error=None,
        folder=None,
        reason=reason,
        history=[record_of(record, row, at) for record, at in records],
        initial=snapshot_of(outcome.initial, row),
        best=snapshot_of(outcome.best, row),
        last=snapshot_of(outcome.last, row),
    )


def rest_of(outcome: Outcome, ended: Mapping[int, int]) -> Iterator[tuple[int, Outcome]]:
    """The samples that went to the end of a run, by row; none where it has not ended.

    Args:
        outcome: of all samples.
        ended: samples that ended before, and their last iteration.
    """
    if outcome.status in (Status.INTERRUPTED, Status.FAILED):
        return
    seconds = shares(outcome.history, ended, len(outcome.items))
    status = Status.STOPPED if outcome.reason else Status.FINISHED
    for row in range(len(outcome.items)):
        if row not in outcome.failures and row not in ended:
            yield row, outcome_of(outcome, row, seconds, status, outcome.reason)
