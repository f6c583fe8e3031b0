"""The tests of an optimizer plugin."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dno.core.noise import evaluation_generators, gaussian_noise
from dno.protocols import Look, Optimizer, Slopes, State
from dno.registry.configs import OptimizerConfig
from dno.registry.registry import OPTIMIZERS
from dno.testing.configs import ConfigContract


class Bowl:
    """An objective with a closed form, of rows that know nothing of each other: minus half the
    squared distance.

    Args:
        targets_BN: where each row's objective is highest, at 0.
        seeds: one a row, for `gaussian`.
        iteration: likewise.
        slope: factor of the objective; 0 makes it flat.
    """

    def __init__(
        self, targets_BN: Tensor, seeds: Sequence[int], iteration: int, slope: float = 1.0
    ) -> None:
        self.targets_BN = targets_BN
        self.seeds = seeds
        self.iteration = iteration
        self.slope = slope
        self.asked: list[Tensor] = []
        """The values of each evaluation."""
        self._draws = 0

    def gaussian(self) -> Tensor:
        """N(0, I), a function of seed, iteration and the calls before: `B x N`."""
        self._draws += 1
        generators = evaluation_generators(self.seeds, 1000 * self.iteration + self._draws)
        rows = [
            torch.randn(self.targets_BN.shape[1:], generator=generator) for generator in generators
        ]
        return torch.stack(rows).to(self.targets_BN)

    def value(self, noise_BN: Tensor, /) -> Tensor:
        """`B` values, at most 0."""
        value_B = -0.5 * self.slope * (noise_BN - self.targets_BN).square().sum(1)
        self.asked.append(value_B)
        return value_B

    def score(self, noise_BN: Tensor, /) -> Tensor:
        """The values: there is no penalty here, and all noise counts as healthy."""
        return self.value(noise_BN)

    def look(self, noise_BN: Tensor, /) -> Look:
        """The values, with samples that are the noise itself."""
        return Look(self.score(noise_BN), noise_BN.detach())

    def pull(self, noise_BN: Tensor, towards: Tensor, /) -> Tensor:
        """A pull on the samples is one on the noise."""
        return towards.clone()

    def value_and_grad(self, noise_BN: Tensor, /) -> tuple[Tensor, Tensor]:
        """The values, and the way to the targets, each row no longer than 1."""
        grad_BN = self.slope * (self.targets_BN - noise_BN)
        return self.value(noise_BN), grad_BN / grad_BN.norm(dim=1, keepdim=True).clamp(min=1)

    def slopes(self, noise_BN: Tensor, /) -> Slopes:
        """The values and the way to the targets as it is; the penalty is 0 everywhere."""
        grad_BN = self.slope * (self.targets_BN - noise_BN)
        nothing_B = torch.zeros_like(noise_BN[:, 0])
        return Slopes(self.value(noise_BN), grad_BN, nothing_B, torch.zeros_like(noise_BN))


class OptimizerContract(ConfigContract[OptimizerConfig]):
    """Subclass it, name it `Test...` and set `config`; the objective is a `Bowl` of `entries`
    dimensions.
    """

    registry = OPTIMIZERS
    seeds: ClassVar[Sequence[int]] = (3, 4)
    entries: ClassVar[int] = 12
    steps: ClassVar[int] = 30
    """In which something better than the start should be found."""

    def optimizer(self) -> Optimizer:
        """The optimizer under test, built anew."""
        return self.config.build(self.context(((self.entries,),)))

    def start(self) -> Tensor:
        """Gaussian noise, `B x N`."""
        return gaussian_noise([(self.entries,)], self.seeds).to(self.device)

    def objective(self, iteration: int, rows: slice = slice(None), slope: float = 1.0) -> Bowl:
        """The objective of one iteration, for some of the seeds."""
        seeds = self.seeds[rows]
        return Bowl(
            gaussian_noise([(self.entries,)], [seed + 100 for seed in seeds]).to(self.device),
            seeds,
            iteration,
            slope,
        )

    def climb(
        self, steps: int, rows: slice = slice(None), slope: float = 1.0
    ) -> tuple[Tensor, State, list[Tensor]]:
        """Noise, state and values asked for after some steps."""
        optimizer, noise = self.optimizer(), self.start()[rows]
        state, asked = optimizer.init(noise), []
        for iteration in range(steps):
            objective = self.objective(iteration, rows, slope)
            noise, state = optimizer.step(objective, noise, state)
            asked += objective.asked
        return noise, state, asked

    def test_a_step_gives_noise_and_tensors_by_name(self) -> None:
        """Noise of the shape it was given, float32, without a graph; a state of tensors whose names
        stay.
        """
        noise, optimizer = self.start(), self.optimizer()
        first = optimizer.init(noise)
        self._require_tensors(first)
        answer = optimizer.step(self.objective(0), noise, first)
        assert isinstance(answer, tuple), (
            f"step returned {type(answer).__name__}; it should be (noise, state)"
        )
        assert len(answer) == 2, (
            f"step returned {len(answer)} things; they should be (noise, state)"
        )
        moved, state = answer
        assert isinstance(moved, Tensor), f"step returned {type(moved).__name__} for noise"
        assert moved.shape == noise.shape, (
            f"from noise of shape {tuple(noise.shape)} step made {tuple(moved.shape)}"
        )
        assert moved.dtype == torch.float32, (
            f"step returned noise of {moved.dtype}; noise is always float32"
        )
        assert moved.device == noise.device, (
            f"step moved the noise from {noise.device} to {moved.device}"
        )
        assert not moved.requires_grad, "step returned noise that asks for a gradient; detach it"
        assert moved.isfinite().all(), "step returned noise that is not finite"
        self._require_tensors(state)
        assert set(state) == set(first), (
            f"the state's names change from {sorted(first)} to {sorted(state)}"
        )

    def _require_tensors(self, state: object) -> None:
        assert isinstance(state, Mapping), (
            f"the state is {type(state).__name__}; it should be tensors by name"
        )
        other = [name for name, value in state.items() if not isinstance(value, Tensor)]
        assert not other, (
            f"of the state, {', '.join(map(str, other))} is no tensor, so that it could not be "
            "saved"
        )

    def test_something_better_is_found(self) -> None:
        """Among the values asked for in `steps` steps up a bowl, every row has a better one than
        its first.
        """
        _, _, asked = self.climb(self.steps)
        assert asked, "the optimizer never asks the objective for a value"
        best = torch.stack(asked).amax(0)
        assert (best > asked[0]).all(), (
            f"after {self.steps} steps the best is {best.tolist()}, from {asked[0].tolist()}"
        )

    def test_a_step_is_pure(self) -> None:
        """All it remembers is in the state; what it is given stays as it was; no other randomness
        than `gaussian`.
        """
        optimizer = self.optimizer()
        noise, state, _ = self.climb(2)
        before, memory = noise.clone(), {name: value.clone() for name, value in state.items()}
        torch.manual_seed(0)
        random = torch.random.get_rng_state()
        first = optimizer.step(self.objective(2), noise, state)
        assert torch.equal(noise, before), (
            "step changes the noise that it is given; return a new tensor"
        )
        changed = [name for name, value in memory.items() if not torch.equal(value, state[name])]
        assert not changed, (
            f"step changes the state that it is given ({', '.join(changed)}); return a new one"
        )
        assert torch.equal(random, torch.random.get_rng_state()), (
            "step draws from torch's global random state; draw from objective.gaussian()"
        )
        torch.manual_seed(1)
        for again in (
            optimizer.step(self.objective(2), noise, state),
            self.optimizer().step(self.objective(2), noise, state),
        ):
            self._require_same(
                first, again, "from the same noise and state, step moves to another place"
            )

    def _require_same(
        self, one: tuple[Tensor, State], other: tuple[Tensor, State], problem: str
    ) -> None:
        differing = [name for name in one[1] if not torch.equal(one[1][name], other[1][name])]
        assert torch.equal(one[0], other[0]), problem
        assert not differing, f"{problem} in its state ({', '.join(differing)})"

    def test_a_climb_goes_on_from_its_saved_state(self) -> None:
        """Saved as safetensors and read again, the state leads to the same bits."""
        through, memory, _ = self.climb(6)
        optimizer = self.optimizer()
        noise, state, _ = self.climb(3)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state.safetensors")
            # Copies, because safetensors takes no two names for one piece of memory; so does a run
            # folder.
            save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
            state = load_file(path, device=self.device)
        for iteration in range(3, 6):
            noise, state = optimizer.step(self.objective(iteration), noise, state)
        self._require_same(
            (through, memory),
            (noise, state),
            "resumed from its saved state, the climb goes elsewhere",
        )

    def test_rows_climb_by_themselves(self) -> None:
        """A batch of two equals two of one, to the bit or nearly: a sample's path never depends on
        its neighbours.
        """
        together, _, _ = self.climb(5)
        for i in range(len(self.seeds)):
            alone, _, _ = self.climb(5, slice(i, i + 1))
            assert torch.allclose(alone[0], together[i], rtol=1e-5, atol=1e-6), (
                f"row {i} climbs another way when it is alone"
            )

    def test_flat_ground_is_no_trouble(self) -> None:
        """Where every gradient is zero the noise stays finite."""
        noise, state, _ = self.climb(5, slope=0.0)
        assert noise.isfinite().all(), (
            "on flat ground the noise is not finite; look for a division by the gradient's size"
        )
        nans = [name for name, value in state.items() if value.isnan().any()]
        assert not nans, f"on flat ground the state holds nan: {', '.join(nans)}"
