"""What one run climbs: weighted rewards less weighted penalties, and the gradients of both.

The one place where shapes and finiteness of what plugins return are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Generator, Tensor

from dno.core.gradients import GradientConfig
from dno.core.noise import evaluation_generators
from dno.errors import DNOError, RunError
from dno.media import medium_of
from dno.protocols import Constraint, NoiseMap, Penalty, Regularizer, Reward

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

_STEEP = (
    "look in rewards and regularizers for a root, a log or a quotient at 0, where its slope is "
    "infinite"
)
_SMALLER = "try a smaller learning rate, or float32 in place of a half type"
_UNABLE = "look at the inputs it cannot handle"


@dataclass(frozen=True)
class Term(Generic[T]):
    """Something that is asked at every evaluation, and the name of its answers in records."""

    name: str
    call: T


@dataclass(frozen=True)
class RewardTerm(Term[Reward]):
    """A reward in the objective."""

    weight: float = 1.0
    """0: reported, and not climbed."""
    differentiable: bool = True
    scale: Tensor | float = 1.0
    """Another factor, one for all samples or `B` of them."""


@dataclass(frozen=True)
class RegularizerTerm(Term[Regularizer]):
    """A penalty in the objective."""

    weight: float = 1.0
    """0: reported, and not taken off."""
    log_p_target: float | None = None
    """Where set, `gamma_B` is another factor of the weight, which holds log P there."""


@dataclass(frozen=True)
class ConstraintTerm(Term[Constraint]):
    """What puts noise back after steps."""

    every: int = 1
    """Steps from one time to the next; 0: once, after the last."""

    def acts_after(self, steps: int, of: int) -> bool:
        """Whether noise is put back when so many of the steps of a phase are done."""
        if not self.every:
            return steps == of
        return steps % self.every == 0 or steps == of


@dataclass(frozen=True)
class Evaluation:
    """All that one evaluation of the objective gave; tensors are detached."""

    noise_BN: Tensor
    samples: Tensor
    reward_B: Tensor
    """Weighted sum of the rewards that are climbed."""
    penalty_B: Tensor
    """Weighted sum of the penalties that are taken off."""
    rewards: Mapping[str, Tensor]
    monitors: Mapping[str, Tensor]
    penalties: Mapping[str, Tensor]
    log_p: Mapping[str, Tensor]
    """By the regularizer that reports it."""
    gamma_B: Tensor | None
    """Weight of the penalties that hold log P at a target."""
    figures: Mapping[str, Tensor]
    reward_grad_BN: Tensor | None
    """None where only the value was asked for."""
    penalty_grad_BN: Tensor | None
    failures: Mapping[int, str]
    """Why rows could not be evaluated; their values are nan and their gradients 0."""
    network_evaluations: int
    """Forward passes of the denoising network per sample."""
    reward_calls: int
    """Times that optimised rewards were asked about each sample."""

    @property
    def objective_B(self) -> Tensor:
        """Rewards less penalties."""
        return self.reward_B - self.penalty_B

    @property
    def log_p_B(self) -> Tensor | None:
        """The least log P that any regularizer reports; None where none does."""
        return torch.stack(list(self.log_p.values())).amin(0) if self.log_p else None

    def grad_BN(self) -> Tensor:
        """The objective's gradient, unclipped."""
        assert self.reward_grad_BN is not None
        assert self.penalty_grad_BN is not None
        return self.reward_grad_BN - self.penalty_grad_BN


@dataclass(frozen=True)
class Problem:
    """What one run climbs: sum_i w_i reward_i(M(z), c) - sum_j v_j penalty_j(z) of each sample."""

    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    sample: NoiseMap
    """The sampler, bound to these items."""
    rewards: Sequence[RewardTerm]
    monitors: Sequence[Term[Reward]] = ()
    """Rewards that are watched and never climbed."""
    regularizers: Sequence[RegularizerTerm] = ()
    reports: Sequence[Term[Regularizer]] = ()
    """Regularizers whose figures are reported and whose penalties count for nothing."""
    constraints: Sequence[ConstraintTerm] = ()
    """What puts noise back after steps, one after the other."""
    start_BN: Tensor | None = None
    """Where to start; None: at the sampler's own noise."""
    copies: Callable[[int], NoiseMap] | None = None
    """The sampler bound to so many copies of the items, one after the other, for perturbed copies
    side by side; without it they are computed one by one."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """How to climb rewards that have no gradient."""
    max_grad_norm: float = 1.0
    """Bound of the gradient's norm over one sample's whole noise."""
    log_p_floor: float = -math.inf
    """log P under which an evaluation cannot be the best."""

    @property
    def optimised(self) -> Sequence[RewardTerm]:
        """The rewards that are climbed."""
        return [reward for reward in self.rewards if reward.weight]

    def evaluate(
        self,
        noise_BN: Tensor,
        evaluation: int,
        *,
        with_grad: bool,
        gamma_B: Tensor | None = None,
    ) -> Evaluation:
        """The objective at this noise, `B x N`.

        All randomness is a function of seed and `evaluation`. Gradients are those of the sum over
        the batch; samples do not see each other, so row i is the gradient of sample i.

        Args:
            noise_BN: where to evaluate.
            evaluation: its number.
            with_grad: whether to compute the gradients.
            gamma_B: weight of the regularizers that hold log P at a target; None: 1.

        Raises:
            RunError: a plugin returned a wrong shape or type, or no sample could be evaluated.
        """
        seeds = [seed for _, seed in self.items]
        generators = evaluation_generators(seeds, evaluation)
        with torch.set_grad_enabled(with_grad):
            leaf_BN = noise_BN.detach().requires_grad_(with_grad)
            asked = _Asked(self, leaf_BN, generators, with_grad=with_grad, gamma_B=gamma_B)
            asked.draw()

            for reward in self.rewards:
                asked.ask_reward(reward)
            if with_grad:
                for reward in self.optimised:
                    if not reward.differentiable:
                        asked.estimate_ascent(reward)
            for monitor in self.monitors:
                asked.ask_monitor(monitor)

            for regularizer in self.regularizers:
                asked.ask_regularizer(regularizer)
            for report in self.reports:
                asked.ask_report(report)
        return asked.evaluation()

    def clipped(self, grad_BN: Tensor) -> tuple[Tensor, Tensor]:
        """A gradient, its rows scaled down to `max_grad_norm`, and their norms before."""
        norm_B = torch.linalg.vector_norm(grad_BN, dim=1)
        tiny = torch.finfo(norm_B.dtype).tiny
        factor_B = (self.max_grad_norm / norm_B.clamp_min(tiny)).clamp(max=1)
        return grad_BN * factor_B[:, None], norm_B

    def healthy_B(self, evaluation: Evaluation) -> Tensor:
        """Which samples may be a run's best: log P above the floor, and evaluated at all."""
        evaluated_B = torch.ones_like(evaluation.reward_B, dtype=torch.bool)
        evaluated_B[list(evaluation.failures)] = False
        log_p_B = evaluation.log_p_B
        if log_p_B is None:
            return evaluated_B
        return evaluated_B & (log_p_B >= self.log_p_floor)

    def score_B(self, evaluation: Evaluation) -> Tensor:
        """What candidates are compared by: the weighted rewards, -inf for one that is not healthy.

        Penalties do not count, except where they are all that there is to climb.
        """
        scored_B = evaluation.reward_B if self.optimised else -evaluation.penalty_B
        return scored_B.where(self.healthy_B(evaluation), -math.inf)


class _Asked:
    """One evaluation under way: the samples, and the answers so far."""

    def __init__(
        self,
        problem: Problem,
        noise_BN: Tensor,
        generators: Sequence[Generator],
        *,
        with_grad: bool,
        gamma_B: Tensor | None,
    ) -> None:
        self.problem = problem
        self.noise_BN = noise_BN
        self.generators = generators
        self.with_grad = with_grad
        self.gamma_B = gamma_B
        self.prompts = [prompt for prompt, _ in problem.items]
        self.batch = len(noise_BN)

        self.rewards: dict[str, Tensor] = {}
        self.monitors: dict[str, Tensor] = {}
        self.penalties: dict[str, Tensor] = {}
        self.log_p: dict[str, Tensor] = {}
        self.figures: dict[str, Tensor] = {}
        self.failures: dict[int, str] = {}

        self.evaluations_a_call = int(getattr(problem.sample, "network_evaluations", 1))
        self.network_evaluations = self.evaluations_a_call
        self.reward_calls = 0

    def draw(self) -> None:
        """The samples of this noise."""
        through = self.with_grad and self._needs_backward()
        with torch.set_grad_enabled(through):
            samples = _call("the sampler", self.problem.sample, self.noise_BN)
        self._check_samples(samples, through)

        self.samples = self._finite(samples)
        self.device = samples.device
        self.reward_B = torch.zeros(self.batch, device=self.device)
        self.penalty_B = torch.zeros(self.batch, device=self.device)

    def _needs_backward(self) -> bool:
        """Whether a gradient goes back through the sampler.

        Estimates in the noise itself need none.
        """
        optimised = self.problem.optimised
        exact = any(reward.differentiable for reward in optimised)
        return exact or (bool(optimised) and self.problem.gradient.through_samples)

    def _check_samples(self, samples: object, through: bool) -> None:
        right = (
            isinstance(samples, Tensor)
            and samples.shape[:1] == (self.batch,)
            and samples.is_floating_point()
        )
        if not right:
            raise RunError(
                f"the sampler returned {_described(samples)} for {self.batch} rows of noise; "
                f"it must return one floating-point sample a row"
            )
        assert isinstance(samples, Tensor)
        if through and not samples.requires_grad:
            raise RunError(
                "the sampler returned samples that are cut off from the noise, so there is no "
                "gradient"
            )
        medium_of(self.problem.sample, samples)

    def _finite(self, samples: Tensor) -> Tensor:
        """Samples of some copies of the batch, 0 where one is not finite; its row has failed."""
        finite = samples.detach().flatten(1).isfinite().all(dim=1)
        if finite.all():
            return samples
        finite_B = finite.view(-1, self.batch).all(dim=0)
        self._fail(~finite_B, "the sampler", "its output is not finite", _SMALLER)
        # Rewards must not meet what is not a picture; these rows' answers are not used.
        return samples.where(finite.view(-1, *[1] * (samples.dim() - 1)), 0.0)

    def ask_reward(self, reward: RewardTerm) -> None:
        """The reward's value, with its gradient where it has one and is climbed."""
        exact = self.with_grad and bool(reward.weight) and reward.differentiable
        who = f'reward "{reward.name}"'
        value_B = self._reward_value(who, reward.call, exact)
        self.rewards[reward.name] = value_B.detach()
        if reward.weight:
            self.reward_calls += 1
            self.reward_B = self.reward_B + reward.weight * reward.scale * value_B

    def ask_monitor(self, monitor: Term[Reward]) -> None:
        """The monitor's value."""
        value_B = self._reward_value(f'monitor "{monitor.name}"', monitor.call, exact=False)
        self.monitors[monitor.name] = value_B.detach()

    def _reward_value(self, who: str, call: Reward, exact: bool) -> Tensor:
        with torch.set_grad_enabled(exact):
            samples = self.samples if exact else self.samples.detach()
            answer = self._answer_of(who, call, samples, self.prompts)
            value_B = self._checked(who, answer, self.batch)
            if exact and not value_B.requires_grad:
                raise RunError(
                    f"{who} gives no gradient, but the optimizer needs one; with torch operations "
                    "compute it from the images, or set differentiable = False on it"
                )
        return self._require_finite(who, value_B)

    def _answer_of(self, who: str, call: Reward, samples: Tensor, prompts: Sequence[str]) -> object:
        """What a reward says of samples; where it fails, it is asked about each alone."""
        try:
            return call(samples, prompts)
        except (DNOError, torch.OutOfMemoryError):
            # What a plugin raises on purpose concerns the whole run.
            raise
        except Exception as error:
            if self.batch == 1:
                raise _failed(who, error) from error
            return self._answers_one_by_one(who, call, samples, prompts, error)

    def _answers_one_by_one(
        self,
        who: str,
        call: Reward,
        samples: Tensor,
        prompts: Sequence[str],
        first: Exception,
    ) -> Tensor:
        """A failing reward's answers, nan for the samples that it fails for.

        Args:
            who: the reward, in messages.
            call: it.
            samples: of some copies of the batch.
            prompts: theirs.
            first: what it said of all together.

        Raises:
            RunError: it fails for every row of the batch.
        """
        answers: list[Tensor] = []
        failures: dict[int, str] = {}
        for i in range(len(samples)):
            one = slice(i, i + 1)
            try:
                answer = call(samples[one], prompts[one])
                answers.append(self._checked(who, answer, 1))
            except (DNOError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                failures.setdefault(i % self.batch, str(_failed(who, error)))
                answers.append(torch.full((1,), math.nan, device=self.device))

        if len(failures) == self.batch:
            raise _failed(who, first) from first
        self.failures = {**failures, **self.failures}
        if len(self.failures) == self.batch:
            raise RunError("; ".join(self.failures.values()))
        return torch.cat(answers)

    def estimate_ascent(self, reward: RewardTerm) -> None:
        """To a reward without a gradient, an estimate of it; the value stays as it is."""
        who = f'reward "{reward.name}"'
        problem = self.problem

        def draw(rows: Tensor) -> Tensor:
            count = len(rows) // self.batch
            if count > 1 and problem.copies is not None:
                copies = _call("the sampler", problem.copies(count), rows)
            else:
                parts = torch.split(rows, self.batch)
                drawn = [_call("the sampler", problem.sample, part) for part in parts]
                copies = torch.cat(drawn)
            # Not before they are there: those that do not fit in memory are tried again.
            self.network_evaluations += count * self.evaluations_a_call
            return self._finite(copies)

        def ask(images: Tensor) -> Tensor:
            count = len(images) // self.batch
            answer = self._answer_of(who, reward.call, images, self.prompts * count)
            self.reward_calls += count
            value = self._checked(who, answer, len(images)).view(count, self.batch)
            finite_B = value.isfinite().all(dim=0)
            if not finite_B.all():
                self._fail(~finite_B, who, "its value is not finite", _UNABLE)
            return (value * reward.scale).flatten()

        # Scaled before the estimate, which is of one length whatever the reward's unit.
        value_B = self.rewards[reward.name] * reward.scale
        ascent_B = problem.gradient.ascent(
            draw, ask, self.noise_BN, self.samples, value_B, self.generators
        ).to(self.device)
        self.reward_B = self.reward_B + reward.weight * (ascent_B - ascent_B.detach())

    def ask_regularizer(self, term: RegularizerTerm) -> None:
        """The regularizer's penalty and what it reports."""
        value_B = self._penalty(term, exact=self.with_grad and term.weight != 0)
        if not term.weight:
            return
        if term.log_p_target is None:
            self.penalty_B = self.penalty_B + term.weight * value_B
            return
        if self.gamma_B is None:
            self.gamma_B = torch.ones(self.batch)
        self.gamma_B = self.gamma_B.to(self.device)
        self.penalty_B = self.penalty_B + term.weight * self.gamma_B * value_B

    def ask_report(self, term: Term[Regularizer]) -> None:
        """What the regularizer reports."""
        self._penalty(term, exact=False)

    def _penalty(self, term: Term[Regularizer], exact: bool) -> Tensor:
        who = f'regularizer "{term.name}"'
        with torch.set_grad_enabled(exact):
            noise_BN = self.noise_BN if exact else self.noise_BN.detach()
            answer = _call(who, term.call, noise_BN, self.generators)
            penalty = answer if isinstance(answer, Penalty) else Penalty(answer)
            value_B = self._checked(who, penalty.value_B, self.batch)
            if exact and not value_B.requires_grad:
                raise RunError(
                    f"{who} gives no gradient, but the optimizer needs one; with torch operations "
                    "compute it from the noise, or give it weight 0"
                )
            value_B = self._require_finite(who, value_B)
        self.penalties[term.name] = value_B.detach()

        if penalty.log_p_B is not None:
            self.log_p[term.name] = self._reported(f"{who}, log P,", penalty.log_p_B)
        for name, figure_B in penalty.figures.items():
            # Two plugins may report figures of one name.
            key = f"{term.name}.{name}" if name in self.figures else name
            self.figures[key] = self._reported(f'{who}, figure "{name}",', figure_B)
        return value_B

    def _reported(self, who: str, value: object) -> Tensor:
        return self._require_finite(who, self._checked(who, value, self.batch)).detach()

    def _checked(self, who: str, value: object, count: int) -> Tensor:
        right = isinstance(value, Tensor) and value.shape == (count,) and value.is_floating_point()
        if not right:
            raise RunError(
                f"{who} returned {_described(value)} for a batch of {count}; it must return a "
                f"torch tensor of floats, one a sample: shape ({count},)"
            )
        assert isinstance(value, Tensor)
        return value.to(self.device, torch.promote_types(value.dtype, torch.float32))

    def _require_finite(self, who: str, value_B: Tensor) -> Tensor:
        finite_B = value_B.detach().isfinite()
        if not finite_B.all():
            self._fail(~finite_B, who, "its value is not finite", _UNABLE)
        return value_B

    def _fail(self, bad_B: Tensor, who: str, what: str, remedy: str) -> None:
        """Note the samples that cannot be evaluated; raise where that leaves none."""
        new = [row for row in bad_B.nonzero().flatten().tolist() if row not in self.failures]
        for row in new:
            self.failures[row] = f"{who}: {what} for sample {row}; {remedy}"
        if new and len(self.failures) == self.batch:
            rows = ", ".join(map(str, new))
            raise RunError(f"{who}: {what} for sample {rows}; {remedy}")

    def evaluation(self) -> Evaluation:
        """All of it, with the gradients."""
        reward_grad_BN: Tensor | None = None
        penalty_grad_BN: Tensor | None = None
        if self.with_grad:
            reward_grad_BN = self._gradient(self.reward_B)
            penalty_grad_BN = self._gradient(self.penalty_B)
            finite_B = (reward_grad_BN.isfinite() & penalty_grad_BN.isfinite()).all(dim=1)
            if not finite_B.all():
                remedy = f"{_STEEP}; or {_SMALLER}"
                self._fail(~finite_B, "the objective", "its gradient is not finite", remedy)
            reward_grad_BN = self._without_failed(reward_grad_BN, 0.0)
            penalty_grad_BN = self._without_failed(penalty_grad_BN, 0.0)

        nan = math.nan
        return Evaluation(
            noise_BN=self.noise_BN.detach(),
            samples=self.samples.detach(),
            reward_B=self._without_failed(self.reward_B.detach(), nan),
            penalty_B=self._without_failed(self.penalty_B.detach(), nan),
            rewards={k: self._without_failed(v, nan) for k, v in self.rewards.items()},
            monitors={k: self._without_failed(v, nan) for k, v in self.monitors.items()},
            penalties=self.penalties,
            log_p=self.log_p,
            gamma_B=self.gamma_B,
            figures=self.figures,
            reward_grad_BN=reward_grad_BN,
            penalty_grad_BN=penalty_grad_BN,
            failures=self.failures,
            network_evaluations=self.network_evaluations,
            reward_calls=self.reward_calls,
        )

    def _without_failed(self, values: Tensor, instead: float) -> Tensor:
        """The values, with another number in the rows that could not be evaluated."""
        if not self.failures:
            return values
        rows = torch.tensor(list(self.failures), device=values.device)
        return values.index_fill(0, rows, instead)

    def _gradient(self, value_B: Tensor) -> Tensor:
        if not value_B.requires_grad:
            return torch.zeros_like(self.noise_BN)
        (grad_BN,) = torch.autograd.grad(value_B.sum(), self.noise_BN)
        return grad_BN


def _call(who: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except (DNOError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _failed(who, error) from error


def _failed(who: str, error: Exception) -> RunError:
    return RunError(f"{who} failed with {type(error).__name__}: {error}")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
