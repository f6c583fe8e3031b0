"""The loop: an optimizer climbs the objective, every evaluation is recorded, the best is kept.

Works on objects only: it knows no names, no files and no plugin.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dno.core.budget import Budget, peak_memory
from dno.core.events import Bus
from dno.core.noise import evaluation_generators
from dno.core.problem import Evaluation, Problem, lowest_log_p
from dno.core.result import PerSample, Result, Snapshot, Status, StepRecord
from dno.errors import DNOError, RunError
from dno.protocols import Optimizer, State

_log = logging.getLogger("dno")


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
    """The objective that an optimizer sees during one iteration; keeps the best of all
    evaluations.
    """

    def __init__(
        self,
        problem: Problem,
        iteration: int,
        start_BN: Tensor,
        best: Snapshot | None,
        gamma_B: Tensor | float,
    ) -> None:
        self._problem, self._iteration, self._start_BN, self._gamma_B = (
            problem,
            iteration,
            start_BN,
            gamma_B,
        )
        self._calls = self._draws = self.network_evaluations = self.reward_calls = 0
        self.best = best
        self._at_start: Evaluation | None = None

    def value(self, noise_BN: Tensor) -> Tensor:
        return self._ask(noise_BN, with_grad=False).objective_B

    def value_and_grad(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        evaluation = self._ask(noise_BN, with_grad=True)
        assert evaluation.grad_BN is not None
        return evaluation.objective_B, evaluation.grad_BN

    def gaussian(self) -> Tensor:
        # Evaluations count from below, draws of the optimizer's own from above: no number is used
        # for both.
        self._draws += 1
        number = ((self._iteration + 1) << 20) - self._draws
        generators = evaluation_generators([seed for _, seed in self._problem.items], number)
        shape = self._start_BN.shape[1:]
        return torch.stack(
            [torch.randn(shape, generator=generator) for generator in generators]
        ).to(self._start_BN)

    def at_start(self) -> Evaluation:
        """The evaluation at the iteration's own noise, made now if the optimizer did not ask for
        it.
        """
        if self._at_start is None:
            self._ask(self._start_BN, with_grad=False)
        assert self._at_start is not None
        return self._at_start

    def _ask(self, noise_BN: Tensor, *, with_grad: bool) -> Evaluation:
        # Numbered by iteration, so that a run that was stopped and resumed, or extended, sees the
        # same randomness.
        number = (self._iteration << 20) + self._calls
        self._calls += 1
        evaluation = self._problem.evaluate(
            noise_BN, number, with_grad=with_grad, gamma_B=self._gamma_B
        )
        self.network_evaluations += evaluation.network_evaluations
        self.reward_calls += evaluation.reward_calls
        new, healthy_B = (
            snapshot(evaluation, self._iteration),
            _healthy(evaluation, self._problem.log_p_floor),
        )
        self.best = _better(self.best, new, healthy_B)
        if self._at_start is None and torch.equal(evaluation.noise_BN, self._start_BN):
            self._at_start = evaluation
        return evaluation


def snapshot(evaluation: Evaluation, iteration: int) -> Snapshot:
    """What a result keeps of an evaluation."""
    return Snapshot(
        noise_BN=evaluation.noise_BN.clone(),
        samples=evaluation.samples,
        objective_B=evaluation.score_B,
        iteration_B=torch.full_like(evaluation.score_B, iteration),
        rewards=evaluation.rewards,
        figures=evaluation.figures,
    )


def _healthy(evaluation: Evaluation, floor: float) -> Tensor:
    log_p_B = evaluation.log_p_B
    return (
        torch.ones_like(evaluation.objective_B, dtype=torch.bool)
        if log_p_B is None
        else log_p_B >= floor
    )


def _better(best: Snapshot | None, new: Snapshot, healthy_B: Tensor) -> Snapshot:
    """Per sample the better of two, all its values together."""
    new = replace(new, objective_B=new.objective_B.where(healthy_B, -math.inf))
    if best is None:
        return new
    wins_B, ours, theirs = new.objective_B > best.objective_B, new.tensors(), best.tensors()
    return Snapshot.of(
        {
            k: torch.where(wins_B.view(-1, *[1] * (v.dim() - 1)), v, theirs[k].to(v))
            for k, v in ours.items()
        }
    )


def _floats(values: Tensor) -> PerSample:
    return tuple(values.tolist())


def _record(
    iteration: int,
    evaluation: Evaluation,
    spent: tuple[int, int],
    best: Snapshot,
    floor: float,
    seconds: float,
) -> StepRecord:
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
        network_evaluations=spent[0],
        reward_calls=spent[1],
    )


def optimize(
    problem: Problem,
    optimizer: Optimizer,
    iterations: int,
    *,
    bus: Bus,
    warm_start: tuple[Optimizer, int] | None = None,
    budget: Budget | None = None,
    state: LoopState | None = None,
    checkpoint: Callable[[LoopState], None] = lambda _: None,
) -> Result:
    """Climb for a number of iterations and evaluate once more where they end.

    Args: problem: what to climb. optimizer: how. iterations: steps of the optimizer in all, those
        before `state` included. bus: whom to tell of the start and of each iteration; the end is
        the caller's to tell. warm_start: an optimizer and its iterations, which come first;
        `optimizer` starts at the best noise that it found.
        budget: what may be spent.
        state: where to go on from; None starts afresh.
        checkpoint: called with the loop's state after each iteration.

    Raises:
        RunError: the very first evaluation failed, so there is nothing to hand back. Later failures
            are a `Result` with status `failed`.
    """
    began = time.perf_counter() - (state.seconds if state else 0.0)
    noise_BN = state.noise_BN if state else problem.sample.noise_BN
    if problem.start_BN is not None and not state:
        noise_BN = problem.start_BN.to(noise_BN)
    initial, best = (state.initial, state.best) if state else (None, None)
    history = list(state.history) if state else []
    last: Snapshot | None = None
    status, failure, reason = Status.FINISHED, None, ""
    first, warm = warm_start or (optimizer, 0)
    iterations += warm
    try:
        bus.started()
        memory = state.optimizer if state else first.init(noise_BN)
        for iteration in range(state.iteration if state else 0, iterations + 1):
            if warm and iteration == warm:
                assert best is not None
                found_B = best.objective_B > -math.inf
                noise_BN = torch.where(
                    found_B[:, None].to(noise_BN.device), best.noise_BN.to(noise_BN), noise_BN
                )
                memory = optimizer.init(noise_BN)
            gamma_B = _gamma(problem, history, noise_BN)
            objective = _Recorder(problem, iteration, noise_BN, best, gamma_B)
            moved_BN = noise_BN
            if iteration < iterations:
                step = first.step if iteration < warm else optimizer.step
                moved_BN, memory = _checked_step(step(objective, noise_BN, memory), noise_BN)
            evaluation = objective.at_start()
            best, last = objective.best, snapshot(evaluation, iteration)
            assert best is not None
            initial = initial or last
            seconds = time.perf_counter() - began
            before = (
                (history[-1].network_evaluations, history[-1].reward_calls) if history else (0, 0)
            )
            spent = (before[0] + objective.network_evaluations, before[1] + objective.reward_calls)
            history.append(
                _record(iteration, evaluation, spent, best, problem.log_p_floor, seconds)
            )
            stop = bus.step(history[-1], evaluation.samples)
            noise_BN = moved_BN
            if iteration < iterations:
                checkpoint(
                    LoopState(
                        iteration + 1, noise_BN, memory, initial, best, tuple(history), seconds
                    )
                )
                reached_B = problem.reward_B(best.rewards).where(
                    best.objective_B > -math.inf, -math.inf
                )
                met = budget.met(history[-1], reached_B, evaluation.log_p_B) if budget else None
                if met or stop:
                    status, reason = Status.STOPPED, met or "an observer asked to stop"
                    break
    except KeyboardInterrupt:
        if initial is None:
            raise
        status = Status.INTERRUPTED
    except Exception as error:
        _log.debug("run failed", exc_info=error)
        status, failure = Status.FAILED, _as_run_error(error)
    if initial is None or best is None:
        assert failure is not None
        raise failure
    return Result(
        status=status,
        items=tuple(problem.items),
        initial=initial,
        best=best,
        last=last or best,
        history=tuple(history),
        error=failure,
        folder=bus.run.folder,
        reason=reason,
        held_out=tuple(term.name for term in problem.rewards if not term.weight),
        peak_memory=peak_memory(noise_BN.device),
    )


def _gamma(problem: Problem, history: Sequence[StepRecord], noise_BN: Tensor) -> Tensor | float:
    """The adapted weight of each sample: a function of the last record, so that a resumed run goes
    on with it.
    """
    targets = [t.log_p_target for t in problem.regularizers if t.log_p_target is not None]
    if not targets or not history:
        # From below: a penalty that is large at first would stay in Adam's memory of squared
        # gradients for long.
        return noise_BN.new_full((len(noise_BN),), 0.01) if targets else 1.0
    figures = {name: torch.tensor(value) for name, value in history[-1].figures.items()}
    if (log_p_B := lowest_log_p(figures)) is None:
        raise RunError('a weight of "auto" needs a regularizer that reports log_p')
    # Bounded, because log P of noise that has gone far is in the thousands.
    missing_B = (max(targets) - log_p_B).clamp(-5, 5)
    return (figures["gamma"] * torch.exp(0.1 * missing_B)).clamp(1e-3, 1e3).to(noise_BN)


def _checked_step(answer: object, noise_BN: Tensor) -> tuple[Tensor, State]:
    """What an optimizer's step returned, if it may be."""
    moved_BN, memory = answer if isinstance(answer, tuple) and len(answer) == 2 else (None, None)
    if not isinstance(moved_BN, Tensor) or moved_BN.shape != noise_BN.shape:
        raise RunError(
            f"the optimizer must return noise of shape {tuple(noise_BN.shape)} and its state; "
            f"got {answer!r}"
        )
    if not isinstance(memory, Mapping) or not all(
        isinstance(value, Tensor) for value in memory.values()
    ):
        raise RunError(
            "the optimizer's state must be tensors by name, so that it can be saved; got "
            f"{memory!r}"
        )
    return moved_BN.detach().to(noise_BN), memory


def _as_run_error(error: Exception) -> DNOError:
    if isinstance(error, DNOError):
        return error
    problem = f"the run failed with {type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        problem = (
            "the device ran out of memory; recompute the sampler's steps instead of keeping them "
            "(sampler.memory=recompute), or optimise fewer samples side by side"
        )
    failure = RunError(problem)
    failure.__cause__ = error
    return failure
