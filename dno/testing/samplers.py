"""The tests of a sampler plugin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from dno.errors import RunError
from dno.media import Medium, medium_of
from dno.protocols import NoiseMap
from dno.registry.configs import SamplerConfig
from dno.registry.registry import SAMPLERS
from dno.testing.configs import ConfigContract
from dno.testing.differences import TOLERANCE, disagreement


class SamplerContract(ConfigContract[SamplerConfig]):
    """Subclass it, name it `Test...` and set `config`, best to a tiny model and few steps.

    The samples' gradient is that of their weighted sum, with fixed weights of both signs.
    """

    registry = SAMPLERS
    prompts: ClassVar[Sequence[str]] = ("a black cat", "a white duck")
    seeds: ClassVar[Sequence[int]] = (3, 4)
    tolerance: ClassVar[float] = 1e-4
    """How far a sample's values may move with the batch it is computed in."""
    samples_are_images: ClassVar[bool] = True
    """False where samples are something else, so that their shape and range are not checked."""

    def bound(
        self, prompts: Sequence[str] | None = None, seeds: Sequence[int] | None = None
    ) -> NoiseMap:
        """The sampler built anew and bound to these prompts and seeds."""
        return self.config.build(self.context()).bind(prompts or self.prompts, seeds or self.seeds)

    def test_noise_is_the_draws_of_the_seeds(self) -> None:
        """`B x N` of float32, N the entries of all draws; row i from seed i alone, and standard
        Gaussian.
        """
        sample = self.bound()
        noise, entries = sample.noise_BN, sum(math.prod(shape) for shape in sample.draws)
        assert noise.shape == (len(self.prompts), entries), (
            f"noise_BN has shape {tuple(noise.shape)}; draws say {len(self.prompts)} x {entries}"
        )
        assert noise.dtype == torch.float32, f"noise_BN is {noise.dtype}; noise is always float32"
        assert not noise.requires_grad, "noise_BN asks for a gradient; detach it"
        assert torch.equal(self.bound().noise_BN, noise), (
            "bound twice to the same seeds, the noise differs"
        )
        for i, row in enumerate(noise):
            alone = self.bound(self.prompts[i : i + 1], self.seeds[i : i + 1]).noise_BN[0]
            assert torch.equal(alone, row), (
                f"the noise of seed {self.seeds[i]} depends on what is bound beside it"
            )
        # Five standard errors of the mean square of Gaussian entries.
        bound = 5 * math.sqrt(2 / noise.numel())
        found = float(noise.square().mean())
        assert abs(found - 1) < bound, (
            f"the mean square of noise_BN is {found:.3g}, not that of N(0, I)"
        )

    def test_one_finite_sample_a_row(self) -> None:
        """Images are `B x 3 x H x W`, float32, in [0, 1]; other samples have one row each, and are
        what the map's `medium` says, if it says something.
        """
        sample = self.bound()
        with torch.no_grad():
            samples = sample(sample.noise_BN)
        assert samples.shape[0] == len(self.prompts), (
            f"{len(self.prompts)} rows of noise gave {samples.shape[0]} samples"
        )
        assert samples.dtype == torch.float32, f"samples are {samples.dtype}; hand out float32"
        assert samples.isfinite().all(), "samples are not finite"
        try:
            medium = medium_of(sample, samples)
        except RunError as error:
            pytest.fail(str(error))
        if hasattr(sample, "medium") and medium.kind != "image":
            self._require_range(medium, samples)
            return
        if not self.samples_are_images:
            pytest.skip("samples_are_images = False, so that their shape and range are not checked")
        assert samples.dim() == 4, (
            f"samples have shape {tuple(samples.shape)}; images are B x 3 x H x W; set "
            "samples_are_images = False"
        )
        assert samples.shape[1] == 3, (
            f"images have {samples.shape[1]} channels; they should have 3: red, green, blue"
        )
        self._require_range(medium, samples)

    def _require_range(self, medium: Medium, samples: Tensor) -> None:
        """What is shown or heard has to be in the range of its medium."""
        if medium.kind == "other":
            return
        least = -1 if medium.kind == "audio" else 0
        what = {"image": "images go", "video": "frames go", "audio": "sounds go"}[medium.kind]
        low, high = float(samples.min()), float(samples.max())
        assert low >= least, f"{what} down to {low:.3g}; bring them into [{least}, 1]"
        assert high <= 1, f"{what} up to {high:.3g}; bring them into [{least}, 1]"

    def test_a_call_is_pure(self) -> None:
        """The same noise gives the same bits: no randomness of its own, nothing that one call
        leaves for another.
        """
        sample = self.bound()
        noise = sample.noise_BN.clone()
        torch.manual_seed(0)
        with torch.no_grad():
            first = sample(noise)
            sample(noise.flip(1))
            torch.manual_seed(1)
            again = sample(noise)
        assert torch.equal(noise, sample.noise_BN), (
            "the sampler changes the noise that it is given; work on a copy"
        )
        assert torch.equal(first, again), (
            "called again with the same noise, the sampler gives other samples"
        )

    def test_a_sample_is_made_by_itself(self) -> None:
        """A batch of two equals two of one."""
        sample = self.bound()
        with torch.no_grad():
            together = sample(sample.noise_BN)
            for i, row in enumerate(together):
                one = self.bound(self.prompts[i : i + 1], self.seeds[i : i + 1])
                apart = float((one(sample.noise_BN[i : i + 1])[0] - row).abs().max())
                assert apart <= self.tolerance, (
                    f"sample {i} differs by {apart:.2g} when it is computed alone"
                )

    def test_weights_are_frozen(self) -> None:
        """The noise alone has a gradient."""
        sample = self.bound()
        assert not sample(sample.noise_BN.detach()).requires_grad, (
            "samples have a gradient where the noise has none; freeze the weights"
        )

    def test_a_gradient_reaches_every_draw(self) -> None:
        """Row i from sample i alone; draws that cannot act on the sample are not in the noise."""
        sample = self.bound()
        grad = self._gradient(sample, sample.noise_BN)
        assert grad.isfinite().all(), "the gradient is not finite"
        sizes = [math.prod(shape) for shape in sample.draws]
        idle = [k for k, part in enumerate(torch.split(grad, sizes, dim=1)) if not part.any()]
        assert not idle, f"draws {idle} do not act on any sample; leave them out of `draws`"
        noise = sample.noise_BN.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(self._sums(sample(noise))[0], noise)
        assert not first[1:].any(), "sample 0 has a gradient in other rows of the noise than row 0"

    def test_the_gradient_agrees_with_finite_differences(self) -> None:
        """Within 3 %, along the gradient and elsewhere."""
        sample = self.bound()
        grad = self._gradient(sample, sample.noise_BN)
        apart = disagreement(lambda noise: self._sums(sample(noise)), sample.noise_BN, grad)
        assert (apart <= TOLERANCE).all(), (
            f"the gradient is off from finite differences by {apart.max():.0%}; "
            "look for parts of the sampler that run without a graph"
        )

    def test_evaluations_are_counted(self) -> None:
        """Where the map says how many network evaluations a call costs, that is a positive whole
        number.
        """
        sample = self.bound()
        if not hasattr(sample, "network_evaluations"):
            pytest.skip("the map has no `network_evaluations`, so that each call is metered as one")
        count = sample.network_evaluations
        assert isinstance(count, int), (
            f"network_evaluations is {count!r}; it should be a whole number"
        )
        assert count > 0, (
            f"network_evaluations is {count}; a call that costs nothing would never spend a budget"
        )

    def _sums(self, samples: Tensor) -> Tensor:
        # One image's weights for all, so that a sum does not depend on the sample's place.
        weights = torch.randn(samples.shape[1:], generator=torch.Generator().manual_seed(0)).to(
            samples
        )
        return (samples * weights).flatten(1).sum(1)

    def _gradient(self, sample: NoiseMap, noise: Tensor) -> Tensor:
        noise = noise.clone().requires_grad_(True)
        samples = sample(noise)
        assert samples.requires_grad, (
            "the samples are cut off from the noise, so that there is no gradient"
        )
        (grad,) = torch.autograd.grad(self._sums(samples).sum(), noise)
        return grad
