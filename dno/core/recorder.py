"""The objective as an optimizer sees it during one iteration, and the best of what it asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dno.core.noise import evaluation_generators, normal
from dno.core.problem import Problem
from dno.core.result import Snapshot
from dno.core.rows import part_of, widened
from dno.core.terms import Evaluation
from dno.errors import RunError
from dno.protocols import Look, Slopes


class Recorder:
    """An `Objective` that keeps the best evaluation of each sample.

    Args:
        problem: what is asked.
        iteration: its number in the run, which decides all randomness.
        start_BN: the noise where the iteration starts.
        best: the best so far.
        failures: samples that could not be evaluated so far, by row, and why.
        gamma_B: weight of the regularizers that hold log P at a target.
        eligible: whether noise of this iteration may be a run's best; it may not where a constraint
            has yet to put it back.
        proposal: whether this iteration's noise is a proposal that no other goes on from: then a
            sample that cannot be evaluated there is passed over, and does not fail by it.
    """

    def __init__(
        self,
        problem: Problem,
        iteration: int,
        start_BN: Tensor,
        *,
        best: Snapshot | None,
        failures: dict[int, str],
        gamma_B: Tensor | None,
        eligible: bool,
        proposal: bool = False,
    ) -> None:
        self._problem = problem
        self._iteration = iteration
        self._start_BN = start_BN
        self._gamma_B = gamma_B
        self._eligible = eligible
        self._proposal = proposal
        self._calls = 0
        self._draws = 0
        self._at_start: Evaluation | None = None
        self._rows: Sequence[int] = ()
        """The samples that are asked, where these are not all."""
        self._part = problem
        """The problem of these alone."""
        self._known: Evaluation | None = None
        """Of all samples, where not all are asked."""

        self.best = best
        self.failures = failures
        self.passed_over: dict[int, str] = {}
        """Samples that could not be evaluated at this proposal, by row, and why."""
        self.network_evaluations = 0
        self.reward_calls = 0

    def only(self, moving_B: Tensor, known: Evaluation) -> None:
        """Ask about some samples alone from now on; the others stay, and answer as they did.

        Args:
            moving_B: the samples that are asked, at least one of them.
            known: the newest evaluation of all.
        """
        stays_B = ~moving_B.to(self._start_BN.device)
        # Of one that failed there, the noise was put back.
        here = torch.equal(known.noise_BN[stays_B], self._start_BN[stays_B])
        if self._problem.rows is None or not stays_B.any() or not here:
            return
        self._rows = tuple(moving_B.nonzero().flatten().tolist())
        self._part = part_of(self._problem, self._rows)
        self._known = known

    def score(self, noise_BN: Tensor) -> Tensor:
        """See `dno.protocols.Objective`."""
        return self._problem.score_B(self._ask(noise_BN, with_grad=False))

    def look(self, noise_BN: Tensor) -> Look:
        """See `dno.protocols.Objective`."""
        evaluation = self._ask(noise_BN, with_grad=False)
        return Look(self._problem.score_B(evaluation), evaluation.samples)

    def pull(self, noise_BN: Tensor, towards: Tensor) -> Tensor:
        """See `dno.protocols.Objective`."""
        if self._known is None:
            grad_BN, spent = self._problem.pull(noise_BN, towards)
        else:
            rows = list(self._rows)
            of_rows_BN, spent = self._part.pull(noise_BN[rows], towards[rows])
            grad_BN = torch.zeros_like(noise_BN)
            grad_BN[rows] = of_rows_BN
        self.network_evaluations += spent
        return grad_BN

    def value(self, noise_BN: Tensor) -> Tensor:
        """See `dno.protocols.Objective`."""
        return _never_better(self._ask(noise_BN, with_grad=False).objective_B)

    def value_and_grad(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        """See `dno.protocols.Objective`."""
        evaluation = self._ask(noise_BN, with_grad=True)
        clipped_BN, _ = self._problem.clipped(evaluation.grad_BN())
        return _never_better(evaluation.objective_B), clipped_BN

    def slopes(self, noise_BN: Tensor) -> Slopes:
        """See `dno.protocols.Objective`."""
        evaluation = self._ask(noise_BN, with_grad=True)
        assert evaluation.reward_grad_BN is not None
        assert evaluation.penalty_grad_BN is not None
        return Slopes(
            reward_B=_never_better(evaluation.reward_B),
            reward_grad_BN=evaluation.reward_grad_BN,
            penalty_B=evaluation.penalty_B.nan_to_num(nan=0.0),
            penalty_grad_BN=evaluation.penalty_grad_BN,
        )

    def gaussian(self) -> Tensor:
        """See `dno.protocols.Objective`."""
        # Evaluations count from below, draws of the optimizer's own from above: no number is used
        # for both.
        self._draws += 1
        number = ((self._iteration + 1) << 20) - self._draws
        seeds = [seed for _, seed in self._problem.items]
        shape = self._start_BN.shape[1:]
        generators = evaluation_generators(seeds, number)
        rows = [normal(shape, generator) for generator in generators]
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
        evaluation = self._evaluate(noise_BN, number, with_grad=with_grad)
        self.network_evaluations += evaluation.network_evaluations
        self.reward_calls += evaluation.reward_calls
        noted = self.passed_over if self._proposal else self.failures
        for row, why in evaluation.failures.items():
            noted.setdefault(row, why)

        new = snapshot(self._problem, evaluation, self._iteration)
        if not self._eligible:
            new = replace(new, score_B=torch.full_like(new.score_B, -math.inf))
        self.best = better(self.best, new)
        at_start = torch.equal(evaluation.noise_BN, self._start_BN)
        if self._at_start is None and at_start:
            self._at_start = evaluation
        return evaluation

    def _evaluate(self, noise_BN: Tensor, number: int, *, with_grad: bool) -> Evaluation:
        if self._known is None:
            return self._problem.evaluate(
                noise_BN,
                number,
                with_grad=with_grad,
                gamma_B=self._gamma_B,
                passes_over=self._proposal,
            )

        rows = list(self._rows)
        gamma_B = self._gamma_B
        found = self._part.evaluate(
            noise_BN[rows],
            number,
            with_grad=with_grad,
            gamma_B=None if gamma_B is None else gamma_B[rows],
            # Where all of these fail there are others that do not.
            passes_over=True,
        )
        return widened(self._known, found, self._rows)


def _never_better(value_B: Tensor) -> Tensor:
    """Values as optimizers see them: a sample that could not be evaluated is worse than any."""
    return value_B.nan_to_num(nan=-math.inf)


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


def better(best: Snapshot | None, new: Snapshot) -> Snapshot:
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
        {name: rows_where(wins_B, ours[name], theirs[name].to(ours[name])) for name in ours}
    )


def rows_where(chosen_B: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Rows of the first where chosen, of the second elsewhere."""
    rows = chosen_B.to(first.device).view(-1, *[1] * (first.dim() - 1))
    return torch.where(rows, first, second)
