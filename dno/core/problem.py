"""Weighted rewards less weighted penalties, and the gradient of that with respect to the noise.

The one place where shapes and finiteness of what plugins return are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Generator, Tensor

from dno.core.gradients import GradientConfig
from dno.core.noise import evaluation_generators
from dno.errors import DNOError, RunError
from dno.protocols import NoiseMap, Penalty, Regularizer, Reward

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
_STEEP = (
    "look in rewards and regularizers for a root, a log or a quotient at 0, where its slope "
    "is infinite"
)
_SMALLER = "try a smaller learning rate, or float32 in place of a half type"


@dataclass(frozen=True)
class Term(Generic[T]):
    """One reward or regularizer in the objective."""

    name: str
    call: T
    weight: float = 1.0
    """0: reported, and not optimised."""
    differentiable: bool = True
    scale: Tensor | float = 1.0
    """Another factor, one for all samples or `B` of them."""
    log_p_target: float | None = None
    """Where set, `gamma_B` takes the place of `scale`, to hold log P there."""


@dataclass(frozen=True)
class Evaluation:
    """All that one evaluation of the objective gave; tensors are detached."""

    noise_BN: Tensor
    samples: Tensor
    objective_B: Tensor
    score_B: Tensor
    """The objective without penalties of adapted weight, whose values at two evaluations cannot be
    compared."""
    rewards: Mapping[str, Tensor]
    penalties: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]
    grad_BN: Tensor | None
    """The objective's gradient, each row clipped; None where only the value was asked for."""
    grad_norm_B: Tensor
    """Norm of each row of the gradient before clipping; nan without one."""
    network_evaluations: int
    """Forward passes of the denoising network for each sample."""
    reward_calls: int
    """Times that optimised rewards were asked about each sample."""

    @property
    def log_p_B(self) -> Tensor | None:
        """The least `log_p` that any regularizer reports; None where none does."""
        return lowest_log_p(self.figures)


def lowest_log_p(figures: Mapping[str, Tensor]) -> Tensor | None:
    """The least `log_p` of each sample among the figures that regularizers reported; None where
    none did.
    """
    reported = [
        value for name, value in figures.items() if name == "log_p" or name.endswith(".log_p")
    ]
    return torch.stack(reported).amin(0) if reported else None


@dataclass(frozen=True)
class Problem:
    """What one run climbs: sum_i w_i reward_i(M(z), c) - sum_j v_j penalty_j(z) of each sample."""

    items: Sequence[tuple[str, int]]
    """(prompt, seed) of each sample."""
    sample: NoiseMap
    """The sampler, bound to these items."""
    rewards: Sequence[Term[Reward]]
    regularizers: Sequence[Term[Regularizer]] = ()
    start_BN: Tensor | None = None
    """Where to start; None: at the sampler's own noise."""
    copies: Callable[[int], NoiseMap] | None = None
    """The sampler bound to so many copies of the items, one after the other, for perturbed samples
    side by side; without it they are computed one by one."""
    gradient: GradientConfig | None = None
    """How to climb rewards that have no gradient."""
    max_grad_norm: float = 1.0
    """Bound of the gradient's norm over one sample's whole noise."""
    log_p_floor: float = -math.inf
    """`log_p` under which an evaluation cannot be the best."""

    def evaluate(
        self, noise_BN: Tensor, evaluation: int, *, with_grad: bool, gamma_B: Tensor | float = 1.0
    ) -> Evaluation:
        """The objective at this noise, `B x N`; all randomness is a function of seed and
        `evaluation`.

        The gradient is that of the sum over the batch; samples do not see each other, so row i is
        the gradient of sample i. Each row longer than `max_grad_norm` is scaled down to it.

        Args:
            noise_BN: where to evaluate.
            evaluation: its number.
            with_grad: whether to compute the gradient.
            gamma_B: factor of the regularizers that hold log P at a target.

        Raises:
            RunError: a plugin returned a wrong shape or type, or something that is not finite.
        """
        generators = evaluation_generators([seed for _, seed in self.items], evaluation)
        with torch.set_grad_enabled(with_grad):
            terms = _Terms(self, noise_BN.detach().requires_grad_(with_grad), generators, with_grad)
            for reward in self.rewards:
                terms.add_reward(reward)
            if with_grad and self.gradient:
                for reward in terms.black_boxes:
                    terms.add_ascent(reward, self.gradient)
            for regularizer in self.regularizers:
                terms.add_penalty(regularizer, gamma_B)
        return terms.evaluation()

    def reward_B(self, rewards: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the rewards that are optimised."""
        weighted = [t.weight * t.scale * rewards[t.name] for t in self.rewards if t.weight]
        return (
            torch.stack([torch.as_tensor(value) for value in weighted]).sum(0)
            if weighted
            else torch.tensor(0.0)
        )


class _Terms:
    """One evaluation under way: the sample, and the terms of the objective added to one another."""

    def __init__(
        self, problem: Problem, noise_BN: Tensor, generators: Sequence[Generator], with_grad: bool
    ) -> None:
        self.problem, self.noise_BN, self.generators, self.with_grad = (
            problem,
            noise_BN,
            generators,
            with_grad,
        )
        self.prompts, self.batch = [prompt for prompt, _ in problem.items], len(noise_BN)
        optimised = [reward for reward in problem.rewards if reward.weight]
        self.black_boxes = [reward for reward in optimised if not reward.differentiable]
        # Zeroth-order estimates go straight into the noise: alone, they need no backward pass
        # through the sampler.
        estimated = bool(self.black_boxes and problem.gradient and problem.gradient.through_samples)
        through = with_grad and (estimated or len(self.black_boxes) < len(optimised))
        with torch.set_grad_enabled(through):
            self.samples = _call("the sampler", problem.sample, noise_BN)
        self._check_samples(through)
        self.device = self.samples.device
        self.objective_B = self.adapted_B = torch.zeros(self.batch, device=self.device)
        self.rewards: dict[str, Tensor] = {}
        self.penalties: dict[str, Tensor] = {}
        self.figures: dict[str, Tensor] = {}
        self.per_call = int(getattr(problem.sample, "network_evaluations", 1))
        self.network_evaluations, self.reward_calls = self.per_call, 0

    def _check_samples(self, through: bool) -> None:
        samples: object = self.samples
        if (
            not isinstance(samples, Tensor)
            or samples.shape[:1] != (self.batch,)
            or not samples.is_floating_point()
        ):
            raise RunError(
                f"the sampler returned {_described(samples)} for {self.batch} rows of noise; "
                f"it must return one floating-point sample a row"
            )
        _require_finite("the sampler", "its output", samples, _SMALLER)
        if through and not samples.requires_grad:
            raise RunError(
                "the sampler returned samples that are cut off from the noise, so there is no "
                "gradient"
            )

    def add_reward(self, reward: Term[Reward]) -> None:
        """The reward's value, with its gradient where it has one."""
        moves, who = bool(reward.weight) and reward.differentiable, f'reward "{reward.name}"'
        with torch.set_grad_enabled(self.with_grad and moves):
            answer = _call(
                who, reward.call, self.samples if moves else self.samples.detach(), self.prompts
            )
            value_B = self._checked(who, answer)
            if self.with_grad and moves:
                _require_graph(
                    who, value_B, "compute it from the images, or set differentiable = False on it"
                )
        self.rewards[reward.name] = value_B.detach()
        if reward.weight:
            self.reward_calls += 1
            self.objective_B = self.objective_B + reward.weight * reward.scale * value_B

    def add_ascent(self, reward: Term[Reward], gradient: GradientConfig) -> None:
        """To a reward without a gradient, an estimate of it; the value stays as it is."""
        who, sample, copies = f'reward "{reward.name}"', self.problem.sample, self.problem.copies

        def draw(rows: Tensor) -> Tensor:
            count = len(rows) // self.batch
            if count > 1 and copies is not None:
                drawn = _call("the sampler", copies(count), rows)
            else:
                drawn = torch.cat(
                    [_call("the sampler", sample, part) for part in torch.split(rows, self.batch)]
                )
            self.network_evaluations += count * self.per_call
            return drawn

        def ask(images: Tensor) -> Tensor:
            count = len(images) // self.batch
            answer_B = self._checked(
                who, _call(who, reward.call, images, self.prompts * count), len(images)
            )
            self.reward_calls += count
            return (answer_B.view(count, self.batch) * reward.scale).flatten()

        # Scaled before the estimate, which is of one length whatever the reward's unit.
        value_B = self.rewards[reward.name] * reward.scale
        ascent_B = gradient.ascent(
            draw, ask, self.noise_BN, self.samples, value_B, self.generators
        ).to(self.device)
        self.objective_B = self.objective_B + reward.weight * (ascent_B - ascent_B.detach())

    def add_penalty(self, term: Term[Regularizer], gamma_B: Tensor | float) -> None:
        """The regularizer's penalty, and its figures."""
        moves, who = term.weight != 0, f'regularizer "{term.name}"'
        with torch.set_grad_enabled(self.with_grad and moves):
            outcome = _call(
                who, term.call, self.noise_BN if moves else self.noise_BN.detach(), self.generators
            )
            penalty = outcome if isinstance(outcome, Penalty) else Penalty(outcome, {})
            value_B = self._checked(who, penalty.value_B)
            if self.with_grad and moves:
                _require_graph(who, value_B, "compute it from the noise, or give it weight 0")
        self.penalties[term.name] = value_B.detach()
        for name, figure_B in penalty.figures.items():
            key = name if name not in self.figures else f"{term.name}.{name}"
            self.figures[key] = self._checked(f'{who}, figure "{name}",', figure_B).detach()
        if moves and term.log_p_target is None:
            self.objective_B = self.objective_B - term.weight * term.scale * value_B
        elif moves:
            self.figures["gamma"] = torch.as_tensor(gamma_B, device=self.device).expand(self.batch)
            self.adapted_B = self.adapted_B + term.weight * self.figures["gamma"] * value_B

    def _checked(self, who: str, value: object, count: int | None = None) -> Tensor:
        count = count or self.batch
        if (
            not isinstance(value, Tensor)
            or value.shape != (count,)
            or not value.is_floating_point()
        ):
            raise RunError(
                f"{who} returned {_described(value)} for a batch of {count}; it must return a "
                "torch "
                f"tensor of floats, one a sample: shape ({count},)"
            )
        _require_finite(who, "its value", value)
        return value.to(self.device, torch.promote_types(value.dtype, torch.float32))

    def evaluation(self) -> Evaluation:
        """All of it, with the gradient clipped."""
        grad_BN, grad_norm_B = None, torch.full((self.batch,), math.nan)
        total_B = self.objective_B - self.adapted_B
        if self.with_grad:
            (grad_BN,) = torch.autograd.grad(total_B.sum(), self.noise_BN)
            _require_finite("the objective", "its gradient", grad_BN, f"{_STEEP}; or {_SMALLER}")
            grad_norm_B = torch.linalg.vector_norm(grad_BN, dim=1)
            tiny = torch.finfo(grad_norm_B.dtype).tiny
            grad_BN = (
                grad_BN
                * (self.problem.max_grad_norm / grad_norm_B.clamp_min(tiny)).clamp(max=1)[:, None]
            )
        return Evaluation(
            noise_BN=self.noise_BN.detach(),
            samples=self.samples.detach(),
            objective_B=total_B.detach(),
            score_B=self.objective_B.detach(),
            rewards=self.rewards,
            penalties=self.penalties,
            figures=self.figures,
            grad_BN=grad_BN,
            grad_norm_B=grad_norm_B,
            network_evaluations=self.network_evaluations,
            reward_calls=self.reward_calls,
        )


def _call(who: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except (DNOError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise RunError(f"{who} failed with {type(error).__name__}: {error}") from error


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _require_graph(who: str, value_B: Tensor, remedy: str) -> None:
    if not value_B.requires_grad:
        raise RunError(
            f"{who} gives no gradient, but the optimizer needs one; with torch operations {remedy}"
        )


def _require_finite(
    who: str, what: str, value: Tensor, remedy: str = "look at the inputs it cannot handle"
) -> None:
    flat = value.detach().reshape(len(value), -1).isfinite().all(dim=1)
    if not flat.all():
        rows = (~flat).nonzero().flatten().tolist()
        raise RunError(
            f"{who}: {what} is not finite for sample {', '.join(map(str, rows))}; {remedy}"
        )
