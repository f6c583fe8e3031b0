"""Directions of ascent for rewards that have no gradient (paper, section 4; here maximising).

With M the sampler, z the noise, x = M(z), q copies, xi ~ N(0, I) and mu the perturbation's size:

    zo         g = mean of (r(M(z + mu xi)) - r(x)) xi / mu                        in the noise
    hybrid-1   g = mean of (r(x + mu xi) - r(x)) xi / mu                           in the samples
    hybrid-2   g = mean of (r(M(z + mu xi)) - r(x)) (M(z + mu xi) - x)             in the samples

An estimate in the samples goes on to the noise by the exact gradient of M. What is climbed is
g / (|g| + 1e-3), as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from dno.core.noise import normal
from dno.guard import out_of_memory

if TYPE_CHECKING:
    from torch import Generator, Tensor


Estimate = Literal["hybrid-2", "hybrid-1", "zo"]

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
    size: Annotated[float, Field(gt=0)] = 0.01
    """Standard deviation of the perturbation (mu)."""
    chunk: Annotated[int | None, Field(ge=1)] = None
    """Perturbed copies of all samples that are computed side by side, without a graph; all of them
    if not given. Where they do not fit in memory, half as many are tried."""

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

        estimate = self.estimate
        perturbed = samples if estimate == "hybrid-1" else noise_BN
        estimated = noise_BN if estimate == "zo" else samples
        asked = _Copies(sample, reward, perturbed, value_B, draws_again=estimate != "hybrid-1")

        with torch.no_grad():
            total = torch.zeros_like(estimated)
            steps = self.size * _perturbations(perturbed, generators, self.samples)
            for part in torch.split(steps, self.chunk or self.samples):
                copies, gain = asked.gained(part)
                if estimate == "hybrid-2":
                    towards = copies - samples
                else:
                    towards = part / self.size**2
                gain = gain.view(*gain.shape, *[1] * (total.dim() - 1))
                total += (gain * towards).sum(0) / self.samples

            direction = total.flatten(1)
            direction /= torch.linalg.vector_norm(direction, dim=1, keepdim=True) + 1e-3
        return (direction * estimated.flatten(1)).sum(1)


def _perturbations(like: Tensor, generators: Sequence[Generator], count: int) -> Tensor:
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
