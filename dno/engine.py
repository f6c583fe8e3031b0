"""The loop: an optimizer climbs the objective, every evaluation is recorded, the best is kept.

Works on objects only: it knows no names, no files and no plugin.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dno.errors import DNOError, RunError
from dno.events import Bus
from dno.gradients import GradientConfig
from dno.noise import evaluation_generators
from dno.objective import Evaluation, Term, evaluate
from dno.protocols import NoiseMap, Optimizer, Regularizer, Reward, State
from dno.result import PerSample, Result, Snapshot, Status, StepRecord

_log = logging.getLogger("dno")


@dataclass(frozen=True)
class Problem:
    """What one run climbs."""

    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    sample: NoiseMap
    """The sampler, bound to these items."""
    rewards: Sequence[Term[Reward]]
    regularizers: Sequence[Term[Regularizer]] = ()
    gradient: GradientConfig | None = None
    """How to climb rewards that have no gradient."""
    max_grad_norm: float = 1.0
    """Bound of the gradient's norm over one sample's whole noise."""
    log_p_floor: float = -math.inf
    """`log_p` under which an evaluation cannot be the best."""

    def evaluate(self, noise_BN: Tensor, evaluation: int, *, with_grad: bool) -> Evaluation:
        """The objective at this noise; the regularizers' randomness is a function of seed and `evaluation`."""
        return evaluate(
            self.sample,
            [prompt for prompt, _ in self.items],
            self.rewards,
            self.regularizers,
            noise_BN,
            evaluation_generators([seed for _, seed in self.items], evaluation),
            gradient=self.gradient,
            max_grad_norm=self.max_grad_norm,
            with_grad=with_grad,
        )


@dataclass(frozen=True)
class LoopState:
    """Everything that the rest of a run depends on, as it is between two iterations."""

    iteration: int
    """Iterations done."""
    noise_BN: Tensor
    """Where the next iteration starts."""
    optimizer: State
    initial: Snapshot
    best: Snapshot
    history: Sequence[StepRecord]
    seconds: float
    """Wall-clock time spent so far."""


class _Recorder:
    """The objective that an optimizer sees during one iteration; keeps the best of all evaluations."""

    def __init__(self, problem: Problem, iteration: int, best: Snapshot | None) -> None:
        self._problem, self._iteration, self._calls = problem, iteration, 0
        self.best = best
        self.first: Evaluation | None = None

    def value(self, noise_BN: Tensor) -> Tensor:
        return self.ask(noise_BN, with_grad=False).objective_B

    def value_and_grad(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        evaluation = self.ask(noise_BN, with_grad=True)
        assert evaluation.grad_BN is not None
        return evaluation.objective_B, evaluation.grad_BN

    def ask(self, noise_BN: Tensor, *, with_grad: bool) -> Evaluation:
        # Numbered by iteration, so that a run that was stopped and resumed, or extended, sees the same randomness.
        number = (self._iteration << 20) + self._calls
        self._calls += 1
        evaluation = self._problem.evaluate(noise_BN, number, with_grad=with_grad)
        self.best = _better(self.best, evaluation, self._problem.log_p_floor)
        self.first = self.first or evaluation
        return evaluation


def _snapshot(evaluation: Evaluation) -> Snapshot:
    return Snapshot(evaluation.noise_BN.clone(), evaluation.samples, evaluation.objective_B)


def _healthy(evaluation: Evaluation, floor: float) -> Tensor:
    log_p_B = evaluation.log_p_B
    return torch.ones_like(evaluation.objective_B, dtype=torch.bool) if log_p_B is None else log_p_B >= floor


def _better(best: Snapshot | None, evaluation: Evaluation, floor: float) -> Snapshot:
    """Per sample the better of two; noise, sample and value stay together."""
    new = _snapshot(evaluation)
    score_B = new.objective_B.where(_healthy(evaluation, floor), -math.inf)
    if best is None:
        return replace(new, objective_B=score_B)
    wins = score_B > best.objective_B

    def pick(ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(wins.view(-1, *[1] * (ours.dim() - 1)), ours, theirs)

    return Snapshot(pick(new.noise_BN, best.noise_BN), pick(new.samples, best.samples), pick(score_B, best.objective_B))


def _floats(values: Tensor) -> PerSample:
    return tuple(values.tolist())


def _record(iteration: int, evaluation: Evaluation, best: Snapshot, floor: float, seconds: float) -> StepRecord:
    return StepRecord(
        iteration=iteration,
        objective=_floats(evaluation.objective_B),
        rewards={k: _floats(v) for k, v in evaluation.rewards.items()},
        penalties={k: _floats(v) for k, v in evaluation.penalties.items()},
        figures={k: _floats(v) for k, v in evaluation.figures.items()},
        healthy=tuple(_healthy(evaluation, floor).tolist()),
        best=_floats(best.objective_B),
        grad_norm=_floats(evaluation.grad_norm_B),
        seconds=seconds,
    )


def optimize(
    problem: Problem,
    optimizer: Optimizer,
    iterations: int,
    *,
    bus: Bus,
    state: LoopState | None = None,
    checkpoint: Callable[[LoopState], None] = lambda _: None,
) -> Result:
    """Climb for a number of iterations and evaluate once more where they end.

    Args:
        problem: what to climb.
        optimizer: how.
        iterations: steps in all, those before `state` included.
        bus: whom to tell of the start and of each iteration; the end is the caller's to tell.
        state: where to go on from; None starts at the sampler's own noise.
        checkpoint: called with the loop's state after each iteration.

    Raises:
        RunError: the very first evaluation failed, so there is nothing to hand back. Later failures
            are a `Result` with status `failed`.
    """
    began = time.perf_counter() - (state.seconds if state else 0.0)
    noise_BN = state.noise_BN if state else problem.sample.noise_BN
    memory = state.optimizer if state else optimizer.init(noise_BN)
    initial, best = (state.initial, state.best) if state else (None, None)
    history = list(state.history) if state else []
    last: Snapshot | None = None
    status = Status.FINISHED
    failure: DNOError | None = None
    bus.started()
    try:
        for iteration in range(state.iteration if state else 0, iterations + 1):
            objective = _Recorder(problem, iteration, best)
            moved_BN = noise_BN
            if iteration < iterations:
                moved_BN, memory = optimizer.step(objective, noise_BN, memory)
            # The noise that the last step led to, or a step that asked for nothing, still has to be measured.
            evaluation = objective.first or objective.ask(noise_BN, with_grad=False)
            assert objective.best is not None
            best, last = objective.best, _snapshot(evaluation)
            initial = initial or last
            seconds = time.perf_counter() - began
            history.append(_record(iteration, evaluation, best, problem.log_p_floor, seconds))
            stop = bus.step(history[-1], evaluation.samples)
            if iteration < iterations:
                noise_BN = moved_BN.detach()
                checkpoint(LoopState(iteration + 1, noise_BN, memory, initial, best, tuple(history), seconds))
            if stop:
                status = Status.STOPPED
                break
    except KeyboardInterrupt:
        if initial is None:
            raise
        status = Status.INTERRUPTED
    except torch.OutOfMemoryError as error:
        status, failure = (
            Status.FAILED,
            RunError(
                "the device ran out of memory; recompute the sampler's steps instead of keeping them, "
                "or optimise fewer samples side by side"
            ),
        )
        failure.__cause__ = error
    except DNOError as error:
        status, failure = Status.FAILED, error
    if failure is not None:
        _log.debug("run failed", exc_info=failure)
    if initial is None or best is None:
        raise failure or RunError("the run ended before its first evaluation")
    return Result(
        status=status,
        items=tuple(problem.items),
        initial=initial,
        best=best,
        last=last or best,
        history=tuple(history),
        error=failure,
        folder=bus.run.folder,
    )
