"""The loop: optimizers climb the objective, every evaluation is recorded, the best is kept.

Works on objects only: it knows no names, no files and no plugin.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from dno.core.budget import Budget, peak_memory
from dno.core.events import Bus
from dno.core.noise import evaluation_generators
from dno.core.problem import Evaluation, Problem
from dno.core.result import Outcome, PerSample, Snapshot, Status, StepRecord
from dno.core.weights import first_gamma, next_gamma
from dno.errors import DNOError, RunError
from dno.media import OTHER, Medium, medium_of
from dno.protocols import Optimizer, Slopes, State

_log = logging.getLogger("dno")


@dataclass(frozen=True)
class Phase:
    """A part of a run that one optimizer climbs."""

    optimizer: Optimizer
    iterations: int
    from_best: bool = False
    """Whether it starts at the best noise found before it; else where the phase before it ended."""


@dataclass(frozen=True)
class LoopState:
    """Everything that the rest of a run depends on, as it is between two iterations."""

    iteration: int
    """Iterations done, in all phases."""
    noise_BN: Tensor
    """Where the next iteration starts."""
    optimizer: State
    """Memory of the phase's optimizer."""
    initial: Snapshot | None = None
    """None before the first evaluation."""
    best: Snapshot | None = None
    history: Sequence[StepRecord] = ()
    failures: Mapping[int, str] = field(default_factory=dict)
    """Samples that could not go on, by row, and why."""
    seconds: float = 0.0
    """Wall-clock time spent so far."""


class _Recorder:
    """The objective that an optimizer sees during one iteration; keeps the best evaluations."""

    def __init__(self, problem: Problem, state: LoopState, gamma_B: Tensor | None) -> None:
        self._problem = problem
        self._iteration = state.iteration
        self._start_BN = state.noise_BN
        self._gamma_B = gamma_B
        self._calls = 0
        self._draws = 0
        self._at_start: Evaluation | None = None

        self.best = state.best
        self.failures = dict(state.failures)
        self.network_evaluations = 0
        self.reward_calls = 0

    def score(self, noise_BN: Tensor) -> Tensor:
        return self._problem.score_B(self._ask(noise_BN, with_grad=False))

    def value(self, noise_BN: Tensor) -> Tensor:
        return _objective_B(self._ask(noise_BN, with_grad=False))

    def value_and_grad(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        evaluation = self._ask(noise_BN, with_grad=True)
        clipped_BN, _ = self._problem.clipped(evaluation.grad_BN())
        return _objective_B(evaluation), clipped_BN

    def slopes(self, noise_BN: Tensor) -> Slopes:
        evaluation = self._ask(noise_BN, with_grad=True)
        assert evaluation.reward_grad_BN is not None
        assert evaluation.penalty_grad_BN is not None
        return Slopes(
            reward_B=evaluation.reward_B.nan_to_num(nan=-math.inf),
            reward_grad_BN=evaluation.reward_grad_BN,
            penalty_B=evaluation.penalty_B.nan_to_num(nan=0.0),
            penalty_grad_BN=evaluation.penalty_grad_BN,
        )

    def gaussian(self) -> Tensor:
        # Evaluations count from below, draws of the optimizer's own from above: no number is used
        # for both.
        self._draws += 1
        number = ((self._iteration + 1) << 20) - self._draws
        seeds = [seed for _, seed in self._problem.items]
        shape = self._start_BN.shape[1:]
        generators = evaluation_generators(seeds, number)
        rows = [torch.randn(shape, generator=generator) for generator in generators]
        return torch.stack(rows).to(self._start_BN)

    def at_start(self) -> Evaluation:
        """The evaluation at the iteration's own noise, made now if the optimizer did not ask."""
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
        for row, why in evaluation.failures.items():
            self.failures.setdefault(row, why)
        self.best = _better(self.best, snapshot(self._problem, evaluation, self._iteration))
        if self._at_start is None and torch.equal(evaluation.noise_BN, self._start_BN):
            self._at_start = evaluation
        return evaluation


def _objective_B(evaluation: Evaluation) -> Tensor:
    """The objective as optimizers see it: a sample that could not be evaluated is never better."""
    return evaluation.objective_B.nan_to_num(nan=-math.inf)


def snapshot(problem: Problem, evaluation: Evaluation, iteration: int) -> Snapshot:
    """What an outcome keeps of an evaluation."""
    score_B = problem.score_B(evaluation)
    return Snapshot(
        noise_BN=evaluation.noise_BN.clone(),
        samples=evaluation.samples,
        score_B=score_B,
        iteration_B=torch.full_like(score_B, iteration),
        rewards=evaluation.rewards,
        monitors=evaluation.monitors,
        log_p=evaluation.log_p,
        figures=evaluation.figures,
    )


def _better(best: Snapshot | None, new: Snapshot) -> Snapshot:
    """Per sample the better of two, all its values together."""
    if best is None:
        return new
    wins_B = new.score_B > best.score_B
    ours = new.tensors()
    theirs = best.tensors()
    changed = sorted(ours.keys() ^ theirs.keys())
    if changed:
        raise RunError(
            f"a regularizer reports {', '.join(changed)} at some evaluations and not at others; it "
            "must report the same at each"
        )
    return Snapshot.of(
        {name: _rows_where(wins_B, ours[name], theirs[name].to(ours[name])) for name in ours}
    )


def _rows_where(chosen_B: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Rows of the first where chosen, of the second elsewhere."""
    rows = chosen_B.to(first.device).view(-1, *[1] * (first.dim() - 1))
    return torch.where(rows, first, second)


def _floats(values: Tensor) -> PerSample:
    return tuple(values.tolist())


def _by_name(values: Mapping[str, Tensor]) -> dict[str, PerSample]:
    return {name: _floats(value) for name, value in values.items()}


def _record(problem: Problem, asked: _Recorder, state: LoopState, seconds: float) -> StepRecord:
    """What an iteration leaves in the history."""
    evaluation = asked.at_start()
    assert asked.best is not None
    grad_norm_B = torch.full_like(evaluation.reward_B, math.nan)
    if evaluation.reward_grad_BN is not None:
        _, grad_norm_B = problem.clipped(evaluation.grad_BN())

    spent_evaluations = asked.network_evaluations
    spent_calls = asked.reward_calls
    if state.history:
        spent_evaluations += state.history[-1].network_evaluations
        spent_calls += state.history[-1].reward_calls
    return StepRecord(
        iteration=state.iteration,
        objective=_floats(evaluation.objective_B),
        rewards=_by_name(evaluation.rewards),
        monitors=_by_name(evaluation.monitors),
        penalties=_by_name(evaluation.penalties),
        log_p=_by_name(evaluation.log_p),
        gamma=None if evaluation.gamma_B is None else _floats(evaluation.gamma_B),
        figures=_by_name(evaluation.figures),
        healthy=tuple(problem.healthy_B(evaluation).tolist()),
        best=_floats(asked.best.score_B),
        grad_norm=_floats(grad_norm_B),
        seconds=seconds,
        network_evaluations=spent_evaluations,
        reward_calls=spent_calls,
    )


def begin(problem: Problem, phases: Sequence[Phase]) -> LoopState:
    """The state before the first iteration."""
    noise_BN = problem.sample.noise_BN
    if problem.start_BN is not None:
        noise_BN = problem.start_BN.to(noise_BN)
    return LoopState(0, noise_BN, phases[0].optimizer.init(noise_BN))


def optimize(
    problem: Problem,
    phases: Sequence[Phase],
    *,
    bus: Bus,
    budget: Budget | None = None,
    state: LoopState | None = None,
    checkpoint: Callable[[LoopState], None] = lambda state: None,
) -> Outcome:
    """Run the phases one after the other, until they are done or a budget is spent.

    Each iteration is one `step` of the phase's optimizer; one evaluation follows the last.

    Args:
        problem: what to climb.
        phases: how, at least one.
        bus: whom to tell of the start and of each iteration; the end is the caller's to tell.
        budget: what may be spent.
        state: where to go on from; None starts afresh.
        checkpoint: called with the loop's state after each iteration.

    Raises:
        RunError: the very first evaluation failed, so there is nothing to hand back. Later failures
            are an `Outcome` with status `failed`.
    """
    loop = _Loop(problem, phases, bus, budget or Budget(), checkpoint, state)
    status = Status.FINISHED
    error: DNOError | None = None
    try:
        bus.started()
        loop.run()
        if loop.reason:
            status = Status.STOPPED
    except KeyboardInterrupt:
        if loop.state is None or loop.state.initial is None:
            raise
        status = Status.INTERRUPTED
    except Exception as unforeseen:
        _log.debug("run failed", exc_info=unforeseen)
        error = _as_run_error(unforeseen)
        status = Status.FAILED
    return loop.outcome(status, error)


class _Loop:
    """A run under way."""

    def __init__(
        self,
        problem: Problem,
        phases: Sequence[Phase],
        bus: Bus,
        budget: Budget,
        checkpoint: Callable[[LoopState], None],
        state: LoopState | None,
    ) -> None:
        self.problem = problem
        self.phases = phases
        self.bus = bus
        self.budget = budget
        self.checkpoint = checkpoint
        self.state = state
        self.began = time.perf_counter() - (state.seconds if state else 0.0)
        self.iterations = sum(phase.iterations for phase in phases)
        self.last: Snapshot | None = None
        """The newest evaluation of this process."""
        self.reason = ""
        """Why the run stopped early."""

    def run(self) -> None:
        """Iterate until all is done or something asks to stop."""
        if self.state is None:
            self.state = begin(self.problem, self.phases)
        while True:
            final = self.state.iteration == self.iterations
            asked_to_stop = self._iterate(self.state, final=final)
            if final:
                return
            self.checkpoint(self.state)

            best = self.state.best
            assert best is not None
            met = self.budget.met(self.state.history[-1], best.score_B, self.state.failures)
            if met or asked_to_stop:
                self.reason = met or "an observer asked to stop"
                return

    def _iterate(self, state: LoopState, *, final: bool) -> bool:
        """One iteration: step, record, tell; True if an observer asks to stop."""
        state = self._enter_phase(state)
        asked = _Recorder(self.problem, state, self._gamma(state))
        moved_BN = state.noise_BN
        memory = state.optimizer
        if not final:
            step = self._phase(state.iteration).optimizer.step
            moved_BN, memory = _checked_step(step(asked, state.noise_BN, memory), state.noise_BN)

        evaluation = asked.at_start()
        self.last = snapshot(self.problem, evaluation, state.iteration)
        seconds = time.perf_counter() - self.began
        record = _record(self.problem, asked, state, seconds)
        new = LoopState(
            iteration=state.iteration + (not final),
            noise_BN=moved_BN,
            optimizer=memory,
            initial=state.initial or self.last,
            best=asked.best,
            history=(*state.history, record),
            failures=asked.failures,
            seconds=seconds,
        )
        self.state = _with_failed_frozen(new)
        stop = self.bus.step(record, evaluation.samples)
        if len(new.failures) == len(moved_BN):
            raise RunError("; ".join(dict.fromkeys(new.failures.values())))
        return stop

    def _phase(self, iteration: int) -> Phase:
        """The phase of an iteration's step."""
        for phase in self.phases:
            if iteration < phase.iterations:
                return phase
            iteration -= phase.iterations
        return self.phases[-1]

    def _enter_phase(self, state: LoopState) -> LoopState:
        """The state, made ready for another optimizer where its phase begins here."""
        entered: Phase | None = None
        begins = 0
        for before, phase in pairwise(self.phases):
            begins += before.iterations
            if before.iterations and state.iteration == begins:
                entered = phase
        if entered is None:
            return state

        noise_BN = state.noise_BN
        if entered.from_best and state.best is not None:
            found_B = state.best.score_B > -math.inf
            noise_BN = _rows_where(found_B, state.best.noise_BN.to(noise_BN), noise_BN)
        return replace(state, noise_BN=noise_BN, optimizer=entered.optimizer.init(noise_BN))

    def _gamma(self, state: LoopState) -> Tensor | None:
        if not state.history:
            return first_gamma(self.problem, state.noise_BN)
        return next_gamma(self.problem, state.history[-1], state.noise_BN)

    def outcome(self, status: Status, error: DNOError | None) -> Outcome:
        """What was reached.

        Raises:
            DNOError: nothing was.
        """
        state = self.state
        if state is None or state.initial is None or state.best is None:
            assert error is not None
            raise error
        ended = status in (Status.FINISHED, Status.STOPPED)
        if ended and state.failures:
            status = Status.PARTIAL
        return Outcome(
            status=status,
            items=tuple(self.problem.items),
            initial=state.initial,
            best=state.best,
            last=self.last or state.best,
            history=tuple(state.history),
            climbed=tuple(reward.name for reward in self.problem.optimised),
            medium=self._medium(state.best),
            error=error,
            failures=dict(state.failures),
            folder=self.bus.run.folder,
            reason=self.reason,
            peak_memory=peak_memory(state.noise_BN.device),
        )

    def _medium(self, best: Snapshot) -> Medium:
        try:
            return medium_of(self.problem.sample, best.samples)
        except RunError:
            return OTHER


def _with_failed_frozen(state: LoopState) -> LoopState:
    """The state with failed samples back at noise at which they could be evaluated."""
    if not state.failures:
        return state
    assert state.best is not None
    assert state.initial is not None
    failed_B = torch.zeros(len(state.noise_BN), dtype=torch.bool)
    failed_B[list(state.failures)] = True
    found_B = state.best.score_B > -math.inf
    rest_BN = _rows_where(found_B, state.best.noise_BN, state.initial.noise_BN)
    noise_BN = _rows_where(failed_B, rest_BN.to(state.noise_BN), state.noise_BN)
    return replace(state, noise_BN=noise_BN)


def _checked_step(answer: object, noise_BN: Tensor) -> tuple[Tensor, State]:
    """What an optimizer's step returned, if it may be."""
    pair = answer if isinstance(answer, tuple) and len(answer) == 2 else (None, None)
    moved_BN, memory = pair
    if not isinstance(moved_BN, Tensor) or moved_BN.shape != noise_BN.shape:
        raise RunError(
            f"the optimizer must return noise of shape {tuple(noise_BN.shape)} and its state; "
            f"got {answer!r}"
        )
    if not isinstance(memory, Mapping) or not all(
        isinstance(value, Tensor) for value in memory.values()
    ):
        raise RunError(
            "the optimizer's state must be tensors by name, so that it can be saved; "
            f"got {memory!r}"
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
