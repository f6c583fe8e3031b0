"""One evaluation under way: the samples, what the terms say of them, and the gradients.

The one place where shapes and finiteness of what plugins return are checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from dno.core.terms import Evaluation, RegularizerTerm, RewardTerm, Term
from dno.errors import RunError
from dno.guard import PluginError, failure, guarded
from dno.media import medium_of
from dno.protocols import Penalty, Regularizer, Reward

if TYPE_CHECKING:
    from dno.core.problem import Problem

_STEEP = (
    "look in rewards and regularizers for a root, a log or a quotient at 0, where its slope is "
    "infinite"
)
_SMALLER = "try a smaller learning rate, or float32 in place of a half type"
_UNABLE = "look at the inputs it cannot handle"


class Asking:
    """One evaluation under way: the samples, and the answers so far."""

    def __init__(
        self,
        problem: Problem,
        noise_BN: Tensor,
        generators: Sequence[Generator],
        *,
        with_grad: bool,
        with_pull: bool = False,
        gamma_B: Tensor | None,
        passes_over: bool = False,
        first: bool = False,
    ) -> None:
        self.problem = problem
        self.noise_BN = noise_BN
        self.generators = generators
        self.with_grad = with_grad
        self.with_pull = with_pull
        self.gamma_B = gamma_B
        self.passes_over = passes_over
        """Whether an evaluation of which no sample is left is an answer, and no error."""
        # What raises at once may be no sample's fault: then nothing would ever be evaluated.
        self.passes_errors = passes_over and not first
        self.prompts = [prompt for prompt, _ in problem.items]
        self.batch = len(noise_BN)

        self.rewards: dict[str, Tensor] = {}
        self.monitors: dict[str, Tensor] = {}
        self.penalties: dict[str, Tensor] = {}
        self.log_p: dict[str, Tensor] = {}
        self.figures: dict[str, Tensor] = {}
        self.failures: dict[int, str] = {}

        self.evaluations_a_call = int(getattr(problem.sample, "network_evaluations", 1))
        self.remedy = str(getattr(problem.sample, "remedy", _SMALLER))
        self.network_evaluations = self.evaluations_a_call
        self.reward_calls = 0

    def draw(self) -> None:
        """The samples of this noise."""
        through = self.with_pull or (self.with_grad and self._needs_backward())
        with torch.set_grad_enabled(through):
            # A copy, here and wherever a plugin is shown a tensor: it may write into its own.
            samples = guarded("the sampler", self.problem.sample, self.noise_BN.clone())
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
        self._fail(~finite_B, "the sampler", "its output is not finite", self.remedy)
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
            return guarded(who, call, samples.clone(), list(prompts))
        except PluginError as error:
            # What a plugin raises on purpose concerns the whole run, and so does an end of it.
            first = error.__cause__
            if not isinstance(first, Exception) or (self.batch == 1 and not self.passes_errors):
                raise
        return self._answers_one_by_one(who, call, samples, prompts, first)

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
                answer = guarded(who, call, samples[one].clone(), list(prompts[one]))
                answers.append(self._checked(who, answer, 1))
            except PluginError as error:
                if not isinstance(error.__cause__, Exception):
                    raise
                failures.setdefault(i % self.batch, str(error))
                answers.append(torch.full((1,), math.nan, device=self.device))

        if len(failures) == self.batch and not self.passes_errors:
            raise failure(who, first) from first
        self.failures = {**failures, **self.failures}
        if len(self.failures) == self.batch and not self.passes_over:
            raise RunError("; ".join(self.failures.values()))
        return torch.cat(answers)

    def estimate_ascent(self, reward: RewardTerm) -> None:
        """To a reward without a gradient, an estimate of it; the value stays as it is."""
        who = f'reward "{reward.name}"'
        problem = self.problem

        def draw(rows: Tensor) -> Tensor:
            count = len(rows) // self.batch
            if count > 1 and problem.copies is not None:
                many = guarded("the sampler", problem.copies, count)
                copies = guarded("the sampler", many, rows.clone())
            else:
                parts = torch.split(rows, self.batch)
                drawn = [guarded("the sampler", problem.sample, part.clone()) for part in parts]
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
            noise_BN = self.noise_BN.clone() if exact else self.noise_BN.detach().clone()
            answer = guarded(who, term.call, noise_BN, self.generators)
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
            number = self.problem.number(row)
            self.failures[row] = f"{who}: {what} for sample {number}; {remedy}"
        if new and len(self.failures) == self.batch and not self.passes_over:
            rows = ", ".join(str(self.problem.number(row)) for row in new)
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
                remedy = f"{_STEEP}; or {self.remedy}"
                self._fail(~finite_B, "the objective", "its gradient is not finite", remedy)
            reward_grad_BN = self._without_failed(reward_grad_BN, 0.0)
            penalty_grad_BN = self._without_failed(penalty_grad_BN, 0.0)

        nan = math.nan
        return Evaluation(
            noise_BN=self.noise_BN.detach(),
            samples=self.samples.detach().clone(),
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

    def pull(self, towards: Tensor) -> Tensor:
        """Where a pull on the samples moves the noise; see `dno.protocols.Objective`."""
        towards = towards.detach().to(self.samples)
        (grad_BN,) = guarded(
            "the gradient", torch.autograd.grad, self.samples, (self.noise_BN,), (towards,)
        )
        finite_B = grad_BN.isfinite().all(dim=1)
        grad_BN = grad_BN.where(finite_B[:, None], 0.0)
        return self._without_failed(grad_BN, 0.0)

    def _without_failed(self, values: Tensor, instead: float) -> Tensor:
        """The values, with another number in the rows that could not be evaluated."""
        if not self.failures:
            return values
        rows = torch.tensor(list(self.failures), device=values.device)
        return values.index_fill(0, rows, instead)

    def _gradient(self, value_B: Tensor) -> Tensor:
        if not value_B.requires_grad:
            return torch.zeros_like(self.noise_BN)
        # What plugins computed is gone through backwards, with code of their own in it at times.
        (grad_BN,) = guarded("the gradient", torch.autograd.grad, value_B.sum(), (self.noise_BN,))
        return grad_BN


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
