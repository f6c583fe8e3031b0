"""Directions of ascent for rewards that have no gradient (paper, section 4; here maximising).

Each method asks the reward about `samples` perturbed copies and says which way to go: in the noise itself (`zo`), or
in the samples, from where the exact gradient leads on to the noise (`hybrid-1`, `hybrid-2`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from dno.protocols import NoiseMap


class GradientConfig(BaseModel):
    """How rewards without a gradient are climbed; the others always have their exact one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    method: Literal["hybrid-2", "hybrid-1", "zo", "exact"] = "hybrid-2"
    """`hybrid-2` perturbs the noise, so that what the reward sees are samples of the model; `hybrid-1` perturbs the
    samples; `zo` perturbs the noise and needs no backward pass for it; `exact` refuses rewards without a gradient."""
    samples: Annotated[int, Field(ge=1)] = 4
    """Perturbed copies at each evaluation (q), each asking the reward once."""
    size: Annotated[float, Field(gt=0)] = 0.01
    """Standard deviation of the perturbation (mu)."""

    def ascent(
        self,
        sample: NoiseMap,
        reward: Callable[[Tensor], Tensor],
        noise_BN: Tensor,
        samples: Tensor,
        value_B: Tensor,
        generators: Sequence[Generator],
    ) -> Tensor:
        """`B` numbers whose gradient in the noise is the estimated direction of ascent; their values mean nothing.

        The direction, in the noise for `zo` and in the samples for the hybrids, is g / (|g| + 1e-3) of the
        estimate g, as in the authors' code.

        Args:
            sample: M; called without a graph.
            reward: `B x ... -> B`, one reward without a gradient, unweighted.
            noise_BN: z, with a graph.
            samples: M(z), with a graph.
            value_B: the reward at z.
            generators: one a sample, for its perturbations.
        """
        import torch

        moved = samples if self.method == "hybrid-1" else noise_BN
        total = torch.zeros_like(noise_BN if self.method == "zo" else samples)
        with torch.no_grad():
            for _ in range(self.samples):
                drawn = [torch.randn(moved.shape[1:], generator=generator) for generator in generators]
                step = self.size * torch.stack(drawn).to(moved)
                other = samples + step if self.method == "hybrid-1" else sample(noise_BN + step)
                towards = other - samples if self.method == "hybrid-2" else step / self.size**2
                gain_B = reward(other) - value_B
                total += gain_B.view(-1, *[1] * (total.dim() - 1)) * towards / self.samples
            flat = total.flatten(1)
            flat /= torch.linalg.vector_norm(flat, dim=1, keepdim=True) + 1e-3
        return (flat * (noise_BN if self.method == "zo" else samples).flatten(1)).sum(1)
