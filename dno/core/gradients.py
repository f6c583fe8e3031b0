"""Directions of ascent for rewards that have no gradient (paper, section 4; here maximising).

Each method asks the reward about `samples` perturbed copies and says which way to go: in the noise
itself (`zo`), or in the samples, from where the exact gradient leads on to the noise (`hybrid-1`,
`hybrid-2`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Generator, Tensor


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
    def through_samples(self) -> bool:
        """Whether an estimate goes back through the sampler."""
        return self.method != "zo"

    def ascent(
        self,
        sample: Callable[[Tensor], Tensor],
        reward: Callable[[Tensor], Tensor],
        noise_BN: Tensor,
        samples: Tensor,
        value_B: Tensor,
        generators: Sequence[Generator],
    ) -> Tensor:
        """`B` numbers whose gradient in the noise is the estimated direction of ascent; their
        values mean nothing.

        The direction, in the noise for `zo` and in the samples for the hybrids, is g / (|g| + 1e-3)
        of the estimate g, as in the authors' code.

        Args:
            sample: M for c copies of the batch, `(c B) x N -> (c B) x ...`; called without a graph.
            reward: `(c B) x ... -> (c B)`, one reward without a gradient, unweighted.
            noise_BN: z, with a graph.
            samples: M(z), with a graph.
            value_B: the reward at z.
            generators: one a sample, for its perturbations.
        """
        import torch

        batch, hybrid_1, zeroth = len(noise_BN), self.method == "hybrid-1", self.method == "zo"
        moved = samples if hybrid_1 else noise_BN
        total = torch.zeros_like(noise_BN if zeroth else samples)

        def gained(steps: Tensor) -> tuple[Tensor, Tensor]:
            """Where each of these copies is, and what the reward gained there."""
            try:
                others = (moved + steps).flatten(0, 1)
                others = others if hybrid_1 else sample(others)
                gain = (reward(others).view(-1, batch) - value_B).to(steps.device)
                return others.reshape(-1, batch, *others.shape[1:]), gain
            except torch.OutOfMemoryError:
                if len(steps) == 1:
                    raise
            halves = [gained(half) for half in steps.chunk(2)]
            return torch.cat([others for others, _ in halves]), torch.cat(
                [gain for _, gain in halves]
            )

        with torch.no_grad():
            # A generator's draws come copy by copy, so that the size of a chunk changes nothing.
            drawn = [
                torch.stack([torch.randn(moved.shape[1:], generator=g) for g in generators])
                for _ in range(self.samples)
            ]
            for part in torch.split(torch.stack(drawn), self.chunk or self.samples):
                steps = self.size * part.to(moved)
                others, gain = gained(steps)
                towards = steps / self.size**2 if hybrid_1 or zeroth else others - samples
                total += (gain.view(*gain.shape, *[1] * (total.dim() - 1)) * towards).sum(
                    0
                ) / self.samples
            flat = total.flatten(1)
            flat /= torch.linalg.vector_norm(flat, dim=1, keepdim=True) + 1e-3
        return (flat * (noise_BN if zeroth else samples).flatten(1)).sum(1)
