"""The tests of a regularizer plugin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from dno.core.noise import evaluation_generators, gaussian_noise
from dno.protocols import Penalty, Regularizer
from dno.registry.configs import RegularizerConfig
from dno.registry.registry import REGULARIZERS
from dno.testing.configs import ConfigContract
from dno.testing.differences import TOLERANCE, disagreement

SEEDS = (3, 4, 5)


class RegularizerContract(ConfigContract[RegularizerConfig]):
    """Subclass it, name it `Test...` and set `config`.

    It is shown Gaussian noise of shape `draws`, and noise that is unusual in eight ways: too long,
    too short, shifted, sorted, smooth, constant, with the first draw repeated, and with one entry
    far out.
    """

    registry = REGULARIZERS
    draws: ClassVar[Sequence[tuple[int, ...]]] = ((4, 16, 16),) * 3

    def regularizer(self) -> Regularizer:
        """The regularizer under test, built anew."""
        built = self.config.build(self.context(self.draws))
        assert callable(built), (
            f"`build` returns {built!r}, which cannot be called; is a `return` missing?"
        )
        return built

    def noise(self) -> Tensor:
        """Gaussian noise, `3 x N`."""
        return gaussian_noise(self.draws, SEEDS).to(self.device)

    def unusual(self) -> dict[str, Tensor]:
        """Noise that N(0, I) hardly ever gives, by name, each `3 x N`."""
        noise = self.noise()
        smooth = (noise + noise.roll(1, 1) + noise.roll(2, 1)) / 3**0.5
        outlier = noise.clone()
        outlier[:, noise.shape[1] // 2] = 50
        first = math.prod(self.draws[0])
        repeats = -(-noise.shape[1] // first)
        return {
            "too long": 1.3 * noise,
            "too short": 0.7 * noise,
            "shifted": noise + 0.3,
            "sorted": noise.sort(1).values,
            "smooth": smooth,
            "constant": torch.ones_like(noise),
            "repeated": noise[:, :first].repeat(1, repeats)[:, : noise.shape[1]],
            "with an outlier": outlier,
        }

    def ask(self, regularizer: Regularizer, noise: Tensor, seeds: Sequence[int] = SEEDS) -> Penalty:
        """The answer for rows of these seeds, as a `Penalty`."""
        answer = regularizer(noise, evaluation_generators(seeds[: len(noise)], 0))
        penalty = answer if isinstance(answer, Penalty) else Penalty(answer)
        for name, values in _named(penalty).items():
            assert isinstance(values, Tensor), f"{name} is {type(values).__name__}, not a tensor"
            assert values.shape == (len(noise),), (
                f"{name} has shape {tuple(values.shape)}; for {len(noise)} rows it should be "
                f"({len(noise)},)"
            )
            assert values.is_floating_point(), (
                f"{name} is {values.dtype}; it should be floating-point"
            )
        return penalty

    def test_one_finite_penalty_a_row(self) -> None:
        """`B` finite penalties, none negative, and as many of each figure; log P at most 0."""
        regularizer, noise = self.regularizer(), self.noise()
        first = set(_named(self.ask(regularizer, noise)))
        for name, rows in {
            "Gaussian": noise,
            "one row of Gaussian": noise[:1],
            **self.unusual(),
        }.items():
            penalty = self.ask(regularizer, rows)
            changed = sorted(first ^ set(_named(penalty)))
            assert not changed, (
                f"{', '.join(changed)} is reported for Gaussian or for {name} noise alone; report "
                "the same at each evaluation"
            )
            for what, values in _named(penalty).items():
                assert values.isfinite().all(), (
                    f"{what} is not finite for {name} noise: {values.tolist()}"
                )
            value, log_p = penalty.value_B, penalty.log_p_B
            assert (value >= 0).all(), (
                f"the penalty of {name} noise is negative: {value.tolist()}; 0 is for typical noise"
            )
            assert log_p is None or (log_p <= 0).all(), (
                f"log_p of {name} noise is above 0: it is a log-probability"
            )

    def test_unusual_noise_costs_more(self) -> None:
        """More than Gaussian noise does, in at least one of the ways in which noise can be
        unusual.
        """
        regularizer = self.regularizer()
        self._skip_reports(regularizer)
        usual = self.ask(regularizer, self.noise()).value_B
        costs = {
            name: self.ask(regularizer, noise).value_B for name, noise in self.unusual().items()
        }
        seen = [name for name, cost in costs.items() if (cost > 1.05 * usual).all()]
        assert seen, f"no unusual noise ({', '.join(costs)}) costs more than Gaussian noise does"

    def test_a_row_is_judged_by_itself(self) -> None:
        """Row i from noise i and generator i alone: not from the batch, nor from the order."""
        regularizer, noise = self.regularizer(), self.noise()
        together = _named(self.ask(regularizer, noise))
        turned = _named(self.ask(regularizer, noise.flip(0), SEEDS[::-1]))
        alone = [
            _named(self.ask(regularizer, noise[i : i + 1], SEEDS[i : i + 1]))
            for i in range(len(SEEDS))
        ]
        for name, expected in together.items():
            rows = torch.cat([one[name] for one in alone])
            for found, how in ((rows, "alone"), (turned[name].flip(0), "in another order")):
                assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6), (
                    f"{name} of a row is another {how}: {found.tolist()} and {expected.tolist()}"
                )

    def test_all_randomness_is_the_generators(self) -> None:
        """The same noise and generators give the same bits, whatever torch's global random
        state.
        """
        regularizer, noise = self.regularizer(), self.noise()
        torch.manual_seed(0)
        state = torch.random.get_rng_state()
        first = _named(self.ask(regularizer, noise))
        assert torch.equal(state, torch.random.get_rng_state()), (
            "the regularizer draws from torch's global random state; draw from the generators "
            "that it is given"
        )
        torch.manual_seed(1)
        for name, again in _named(self.ask(regularizer, noise)).items():
            assert torch.equal(first[name], again), (
                f"with the same generators {name} is {first[name].tolist()}, then {again.tolist()}"
            )

    def test_noise_is_left_as_it_was(self) -> None:
        """The noise is the run's."""
        noise = self.noise()
        before = noise.clone()
        self.ask(self.regularizer(), noise)
        assert torch.equal(noise, before), (
            "the regularizer changes the noise that it is given; work on a copy"
        )

    def test_a_gradient_reaches_the_noise(self) -> None:
        """Finite everywhere, of row i from penalty i alone, and not zero where unusual noise costs
        more.
        """
        regularizer = self.regularizer()
        self._skip_reports(regularizer)
        steep = False
        for name, noise in {"Gaussian": self.noise(), **self.unusual()}.items():
            grad = self._gradient(regularizer, noise)
            assert grad.isfinite().all(), f"the gradient is not finite for {name} noise"
            steep |= bool(grad.any())
            noise = noise.clone().requires_grad_(True)
            (first,) = torch.autograd.grad(self.ask(regularizer, noise).value_B[0], noise)
            assert not first[1:].any(), "penalty 0 has a gradient in other rows than row 0"
        assert steep, "the gradient is zero everywhere, so that the penalty holds nothing"

    def test_the_gradient_agrees_with_finite_differences(self) -> None:
        """Within 3 %, along the gradient and elsewhere, where noise is unusual and the penalty
        steep.
        """
        regularizer = self.regularizer()
        self._skip_reports(regularizer)
        worst, steepest = "", torch.zeros_like(self.noise())
        for name, noise in self.unusual().items():
            grad = self._gradient(regularizer, noise)
            if grad.norm() > steepest.norm() and name not in (
                "constant",
                "sorted",
                "with an outlier",
            ):
                worst, steepest = name, grad
        if not worst:
            pytest.skip("the penalty has no slope at any of the noises that are tried here")
        apart = disagreement(
            lambda moved: self.ask(regularizer, moved).value_B, self.unusual()[worst], steepest
        )
        assert (apart <= TOLERANCE).all(), (
            f"for noise that is {worst} the gradient is off from finite differences by "
            f"{apart.max():.0%}"
        )

    def _skip_reports(self, regularizer: Regularizer) -> None:
        """Skip for a regularizer whose penalties are all 0."""
        noises = (self.noise(), *self.unusual().values())
        if not any(bool(self.ask(regularizer, noise).value_B.any()) for noise in noises):
            pytest.skip("the regularizer penalises nothing: it only reports figures")

    def _gradient(self, regularizer: Regularizer, noise: Tensor) -> Tensor:
        noise = noise.clone().requires_grad_(True)
        value = self.ask(regularizer, noise).value_B
        assert value.requires_grad, (
            "the penalty is cut off from the noise; compute it with torch operations"
        )
        (grad,) = torch.autograd.grad(value.sum(), noise)
        return grad


def _named(penalty: Penalty) -> dict[str, Tensor]:
    """All that a regularizer answered, by name."""
    named = {"the penalty": penalty.value_B}
    if penalty.log_p_B is not None:
        named["log P"] = penalty.log_p_B
    return {**named, **penalty.figures}
