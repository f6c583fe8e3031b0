"""The parts of a run: which optimizer climbs on which time grid, and how noise is handed over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from dno.core.problem import Problem
from dno.core.recorder import rows_where
from dno.core.result import Snapshot, StepRecord
from dno.errors import RunError
from dno.guard import guarded
from dno.protocols import CoarseMap, Objective, Optimizer, State
from dno.wording import short

KEPT: Final = 0.7
"""Share of a coarse gain that has to be there on the fine grid; where it is not, it is repaired."""


@dataclass(frozen=True)
class Phase:
    """A part of a run that one optimizer climbs on one time grid."""

    optimizer: Optimizer
    iterations: int
    name: str = ""
    """What messages call the optimizer."""
    from_best: bool = False
    """Whether it starts at the best noise found before it; else where the phase before it ended."""
    constrained: bool = True
    """Whether the problem's constraints put its noise back."""
    coarse: Coarse | None = None
    """The coarser grid that it climbs on; None: the run's own."""
    repairs: bool = False
    """Whether it moves only samples whose coarse gain was lost at the hand-over, until it is
    back."""

    @property
    def who(self) -> str:
        """The optimizer, in messages."""
        return f'optimizer "{self.name}"' if self.name else "the optimizer"

    @property
    def proposes(self) -> bool:
        """Whether each iteration's noise is a proposal of its own; see `dno.protocols`."""
        return bool(getattr(self.optimizer, "proposes", False))


@dataclass(frozen=True)
class Coarse:
    """A coarser time grid of a run's problem."""

    map: CoarseMap
    problem: Problem
    """The same rewards on the coarser map."""
    steps: int


@dataclass(frozen=True)
class LoopState:
    """Everything that the rest of a run depends on, as it is between two iterations."""

    iteration: int
    """Iterations done, in all phases."""
    noise_BN: Tensor
    """Where the next iteration starts, on its phase's grid."""
    optimizer: State
    """Memory of the phase's optimizer."""
    constraints: State = field(default_factory=dict)
    """What the problem's constraints keep of the noise that the phase started at."""
    phase: int = 0
    """Which of the run's phases it is in."""
    steps: int = 0
    """Steps done in that phase."""
    initial: Snapshot | None = None
    """None before the first evaluation."""
    best: Snapshot | None = None
    """On the run's own grid."""
    coarse_best: Snapshot | None = None
    """On the grid of a coarse phase."""
    fine_BN: Tensor | None = None
    """The noise of the run's own grid at which a coarse phase began."""
    repair_B: Tensor | None = None
    """Samples whose coarse gain was lost and is not back yet."""
    last: Snapshot | None = None
    """The newest evaluation of all samples, while some of them are repaired."""
    history: Sequence[StepRecord] = ()
    failures: Mapping[int, str] = field(default_factory=dict)
    """Samples that could not go on, by row, and why."""
    ended: Mapping[int, int] = field(default_factory=dict)
    """Samples that ended by themselves while others go on, by row, and their last iteration. They
    are asked no more, and stay where they are."""
    seconds: float = 0.0
    """Wall-clock time spent so far."""


class Stay:
    """An optimizer that looks at the noise and leaves it; for the first look at a fine map."""

    def init(self, noise_BN: Tensor, /) -> State:
        """No state."""
        return {}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """The same noise."""
        return noise_BN, state


def problem_of(phase: Phase, problem: Problem) -> Problem:
    """What a phase climbs."""
    return phase.coarse.problem if phase.coarse else problem


def begin(problem: Problem, phases: Sequence[Phase]) -> LoopState:
    """The state before the first iteration."""
    noise_BN = problem.sample.noise_BN
    if problem.start_BN is not None:
        noise_BN = problem.start_BN.to(noise_BN)
    state = LoopState(0, noise_BN, {})
    return _enter(state, None, phases[0], problem)


def next_phase(state: LoopState, problem: Problem, phases: Sequence[Phase]) -> LoopState:
    """The state at the start of the next phase: noise handed over, memory new."""
    before = phases[state.phase]
    following = phases[state.phase + 1]
    moved = replace(state, phase=state.phase + 1, steps=0)
    return _enter(moved, before, following, problem)


def _enter(state: LoopState, before: Phase | None, phase: Phase, problem: Problem) -> LoopState:
    noise_BN = state.noise_BN
    leaves_coarse = before is not None and before.coarse is not phase.coarse
    if phase.from_best or leaves_coarse:
        noise_BN = _best_noise(state, before, noise_BN)

    if phase.from_best and phase.coarse is not None and not leaves_coarse:
        # A search went before it: the climb starts where that ended, on the fine grid too, and is
        # not to be drawn back to where the search began.
        assert state.fine_BN is not None
        fine_BN = phase.coarse.map.refine(state.fine_BN, noise_BN)
        state = replace(state, fine_BN=fine_BN)

    # On the shell of the start: that of the phase, or of the fine noise that a coarse one began at.
    anchor_BN = noise_BN
    if before is not None and before.coarse is not None and leaves_coarse:
        assert state.fine_BN is not None
        anchor_BN = state.fine_BN
        noise_BN = before.coarse.map.refine(state.fine_BN, noise_BN)
    if phase.coarse is not None and (before is None or leaves_coarse):
        state = replace(state, fine_BN=noise_BN, coarse_best=None)
        noise_BN = phase.coarse.map.coarsen(noise_BN)
        anchor_BN = phase.coarse.map.coarsen(anchor_BN)

    kept: dict[str, Tensor] = {}
    if phase.constrained:
        for term in problem_of(phase, problem).constraints:
            who = f'constraint "{term.name}"'
            memory = checked_memory(who, guarded(who, term.call.init, anchor_BN.clone()))
            kept |= {f"{term.name}.{name}": value for name, value in memory.items()}
    state = replace(state, noise_BN=noise_BN, constraints=kept)
    if noise_BN is not anchor_BN:
        state = replace(state, noise_BN=put_back(noise_BN, state, phase, problem, steps=None))
    memory = guarded(phase.who, phase.optimizer.init, state.noise_BN.clone())
    return replace(state, optimizer=checked_memory(phase.who, memory))


def checked_memory(who: str, memory: object) -> State:
    """What a plugin wants to have kept, if that can be saved; copies of it.

    Raises:
        RunError: it is something else than tensors by name.
    """
    if not isinstance(memory, Mapping) or not _all_tensors(memory):
        raise RunError(
            f"{who}: its state must be tensors by name, so that it can be saved; got "
            f"{short(memory)}"
        )
    return {name: value.detach().clone() for name, value in memory.items()}


def _all_tensors(memory: Mapping[object, object]) -> bool:
    return all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in memory.items()
    )


def _best_noise(state: LoopState, before: Phase | None, noise_BN: Tensor) -> Tensor:
    """The best noise found on the grid of the phase before, where a healthy one was found."""
    coarse = before is not None and before.coarse is not None
    best = state.coarse_best if coarse else state.best
    if best is None:
        return noise_BN
    found_B = best.score_B > -math.inf
    return rows_where(found_B, best.noise_BN.to(noise_BN), noise_BN)


def is_put_back(state: LoopState, phase: Phase, problem: Problem) -> bool:
    """Whether an iteration starts at noise that no constraint has yet to put back."""
    if not phase.constrained or not state.steps:
        return True
    constraints = problem_of(phase, problem).constraints
    return all(term.acts_after(state.steps, of=phase.iterations) for term in constraints)


def put_back(
    noise_BN: Tensor, state: LoopState, phase: Phase, problem: Problem, steps: int | None
) -> Tensor:
    """The noise after the constraints that act when so many steps of a phase are done.

    Args:
        noise_BN: what a step returned.
        state: with what the constraints keep.
        phase: whose steps they are.
        problem: the run's, on its own grid.
        steps: None for a hand-over, at which all act.

    Raises:
        RunError: a constraint returned something else than noise of that shape.
    """
    if not phase.constrained:
        return noise_BN
    for term in problem_of(phase, problem).constraints:
        if steps is not None and not term.acts_after(steps, of=phase.iterations):
            continue
        kept = under(f"{term.name}.", state.constraints)
        copies = {name: value.clone() for name, value in kept.items()}
        moved_BN = guarded(f'constraint "{term.name}"', term.call.retract, noise_BN.clone(), copies)
        if not isinstance(moved_BN, Tensor) or moved_BN.shape != noise_BN.shape:
            raise RunError(
                f'constraint "{term.name}" must return noise of shape {tuple(noise_BN.shape)}, '
                f"got {short(moved_BN)}"
            )
        noise_BN = moved_BN.detach().clone().to(noise_BN)
    return noise_BN


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part, by their names there."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def lost_B(state: LoopState, score_B: Tensor) -> Tensor:
    """Samples of which too little of the coarse gain is there on the fine grid.

    Args:
        state: after a coarse phase.
        score_B: what the fine grid scores; -inf where noise is not healthy.
    """
    assert state.initial is not None
    assert state.coarse_best is not None
    coarse = [record for record in state.history if record.grid is not None]
    first_B = torch.tensor(coarse[0].reward).to(score_B)
    gain_B = state.coarse_best.score_B.to(score_B) - first_B
    wanted_B = state.initial.score_B.to(score_B) + KEPT * gain_B.clamp(min=0)
    return (score_B < wanted_B) & (gain_B > 0)
