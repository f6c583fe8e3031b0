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

from dno.errors import DNOError, RunError
from dno.gradients import GradientConfig
from dno.protocols import NoiseMap, Penalty, Regularizer, Reward

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
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
    """The objective without penalties of adapted weight, whose values at two evaluations cannot be compared."""
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
    """The least `log_p` of each sample among the figures that regularizers reported; None where none did."""
    reported = [value for name, value in figures.items() if name == "log_p" or name.endswith(".log_p")]
    return torch.stack(reported).amin(0) if reported else None


def evaluate(
    sample: NoiseMap,
    prompts: Sequence[str],
    rewards: Sequence[Term[Reward]],
    regularizers: Sequence[Term[Regularizer]],
    noise_BN: Tensor,
    generators: Sequence[Generator],
    *,
    copies: Callable[[int], NoiseMap] | None = None,
    gradient: GradientConfig | None = None,
    gamma_B: Tensor | float = 1.0,
    max_grad_norm: float = math.inf,
    with_grad: bool = True,
) -> Evaluation:
    """Evaluate sum_i w_i reward_i(M(z), c) - sum_j v_j penalty_j(z) for each sample.

    The gradient is that of the sum over the batch; samples do not see each other, so row i is the
    gradient of sample i. Each row longer than `max_grad_norm` is scaled down to it.

    Args:
        sample: the sampler, bound to the prompts.
        prompts: c, one a sample.
        rewards: named, weighted; one with weight 0 is reported and not optimised.
        regularizers: likewise.
        noise_BN: where to evaluate, `B x N`.
        generators: one a sample, for the randomness of regularizers and estimates.
        copies: the sampler bound to this many copies of the prompts, one after the other; without it, perturbed copies
            are computed one by one.
        gradient: how to climb rewards that have no gradient.
        gamma_B: factor of the regularizers that hold log P at a target.
        max_grad_norm: bound of each row's gradient norm.
        with_grad: whether to compute the gradient.

    Raises:
        RunError: a plugin returned a wrong shape or type, or something that is not finite.
    """
    noise_BN = noise_BN.detach().requires_grad_(with_grad)
    batch = len(noise_BN)
    exact = any(r.weight and r.differentiable for r in rewards)
    black_boxes = [r for r in rewards if r.weight and not r.differentiable]
    # Zeroth-order estimates go straight into the noise: alone, they need no backward pass through the sampler.
    through = with_grad and bool(exact or (black_boxes and gradient and gradient.through_samples))
    with torch.set_grad_enabled(with_grad):
        with torch.set_grad_enabled(through):
            samples = _call("the sampler", sample, noise_BN)
        if not isinstance(samples, Tensor) or samples.shape[:1] != (batch,) or not samples.is_floating_point():
            raise RunError(
                f"the sampler returned {_described(samples)} for {batch} rows of noise; "
                f"it must return one floating-point sample a row"
            )
        _require_finite("the sampler", "its output", samples, _SMALLER)
        if through and not samples.requires_grad:
            raise RunError("the sampler returned samples that are cut off from the noise, so there is no gradient")
        objective_B = adapted_B = torch.zeros(batch, device=samples.device)
        reward_values, penalties, figures = {}, {}, {}
        per_call = int(getattr(sample, "network_evaluations", 1))
        network_evaluations, reward_calls = per_call, 0
        for reward in rewards:
            moves = bool(reward.weight) and reward.differentiable
            with torch.set_grad_enabled(with_grad and moves):
                who = f'reward "{reward.name}"'
                answer = _call(who, reward.call, samples if moves else samples.detach(), prompts)
                value_B = _checked(who, answer, batch, samples.device)
                if with_grad and moves:
                    _require_graph(who, value_B, "compute it from the images, or set differentiable = False on it")
            reward_values[reward.name] = value_B.detach()
            if reward.weight:
                reward_calls += 1
                objective_B = objective_B + reward.weight * reward.scale * value_B
        for reward in black_boxes if with_grad and gradient else ():
            who = f'reward "{reward.name}"'

            def draw(rows: Tensor) -> Tensor:
                nonlocal network_evaluations
                count = len(rows) // batch
                if count > 1 and copies is not None:
                    drawn = _call("the sampler", copies(count), rows)
                else:
                    drawn = torch.cat([_call("the sampler", sample, part) for part in torch.split(rows, batch)])
                network_evaluations += count * per_call
                return drawn

            def ask(images: Tensor, who: str = who, reward: Term[Reward] = reward) -> Tensor:
                nonlocal reward_calls
                count = len(images) // batch
                answer = _call(who, reward.call, images, list(prompts) * count)
                answer_B = _checked(who, answer, len(images), samples.device)
                reward_calls += count
                return (answer_B.view(count, batch) * reward.scale).flatten()

            assert gradient is not None
            # Scaled before the estimate, which is of one length whatever the reward's unit.
            value_B = reward_values[reward.name] * reward.scale
            ascent_B = gradient.ascent(draw, ask, noise_BN, samples, value_B, generators).to(samples.device)
            objective_B = objective_B + reward.weight * (ascent_B - ascent_B.detach())
        for term in regularizers:
            moves = term.weight != 0
            with torch.set_grad_enabled(with_grad and moves):
                who = f'regularizer "{term.name}"'
                outcome = _call(who, term.call, noise_BN if moves else noise_BN.detach(), generators)
                penalty = outcome if isinstance(outcome, Penalty) else Penalty(outcome, {})
                value_B = _checked(who, penalty.value_B, batch, samples.device)
                if with_grad and moves:
                    _require_graph(who, value_B, "compute it from the noise, or give it weight 0")
            penalties[term.name] = value_B.detach()
            for name, figure_B in penalty.figures.items():
                key = name if name not in figures else f"{term.name}.{name}"
                figures[key] = _checked(f'{who}, figure "{name}",', figure_B, batch, samples.device).detach()
            if moves and term.log_p_target is None:
                objective_B = objective_B - term.weight * term.scale * value_B
            elif moves:
                figures["gamma"] = torch.as_tensor(gamma_B, device=samples.device).expand(batch)
                adapted_B = adapted_B + term.weight * figures["gamma"] * value_B

    grad_BN, grad_norm_B = None, torch.full((batch,), math.nan)
    if with_grad:
        (grad_BN,) = torch.autograd.grad((objective_B - adapted_B).sum(), noise_BN)
        _require_finite("the objective", "its gradient", grad_BN, _SMALLER)
        grad_norm_B = torch.linalg.vector_norm(grad_BN, dim=1)
        tiny = torch.finfo(grad_norm_B.dtype).tiny
        grad_BN = grad_BN * (max_grad_norm / grad_norm_B.clamp_min(tiny)).clamp(max=1)[:, None]
    return Evaluation(
        noise_BN=noise_BN.detach(),
        samples=samples.detach(),
        objective_B=(objective_B - adapted_B).detach(),
        score_B=objective_B.detach(),
        rewards=reward_values,
        penalties=penalties,
        figures=figures,
        grad_BN=grad_BN,
        grad_norm_B=grad_norm_B,
        network_evaluations=network_evaluations,
        reward_calls=reward_calls,
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


def _checked(who: str, value: object, batch: int, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (batch,) or not value.is_floating_point():
        raise RunError(
            f"{who} returned {_described(value)} for a batch of {batch}; it must return {batch} floats, "
            f"one a sample: shape ({batch},)"
        )
    _require_finite(who, "its value", value)
    return value.to(device, torch.promote_types(value.dtype, torch.float32))


def _require_graph(who: str, value_B: Tensor, remedy: str) -> None:
    if not value_B.requires_grad:
        raise RunError(f"{who} gives no gradient, but the optimizer needs one; with torch operations {remedy}")


def _require_finite(who: str, what: str, value: Tensor, remedy: str = "look at the inputs it cannot handle") -> None:
    flat = value.detach().reshape(len(value), -1).isfinite().all(dim=1)
    if not flat.all():
        rows = (~flat).nonzero().flatten().tolist()
        raise RunError(f"{who}: {what} is not finite for sample {', '.join(map(str, rows))}; {remedy}")
