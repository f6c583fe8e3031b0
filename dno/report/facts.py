"""What there is to say of a run, as plain values, from memory or from its folder."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dno.core.result import Outcome, Status, StepRecord
from dno.errors import RunFolderError
from dno.runs.saved import SavedRun


@dataclass(frozen=True)
class Change:
    """What became of one figure; means over the samples that could be evaluated."""

    name: str
    before: float
    after: float

    @property
    def moved(self) -> float:
        """After less before."""
        return self.after - self.before


@dataclass(frozen=True)
class Evidence:
    """A p-value of noise under N(0, I), of the sample whose best noise has the least."""

    name: str
    sample: int
    before: float
    """Of the noise that the sample started at."""
    after: float


@dataclass(frozen=True)
class Facts:
    """One run in numbers."""

    status: Status
    reason: str
    """Why it stopped early."""
    rewards: Sequence[Change]
    climbed: Sequence[str]
    """Those of the rewards that were optimised; others were only reported."""
    monitors: Sequence[Change]
    """Rewards that were held out."""
    log_p: Change | None
    """Of the regularizer whose log P was least at the best noise; None where none reports any."""
    best_iterations: Sequence[int]
    """Of each sample."""
    iterations: int
    """Done in all."""
    left_at: int | None
    """The first iteration at which some sample's noise had left N(0, I)."""
    failures: Mapping[int, str]
    error: str
    """What ended a run that failed; empty where none did."""
    passed_over: int
    """Proposals of a search that could not be evaluated, of samples that went on."""
    seconds: float
    network_evaluations: int
    """Per sample, as `reward_calls`."""
    reward_calls: int
    peak_memory: int
    """In bytes; 0 if unknown."""
    noise: Sequence[Evidence] = ()
    """One for each reported p-value that no constraint keeps by construction."""


def facts_of(outcome: Outcome) -> Facts:
    """The facts of a run in memory."""
    snapshots = {"initial": outcome.initial, "best": outcome.best}
    reached: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, snapshot in snapshots.items():
        groups = {
            "rewards": snapshot.rewards,
            "monitors": snapshot.monitors,
            "log_p": snapshot.log_p,
            "figures": snapshot.figures,
        }
        reached[name] = {
            group: {key: value.tolist() for key, value in values.items()}
            for group, values in groups.items()
        }
    return _facts(
        status=outcome.status,
        reason=outcome.reason,
        climbed=outcome.climbed,
        kept=outcome.kept,
        initial=reached["initial"],
        best=reached["best"],
        best_iterations=[round(i) for i in outcome.best.iteration_B.tolist()],
        failures=outcome.failures,
        error=str(outcome.error or ""),
        history=outcome.history,
        peak_memory=outcome.peak_memory,
    )


def facts_of_saved(run: SavedRun) -> Facts:
    """The facts of a run folder.

    Raises:
        RunFolderError: the run has not ended, or its files are damaged.
    """
    result = run.result
    if run.status is None or not run.history:
        raise RunFolderError(f"{run.path} has not ended; go on with it: dno resume {run.path}")
    return _facts(
        status=run.status,
        reason=result["reason"],
        climbed=result["climbed"],
        kept=result.get("kept", ()),
        initial=result["initial"],
        best=result["best"],
        best_iterations=result["best"]["iteration"],
        failures={int(row): why for row, why in result["failures"].items()},
        error=str(result.get("error", "")),
        history=run.history,
        peak_memory=result["peak_memory"],
    )


def _facts(
    *,
    status: Status,
    reason: str,
    climbed: Sequence[str],
    kept: Collection[str],
    initial: Mapping[str, Any],
    best: Mapping[str, Any],
    best_iterations: Sequence[int],
    failures: Mapping[int, str],
    error: str,
    history: Sequence[StepRecord],
    peak_memory: int,
) -> Facts:
    last = history[-1]
    samples = range(len(last.healthy))
    return Facts(
        status=status,
        reason=reason,
        rewards=_changes(initial["rewards"], best["rewards"]),
        climbed=tuple(climbed),
        monitors=_changes(initial["monitors"], best["monitors"]),
        log_p=min(
            _changes(initial["log_p"], best["log_p"]),
            key=lambda change: change.after,
            default=None,
        ),
        best_iterations=best_iterations,
        iterations=last.iteration,
        left_at=next((r.iteration for r in history if any(map(r.has_left, samples))), None),
        failures=failures,
        error=error,
        passed_over=sum(
            math.isnan(record.reward[row])
            for record in history
            for row in samples
            if row not in failures
        ),
        seconds=last.seconds,
        network_evaluations=last.network_evaluations,
        reward_calls=last.reward_calls,
        peak_memory=peak_memory,
        noise=_evidence(initial.get("figures", {}), best.get("figures", {}), kept),
    )


def _evidence(
    before: Mapping[str, Any], after: Mapping[str, Any], kept: Collection[str]
) -> list[Evidence]:
    """The p-values among the figures: those named `p_...`, whoever reports them."""
    found = []
    for name, values in after.items():
        figure = name.rpartition(".")[2]
        if not figure.startswith("p_") or figure in kept:
            continue
        known = [
            (value, i)
            for i, value in enumerate(values)
            if value is not None and math.isfinite(value)
        ]
        if not known:
            continue
        least, sample = min(known)
        first = before[name][sample]
        found.append(Evidence(name, sample, math.nan if first is None else first, least))
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    return [Change(name, _mean(values), _mean(after[name])) for name, values in before.items()]


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else math.nan
