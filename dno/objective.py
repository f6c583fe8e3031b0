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
    differentiable: bool = True


@dataclass(frozen=True)
class Evaluation:
    """All that one evaluation of the objective gave; tensors are detached."""

    noise_BN: Tensor
    samples: Tensor
    objective_B: Tensor
    rewards: Mapping[str, Tensor]
    penalties: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]
    grad_BN: Tensor | None
    """The objective's gradient, each row clipped; None where only the value was asked for."""
    grad_norm_B: Tensor
    """Norm of each row of the gradient before clipping; nan without one."""

    @property
    def log_p_B(self) -> Tensor | None:
        """The least `log_p` that any regularizer reports; None where none does."""
        reported = [v for k, v in self.figures.items() if k == "log_p" or k.endswith(".log_p")]
        return torch.stack(reported).amin(0) if reported else None


def evaluate(
    sample: NoiseMap,
    prompts: Sequence[str],
    rewards: Sequence[Term[Reward]],
    regularizers: Sequence[Term[Regularizer]],
    noise_BN: Tensor,
    generators: Sequence[Generator],
    *,
    gradient: GradientConfig | None = None,
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
        gradient: how to climb rewards that have no gradient.
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
    through = with_grad and bool(exact or (black_boxes and gradient and gradient.method != "zo"))
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
        objective_B = torch.zeros(batch, device=samples.device)
        reward_values, penalties, figures = {}, {}, {}
        for reward in rewards:
            moves = bool(reward.weight) and reward.differentiable
            with torch.set_grad_enabled(with_grad and moves):
                who = f'reward "{reward.name}"'
                answer = _call(who, reward.call, samples if moves else samples.detach(), prompts)
                value_B = _checked(who, answer, batch, samples.device)
                if with_grad and moves and not value_B.requires_grad:
                    raise RunError(
                        f"{who} gives no gradient for the samples, but the optimizer needs one; compute it "
                        f"with torch operations on the images, or set differentiable = False on it"
                    )
            reward_values[reward.name] = value_B.detach()
            if reward.weight:
                objective_B = objective_B + reward.weight * value_B
        for reward in black_boxes if with_grad and gradient else ():
            who = f'reward "{reward.name}"'

            def ask(images: Tensor, who: str = who, call: Reward = reward.call) -> Tensor:
                return _checked(who, _call(who, call, images, prompts), batch, samples.device)

            assert gradient is not None
            ascent_B = gradient.ascent(sample, ask, noise_BN, samples, reward_values[reward.name], generators)
            objective_B = objective_B + reward.weight * (ascent_B - ascent_B.detach())
        for term in regularizers:
            moves = term.weight != 0
            with torch.set_grad_enabled(with_grad and moves):
                who = f'regularizer "{term.name}"'
                outcome = _call(who, term.call, noise_BN if moves else noise_BN.detach(), generators)
                penalty = outcome if isinstance(outcome, Penalty) else Penalty(outcome, {})
                value_B = _checked(who, penalty.value_B, batch, samples.device)
            penalties[term.name] = value_B.detach()
            for name, figure_B in penalty.figures.items():
                key = name if name not in figures else f"{term.name}.{name}"
                figures[key] = _checked(f'{who}, figure "{name}",', figure_B, batch, samples.device).detach()
            if moves:
                objective_B = objective_B - term.weight * value_B

    grad_BN, grad_norm_B = None, torch.full((batch,), math.nan)
    if with_grad:
        (grad_BN,) = torch.autograd.grad(objective_B.sum(), noise_BN)
        _require_finite("the objective", "its gradient", grad_BN, _SMALLER)
        grad_norm_B = torch.linalg.vector_norm(grad_BN, dim=1)
        tiny = torch.finfo(grad_norm_B.dtype).tiny
        grad_BN = grad_BN * (max_grad_norm / grad_norm_B.clamp_min(tiny)).clamp(max=1)[:, None]
    return Evaluation(
        noise_BN=noise_BN.detach(),
        samples=samples.detach(),
        objective_B=objective_B.detach(),
        rewards=reward_values,
        penalties=penalties,
        figures=figures,
        grad_BN=grad_BN,
        grad_norm_B=grad_norm_B,
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


def _require_finite(who: str, what: str, value: Tensor, remedy: str = "look at the inputs it cannot handle") -> None:
    flat = value.detach().reshape(len(value), -1).isfinite().all(dim=1)
    if not flat.all():
        rows = (~flat).nonzero().flatten().tolist()
        raise RunError(f"{who}: {what} is not finite for sample {', '.join(map(str, rows))}; {remedy}")
