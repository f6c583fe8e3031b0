"""The loop: optimizers climb the objective, every evaluation is recorded, the best is kept.

Works on objects only: it knows no names, no files and no plugin.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from dno.core.apart import outcome_of, record_of, shares
from dno.core.budget import Budget, peak_memory
from dno.core.events import Bus
from dno.core.failing import failures_of, with_failed_frozen
from dno.core.leaving import known_of_all, still_asked_B, still_going
from dno.core.problem import Problem
from dno.core.recorder import Recorder, rows_where, snapshot
from dno.core.recording import recorded
from dno.core.result import Outcome, Snapshot, Status
from dno.core.stages import (
    LoopState,
    Phase,
    Stay,
    begin,
    checked_memory,
    is_put_back,
    lost_B,
    next_phase,
    problem_of,
    put_back,
)
from dno.core.surroundings import together
from dno.core.terms import Evaluation
from dno.core.weights import first_gamma, next_gamma
from dno.errors import DNOError, RunError
from dno.guard import as_error, guarded, undisturbed
from dno.media import OTHER, Medium, medium_of
from dno.protocols import State
from dno.wording import short

_log = logging.getLogger("dno")

Each: TypeAlias = Callable[[int, Outcome], None]
"""Is told, by its row, what a run of a sample alone would have reached."""


def optimize(
    problem: Problem,
    phases: Sequence[Phase],
    *,
    bus: Bus,
    budget: Budget | None = None,
    state: LoopState | None = None,
    checkpoint: Callable[[LoopState], None] = lambda state: None,
    each: Each | None = None,
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
        each: where it is given, each sample ends by itself, as a run of it alone would: it may
            spend the budget for itself, its time being an equal part of each iteration among the
            samples that still go on. It is told of those that end before the others, whose rows in
            the outcome are not what they reached; of the others tells `dno.core.apart.rest_of`.

    Raises:
        RunError: the very first evaluation failed, so there is nothing to hand back. Later failures
            are an `Outcome` with status `failed`.
    """
    loop = _Loop(problem, phases, bus, budget or Budget(), checkpoint, state, each)
    status = Status.FINISHED
    error: DNOError | None = None
    try:
        # Plugins may use the global generators; whoever called has them back as they were.
        with undisturbed(randomness=True):
            bus.started()
            loop.run()
        if loop.reason:
            status = Status.STOPPED
    except KeyboardInterrupt:
        if loop.state is None or loop.state.initial is None:
            raise
        status = Status.INTERRUPTED
    # Also what is meant to end a program: no plugin ends one, and what was reached is kept.
    except BaseException as unforeseen:
        _log.debug("run failed", exc_info=unforeseen)
        error = as_error(unforeseen)
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
        each: Each | None = None,
    ) -> None:
        self.problem = problem
        self.phases = phases
        self.bus = bus
        self.budget = budget
        self.checkpoint = checkpoint
        self.state = state
        self.each = each
        self.began = time.perf_counter() - (state.seconds if state else 0.0)
        self.last: Snapshot | None = None
        """The newest evaluation of this process on the run's own grid."""
        self.done: _Step | None = None
        """The newest iteration of this process."""
        self.reason = ""
        """Why the run stopped early."""
        self.passed_over: dict[int, str] = {}
        """Why proposals for samples were passed over, by row; the newest of each."""

    def run(self) -> None:
        """Iterate until all is done or something asks to stop."""
        with together():
            state = self.state or begin(self.problem, self.phases)
        self.state = state
        while True:
            # Between iterations others have their turn, to load models.
            with together():
                state = self._enter_due_phase(state)
                final = self._is_last(state)
                state, asked_to_stop, healed = self._iterate(state, final=final)
            if final or healed:
                return
            limit = None
            if self.each is not None:
                state = self._let_go(state, self.each)
            self.checkpoint(state)
            if self.each is None:
                limit = self._limit_met(state)
            elif not still_going(state):
                return
            if limit or asked_to_stop:
                self.reason = limit or "an observer asked to stop"
                self._hand_over(state)
                return

    def _enter_due_phase(self, state: LoopState) -> LoopState:
        """The state in the phase that the next step belongs to."""
        while state.steps >= self.phases[state.phase].iterations and state.phase + 1 < len(
            self.phases
        ):
            state = next_phase(state, self.problem, self.phases)
        return state

    def _is_last(self, state: LoopState) -> bool:
        """Whether all steps are done, so that the noise is looked at once more."""
        last_phase = state.phase + 1 == len(self.phases)
        return last_phase and state.steps >= self.phases[-1].iterations

    def _limit_met(self, state: LoopState) -> str | None:
        best = self._best_here(state)
        left = {**state.failures, **state.ended}
        return self.budget.met(state.history[-1], best.score_B, left)

    def _best_here(self, state: LoopState) -> Snapshot:
        """The best on the grid of the state's phase."""
        coarse = self.phases[state.phase].coarse is not None
        best = state.coarse_best if coarse else state.best
        assert best is not None
        return best

    @together()
    def _hand_over(self, state: LoopState) -> None:
        """Look at what a stopped run reached, where it would not count as it is."""
        handed = self._handed_over(state)
        if handed is not None:
            self._iterate(handed, final=True)

    def _handed_over(self, state: LoopState) -> LoopState | None:
        """The state to look at where a run stops; None where it counts as it is.

        It does not on a coarse grid, and not before constraints have put it back.
        """
        phase = self.phases[state.phase]
        if phase.coarse is not None:
            while self.phases[state.phase].coarse is not None:
                state = next_phase(state, self.problem, self.phases)
            return state
        if is_put_back(state, phase, self.problem):
            return None
        back_BN = put_back(state.noise_BN, state, phase, self.problem, steps=None)
        # As at the start of a phase: nothing is left for a constraint to do.
        return replace(state, noise_BN=back_BN, steps=0)

    def _let_go(self, state: LoopState, each: Each) -> LoopState:
        """Tell of the samples that end with this iteration, while the others go on."""
        going = still_going(state)
        repaired: list[int] = []
        if state.repair_B is not None:
            repaired = [row for row in going if not state.repair_B[row]]
        stopped = self._spent(state, [row for row in going if row not in repaired])
        if not repaired and not stopped:
            return state

        began = time.perf_counter()
        failures: dict[int, str] = {}
        self._tell(each, self._as_looked_at(state), repaired, {})
        if stopped:
            seen, failures = self._seen_apart(state, [*stopped])
            self._tell(each, seen, [row for row in stopped if row not in failures], stopped)
        # The others do not pay for it.
        self.began += time.perf_counter() - began

        now = state.history[-1].iteration
        left = [row for row in (*repaired, *stopped) if row not in failures]
        state = replace(
            state,
            ended={**state.ended, **dict.fromkeys(left, now)},
            failures={**state.failures, **failures},
            last=self._here(),
        )
        self.state = state
        return state

    def _here(self) -> Snapshot:
        assert self.done is not None
        return self.done.here

    def _as_looked_at(self, state: LoopState) -> LoopState:
        """The state as if its last iteration had been a look alone, which it was for samples that
        had nothing to be repaired."""
        assert self.done is not None
        *before, record = state.history
        evaluations, calls = self.done.look
        looked = replace(
            record,
            network_evaluations=before[-1].network_evaluations + evaluations,
            reward_calls=before[-1].reward_calls + calls,
        )
        return replace(state, history=(*before, looked))

    def _spent(self, state: LoopState, rows: Sequence[int]) -> dict[int, str]:
        """Those of the samples that have met a limit of the budget for themselves, and which."""
        if self.budget == Budget():
            return {}
        best = self._best_here(state)
        seconds = 0.0
        if self.budget.seconds is not None:
            seconds = shares(state.history, state.ended, len(state.noise_BN))[-1]
        met = {}
        for row in rows:
            own = record_of(state.history[-1], row, seconds)
            limit = self.budget.met(own, best.score_B[row : row + 1])
            if limit:
                met[row] = limit
        return met

    @together()
    def _seen_apart(
        self, state: LoopState, rows: Sequence[int]
    ) -> tuple[LoopState, dict[int, str]]:
        """The state that samples end in: after a look at them alone, where they do not count as
        they are; and why some of them cannot be looked at."""
        handed = self._handed_over(state)
        if handed is None:
            return state, {}
        others = [row for row in range(len(state.noise_BN)) if row not in rows]
        apart = replace(
            handed,
            ended={**dict.fromkeys(others, state.history[-1].iteration), **state.ended},
            last=self._here(),
        )
        try:
            seen = self._step(apart, final=True)
        except DNOError as error:
            return state, dict.fromkeys(rows, str(error))
        failures = {row: why for row, why in seen.state.failures.items() if row in rows}
        return replace(seen.state, last=seen.here), failures

    def _tell(
        self, each: Each, state: LoopState, rows: Sequence[int], reasons: Mapping[int, str]
    ) -> None:
        """Tell what was reached of samples that have ended; those without a reason, to the end."""
        if not rows:
            return
        whole = self._reached(state, state.last or self._here())
        seconds = shares(state.history, self._ended_before(state, rows), len(state.noise_BN))
        for row in rows:
            reason = reasons.get(row, "")
            status = Status.STOPPED if reason else Status.FINISHED
            each(row, outcome_of(whole, row, seconds, status, reason))

    def _ended_before(self, state: LoopState, rows: Sequence[int]) -> dict[int, int]:
        """Samples that ended before these, which go to the last record."""
        return {row: last for row, last in state.ended.items() if row not in rows}

    def _iterate(self, state: LoopState, *, final: bool) -> tuple[LoopState, bool, bool]:
        """One iteration: step, record, tell.

        Returns:
            The new state, whether an observer asks to stop, and whether a repair is done.
        """
        done = self._step(state, final=final)
        self.done = done
        if self.phases[state.phase].coarse is None:
            self.last = done.here
        self.state = done.state
        medium = medium_of(done.problem.sample, done.here.samples)
        stop = self.bus.step(done.state.history[-1], done.evaluation.samples, medium)
        if done.state.failures and not still_going(done.state):
            raise RunError("; ".join(dict.fromkeys(done.state.failures.values())))
        return done.state, stop, done.healed

    def _step(self, state: LoopState, *, final: bool) -> _Step:
        """One iteration, of which nobody is told yet."""
        phase = self.phases[state.phase]
        problem = problem_of(phase, self.problem)
        coarse = phase.coarse is not None
        asked = Recorder(
            problem,
            state.iteration,
            state.noise_BN,
            best=state.coarse_best if coarse else state.best,
            failures=dict(state.failures),
            gamma_B=self._gamma(state, problem),
            eligible=is_put_back(state, phase, self.problem),
            proposal=phase.proposes,
        )

        moving_B = still_asked_B(state)
        if moving_B is not None and state.last is not None:
            asked.only(moving_B, known_of_all(state))
        repair_B = self._still_lost(state, phase, problem, asked)
        healed = repair_B is not None and not repair_B.any()
        look = (asked.network_evaluations, asked.reward_calls)
        if repair_B is not None and not healed:
            asked.only(repair_B, asked.at_start())
        moves = not final and not healed
        moved_BN = state.noise_BN
        memory = state.optimizer
        if moves:
            own = {name: value.clone() for name, value in memory.items()}
            step = phase.optimizer.step
            answer = guarded(phase.who, step, asked, state.noise_BN.clone(), own)
            moved_BN, memory = _checked_step(phase.who, answer, state.noise_BN)
            moved_BN = put_back(moved_BN, state, phase, self.problem, state.steps + 1)
            climbs_B = repair_B if repair_B is not None else moving_B
            if climbs_B is not None:
                moved_BN = rows_where(climbs_B, moved_BN, state.noise_BN)

        evaluation = asked.at_start()
        self._note(asked.passed_over)
        here = snapshot(problem, evaluation, state.iteration)
        seconds = time.perf_counter() - self.began
        record = recorded(phase, asked, problem, state, seconds)
        new = replace(
            state,
            iteration=state.iteration + moves,
            steps=state.steps + moves,
            noise_BN=moved_BN,
            optimizer=memory,
            initial=state.initial or here,
            best=state.best if coarse else asked.best,
            coarse_best=asked.best if coarse else state.coarse_best,
            repair_B=repair_B,
            last=here if repair_B is not None or state.ended else None,
            history=(*state.history, record),
            failures=failures_of(asked, (*state.history, record), state.ended),
            seconds=seconds,
        )
        new = with_failed_frozen(new, coarse=coarse)
        return _Step(new, problem, evaluation, here, healed, look)

    def _note(self, passed_over: Mapping[int, str]) -> None:
        """Keep why proposals cannot be evaluated, and say so the first time of each sample."""
        for row, why in passed_over.items():
            if row not in self.passed_over:
                _log.warning("a proposal for sample %d is passed over: %s", row, why)
            self.passed_over[row] = why

    def _still_lost(
        self, state: LoopState, phase: Phase, problem: Problem, asked: Recorder
    ) -> Tensor | None:
        """The samples that a repairing phase still has to move; None in any other phase."""
        if not phase.repairs or state.coarse_best is None:
            return None
        lost = lost_B(state, problem.score_B(asked.at_start()))
        moving_B = still_asked_B(state)
        if moving_B is None:
            return lost
        return lost & moving_B.to(lost.device)

    def _gamma(self, state: LoopState, problem: Problem) -> Tensor | None:
        if not state.history:
            return first_gamma(problem, state.noise_BN)
        return next_gamma(problem, state.history[-1], state.noise_BN)

    def outcome(self, status: Status, error: DNOError | None) -> Outcome:
        """What was reached.

        Raises:
            DNOError: nothing was.
        """
        state = self.state
        if state is None or state.initial is None or state.best is None:
            assert error is not None
            raise error
        failures = {**self._never_evaluated(state), **state.failures}
        if status in (Status.FINISHED, Status.STOPPED) and failures:
            status = Status.PARTIAL
        if status is Status.PARTIAL and len(failures) == len(self.problem.items):
            status = Status.FAILED
            error = RunError("; ".join(dict.fromkeys(failures.values())))
        reached = self._reached(state, self.last)
        return replace(reached, status=status, error=error, failures=failures, reason=self.reason)

    def _reached(self, state: LoopState, last: Snapshot | None) -> Outcome:
        """What a state holds of what was reached."""
        assert state.initial is not None
        assert state.best is not None
        return Outcome(
            status=Status.FINISHED,
            items=tuple(self.problem.items),
            initial=state.initial,
            best=state.best,
            last=last or state.best,
            history=tuple(state.history),
            climbed=tuple(reward.name for reward in self.problem.optimised),
            kept=self._kept(),
            medium=self._medium(state.best),
            folder=self.bus.run.folder,
            peak_memory=peak_memory(state.noise_BN.device),
        )

    def _never_evaluated(self, state: LoopState) -> dict[int, str]:
        """The samples of which no proposal could be evaluated, by row, and why."""
        fine = [record.reward for record in state.history if record.grid is None]
        found = {}
        for row in range(len(state.noise_BN)):
            if fine and all(math.isnan(reward_B[row]) for reward_B in fine):
                found[row] = self.passed_over.get(row, "none of its proposals can be evaluated")
        return found

    def _kept(self) -> Sequence[str]:
        """Figures that a constraint kept by construction in the whole run."""
        moving = [phase for phase in self.phases if not isinstance(phase.optimizer, Stay)]
        if not all(phase.constrained for phase in moving):
            return ()
        return sorted(self.problem.kept)

    def _medium(self, best: Snapshot) -> Medium:
        try:
            return medium_of(self.problem.sample, best.samples)
        except RunError:
            return OTHER


@dataclass(frozen=True)
class _Step:
    """What an iteration led to."""

    state: LoopState
    problem: Problem
    """What was climbed."""
    evaluation: Evaluation
    """At the noise that it started from."""
    here: Snapshot
    """Of that evaluation."""
    healed: bool
    """Whether a repair is done."""
    look: tuple[int, int]
    """Evaluations of the network and calls of rewards, per sample, before any was to move: of a
    repair, its look at what is lost."""


def _checked_step(who: str, answer: object, noise_BN: Tensor) -> tuple[Tensor, State]:
    """What an optimizer's step returned, if it may be."""
    moved_BN: object = None
    memory: object = None
    if isinstance(answer, tuple) and len(answer) == 2:
        moved_BN, memory = answer
    if not isinstance(moved_BN, Tensor) or moved_BN.shape != noise_BN.shape:
        raise RunError(
            f"{who} must return noise of shape {tuple(noise_BN.shape)} and its state; "
            f"got {short(answer)}"
        )
    return moved_BN.detach().clone().to(noise_BN), checked_memory(who, memory)
