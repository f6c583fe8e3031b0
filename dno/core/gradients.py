"""Directions of ascent for rewards that have no gradient (paper, section 4; here maximising).

With M the sampler, z the noise, x = M(z), q copies, xi ~ N(0, I), mu the perturbation's size and b
a baseline:

    zo         g = mean of (r(M(z + mu xi)) - b) xi / mu                        in the noise
    hybrid-1   g = mean of (r(x + mu xi) - b) xi / mu                           in the samples
    hybrid-2   g = mean of (r(M(z + mu xi)) - b) (M(z + mu xi) - x)             in the samples

An estimate in the samples goes on to the noise by the exact gradient of M. What is climbed is
g / (|g| + 1e-3), as in the authors' code.

The paper's b is r(x). What all copies lose or gain alike then stays in the estimate, times the mean
of q random directions, which leads nowhere. To second order, with a the gradient and H the Hessian,

    r(z + mu xi) - r(z) = mu a.xi + mu^2 xi.H xi / 2

so that where any perturbation costs more than its direction gains, mu |tr H| > 2 |a|, most of g is
that. Two baselines take it out:

    copies     b = the mean of the other copies' rewards. The expectation of g stays the paper's.
               Where r is linear the variance is q / (q - 1) times the paper's.
    pairs      copies come as xi and -xi, and b is the mean of the two (antithetic pairs): all even
               terms fall out. Where r is linear the variance is twice the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dno.core.noise import normal
from dno.errors import ConfigError
from dno.guard import out_of_memory

if TYPE_CHECKING:
    from torch import Generator, Tensor


Estimate = Literal["hybrid-2", "hybrid-1", "zo"]
Baseline = Literal["copies", "pairs", "start"]

_ESTIMATES: Final[dict[str, Estimate]] = {
    "auto": "hybrid-2",
    "hybrid-2": "hybrid-2",
    "hybrid-1": "hybrid-1",
    "zo": "zo",
    # Rewards without a gradient are refused before this is asked for them.
    "exact": "hybrid-2",
}


class GradientConfig(BaseModel):
    """How rewards without a gradient are climbed; the others always have their exact one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    method: Literal["auto", "hybrid-2", "hybrid-1", "zo", "exact"] = "auto"
    """`hybrid-2` perturbs the noise, so that what the reward sees are samples of the model;
    `hybrid-1` perturbs the samples; `zo` perturbs the noise and needs no backward pass for it;
    `exact` refuses rewards without a gradient; `auto` is exact for rewards that have a gradient, as
    all are, and `hybrid-2` for the others."""
    samples: Annotated[int, Field(ge=1)] = 4
    """Perturbed copies at each evaluation (q), each asking the reward once."""
    size: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of the perturbation (mu); 0.01 in the paper."""
    baseline: Baseline = "copies"
    """What a copy's reward is compared with: `copies`, the mean of the other copies; `pairs`, the
    mean of the copy and its mirror image, for which `samples` must be even; `start`, the reward of
    the sample itself, as in the paper. One copy alone is always compared with the sample."""
    chunk: Annotated[int | None, Field(ge=1)] = None
    """Perturbed copies of all samples that are computed side by side, without a graph; all of them
    if not given. Where they do not fit in memory, half as many are tried."""

    @model_validator(mode="after")
    def _whole_pairs(self) -> Self:
        if self.baseline == "pairs" and self.samples % 2:
            raise ConfigError(
                f"must be even for a baseline of pairs, got {self.samples}", at="samples"
            )
        return self

    @property
    def estimate(self) -> Estimate:
        """Which of the three formulas stands for the gradient of a reward that has none."""
        return _ESTIMATES[self.method]

    @property
    def through_samples(self) -> bool:
        """Whether an estimate goes back through the sampler."""
        return self.estimate != "zo"

    def ascent(
        self,
        sample: Callable[[Tensor], Tensor],
        reward: Callable[[Tensor], Tensor],
        noise_BN: Tensor,
        samples: Tensor,
        value_B: Tensor,
        generators: Sequence[Generator],
    ) -> Tensor:
        """`B` numbers whose gradient in the noise is the estimated direction of ascent.

        Their values mean nothing.

        Args:
            sample: M for c copies of the batch, `(c B) x N -> (c B) x ...`; called without a graph.
            reward: `(c B) x ... -> (c B)`, one reward without a gradient, unweighted.
            noise_BN: z, with a graph.
            samples: M(z), with a graph.
            value_B: the reward at z.
            generators: one a sample, for its perturbations.
        """
        import torch

        estimated = noise_BN if self.estimate == "zo" else samples
        with torch.no_grad():
            found = self.estimated(sample, reward, noise_BN, samples, value_B, generators)
            direction = found.flatten(1)
            direction /= torch.linalg.vector_norm(direction, dim=1, keepdim=True) + 1e-3
        return (direction * estimated.flatten(1)).sum(1)

    def estimated(
        self,
        sample: Callable[[Tensor], Tensor],
        reward: Callable[[Tensor], Tensor],
        noise_BN: Tensor,
        samples: Tensor,
        value_B: Tensor,
        generators: Sequence[Generator],
    ) -> Tensor:
        """The estimate g as it is, of the noise's shape or the samples'; see `ascent`."""
        import torch

        estimate = self.estimate
        perturbed = samples if estimate == "hybrid-1" else noise_BN
        asked = _Copies(sample, reward, perturbed, value_B, draws_again=estimate != "hybrid-1")

        mean = _Mean(noise_BN if estimate == "zo" else samples, self._compared)
        steps = self.size * self._perturbations(perturbed, generators)
        for part in torch.split(steps, self._side_by_side):
            copies, gain = asked.gained(part)
            if estimate == "hybrid-2":
                towards = copies - samples
            else:
                towards = part / self.size**2
            mean.add(gain, towards)
        return mean.product()

    @property
    def _compared(self) -> Baseline:
        return self.baseline if self.samples > 1 else "start"

    @property
    def _side_by_side(self) -> int:
        """Copies at a time; a pair is never cut in two."""
        count = min(self.chunk or self.samples, self.samples)
        if self._compared == "pairs":
            return max(2, count - count % 2)
        return count

    def _perturbations(self, like: Tensor, generators: Sequence[Generator]) -> Tensor:
        """`q x B x ...` draws from N(0, I), a mirror image after each where there are pairs."""
        import torch

        if self._compared != "pairs":
            return _draws(like, generators, self.samples)
        drawn = _draws(like, generators, self.samples // 2)
        return torch.stack([drawn, -drawn], dim=1).flatten(0, 1)


class _Mean:
    """The mean over copies of what each gained over a baseline, times where it lies.

    Args:
        like: shape of the estimate, `B x ...`.
        baseline: what gains are compared with, where they are given over the sample itself.
    """

    def __init__(self, like: Tensor, baseline: Baseline) -> None:
        import torch

        self._baseline = baseline
        self._count = 0
        self._products = torch.zeros_like(like)
        self._towards = torch.zeros_like(like)
        self._gain = torch.zeros_like(like[:, :1].flatten(1)[:, 0])

    def add(self, gain: Tensor, towards: Tensor) -> None:
        """Some copies: what they gained, `c x B`, and where they lie, `c x B x ...`."""
        if self._baseline == "pairs":
            pairs = gain.view(-1, 2, gain.shape[1])
            gain = (pairs - pairs.mean(dim=1, keepdim=True)).flatten(0, 1)
        self._count += len(gain)
        self._products += (_beside(gain, towards) * towards).sum(0)
        if self._baseline == "copies":
            self._towards += towards.sum(0)
            self._gain += gain.sum(0)

    def product(self) -> Tensor:
        """The estimate, `B x ...`."""
        if self._baseline != "copies":
            return self._products / self._count
        # Each gain less the mean of the others' is q / (q - 1) times itself less the mean of all.
        common = _beside(self._gain, self._towards) * self._towards / self._count
        return (self._products - common) / (self._count - 1)


def _beside(values: Tensor, like: Tensor) -> Tensor:
    """Numbers that multiply tensors of more axes."""
    return values.view(*values.shape, *[1] * (like.dim() - values.dim()))


def _draws(like: Tensor, generators: Sequence[Generator], count: int) -> Tensor:
    """`count x B x ...` draws from N(0, I), those of sample i from generator i."""
    import torch

    shape = like.shape[1:]
    # Copy by copy, so that the size of a chunk changes nothing.
    copies = [
        torch.stack([normal(shape, generator) for generator in generators]) for _ in range(count)
    ]
    return torch.stack(copies).to(like)


@dataclass(frozen=True)
class _Copies:
    """Perturbed copies of one evaluation, and what the reward says of them."""

    sample: Callable[[Tensor], Tensor]
    reward: Callable[[Tensor], Tensor]
    perturbed: Tensor
    """What is perturbed: noise or samples, `B x ...`."""
    value_B: Tensor
    draws_again: bool
    """Whether the copies go through the sampler."""

    def gained(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The samples of these copies, `c x B x ...`, and what the reward gained, `c x B`."""
        import torch

        try:
            copies = (self.perturbed + steps).flatten(0, 1)
            if self.draws_again:
                copies = self.sample(copies)
            batch = len(self.value_B)
            gain = (self.reward(copies).view(-1, batch) - self.value_B).to(steps.device)
            return copies.reshape(-1, batch, *copies.shape[1:]), gain
        except Exception as error:
            if len(steps) == 1 or not out_of_memory(error):
                raise
        # Outside of the handler, whose traceback would hold on to what did not fit.
        halves = [self.gained(half) for half in steps.chunk(2)]
        copies = torch.cat([copies for copies, _ in halves])
        return copies, torch.cat([gain for _, gain in halves])
