"""The tests of a constraint plugin."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dno.core.noise import gaussian_noise
from dno.protocols import Constraint, State
from dno.registry.configs import ConstraintConfig
from dno.registry.registry import CONSTRAINTS
from dno.testing.configs import ConfigContract

SEEDS = (3, 4, 5)


class ConstraintContract(ConfigContract[ConstraintConfig]):
    """Subclass it, name it `Test...` and set `config`.

    It starts at Gaussian noise of shape `draws`, and is shown noise that was moved away from there
    in six ways: along other Gaussian noise, outwards, all entries alike, one entry alone, smoothly,
    and far out at random.
    """

    registry = CONSTRAINTS
    draws: ClassVar[Sequence[tuple[int, ...]]] = ((4, 16, 16),) * 3

    def constraint(self) -> Constraint:
        """The constraint under test, built anew."""
        built = self.config.build(self.context(self.draws))
        missing = [name for name in ("init", "retract") if not callable(getattr(built, name, None))]
        assert not missing, f"`build` returns {built!r}, which has no {' and no '.join(missing)}"
        return built

    def start(self) -> Tensor:
        """Gaussian noise, `3 x N`."""
        return gaussian_noise(self.draws, SEEDS).to(self.device)

    def moved(self) -> dict[str, Tensor]:
        """Noise that a climb might have led to, by how it was moved, each `3 x N`."""
        start = self.start()
        entries = start.shape[1]
        other = gaussian_noise(self.draws, [seed + 100 for seed in SEEDS]).to(start)
        place = torch.linspace(0, 6, entries).to(start).expand_as(start)
        one = torch.zeros_like(start)
        one[:, entries // 3] = 6
        return {
            "along other noise": start + 0.2 * other,
            "outwards": 1.2 * start,
            "all entries alike": start + 0.2,
            "one entry alone": start + one,
            "smoothly": start + 0.3 * place.sin(),
            "far out": start + 3 * other,
        }

    def put_back(self, noise: Tensor, rows: slice = slice(None)) -> Tensor:
        """Noise as a new constraint puts it back, which began at the start."""
        constraint = self.constraint()
        return constraint.retract(noise[rows], constraint.init(self.start()[rows]))

    def test_the_state_is_tensors_by_name(self) -> None:
        """So that it can be saved with the run."""
        state = self.constraint().init(self.start())
        assert isinstance(state, Mapping), (
            f"the state is {type(state).__name__}; it should be tensors by name"
        )
        other = [name for name, value in state.items() if not isinstance(value, Tensor)]
        assert not other, f"of the state, {', '.join(map(str, other))} is no tensor"

    def test_noise_comes_back_as_noise(self) -> None:
        """Of the shape it was given, float32, finite, without a graph."""
        for name, noise in self.moved().items():
            back = self.put_back(noise)
            assert isinstance(back, Tensor), f"retract returned {type(back).__name__} for noise"
            assert back.shape == noise.shape, (
                f"from noise of shape {tuple(noise.shape)} retract made {tuple(back.shape)}"
            )
            assert back.dtype == torch.float32, (
                f"retract returned noise of {back.dtype}; noise is always float32"
            )
            assert back.device == noise.device, (
                f"retract moved the noise from {noise.device} to {back.device}"
            )
            assert not back.requires_grad, "retract returned noise with a graph; detach it"
            assert back.isfinite().all(), f"noise that was moved {name} comes back not finite"

    def test_the_start_stays_as_it_is(self) -> None:
        """To float32's rounding: a sample that does not move is not moved."""
        start = self.start()
        off = (self.put_back(start) - start).abs().max().item()
        assert off < 1e-4, f"the noise where the climb starts is itself moved, by {off:.2g}"

    def test_it_holds_something(self) -> None:
        """Of the noises that were moved, it changes at least one."""
        changed = [
            name
            for name, noise in self.moved().items()
            if (self.put_back(noise) - noise).abs().max() > 1e-3
        ]
        assert changed, "it leaves all noise as it is, and so holds nothing"

    def test_what_was_put_back_stays(self) -> None:
        """Once more changes it by less than a tenth of what the first time did."""
        for name, noise in self.moved().items():
            once = self.put_back(noise)
            again = self.put_back(once)
            first = (once - noise).norm(dim=1)
            second = (again - once).norm(dim=1)
            assert (second <= 0.1 * first + 1e-3).all(), (
                f"noise moved {name} goes {first.tolist()} back, then {second.tolist()} more; "
                "what was put back should stay"
            )

    def test_it_is_pure(self) -> None:
        """All it remembers is in the state; what it is given stays as it was; nothing is random."""
        constraint = self.constraint()
        state = constraint.init(self.start())
        noise = self.moved()["along other noise"]
        before = noise.clone()
        memory = {name: value.clone() for name, value in state.items()}
        torch.manual_seed(0)
        random = torch.random.get_rng_state()

        first = constraint.retract(noise, state)

        assert torch.equal(noise, before), (
            "retract changes the noise that it is given; return a new tensor"
        )
        changed = [name for name, value in memory.items() if not torch.equal(value, state[name])]
        assert not changed, f"retract changes its state ({', '.join(changed)})"
        assert torch.equal(random, torch.random.get_rng_state()), (
            "retract draws from torch's global random state; it should draw nothing"
        )
        constraint.init(noise)
        constraint.retract(self.moved()["far out"], state)
        for again in (constraint.retract(noise, state), self.constraint().retract(noise, state)):
            assert torch.equal(first, again), "the same noise and state are put back elsewhere"

    def test_it_goes_on_from_its_saved_state(self) -> None:
        """Saved as safetensors and read again, the state leads to the same bits."""
        noise = self.moved()["along other noise"]
        constraint = self.constraint()
        state = constraint.init(self.start())
        back = self.constraint().retract(noise, self._saved(state))
        assert torch.equal(back, constraint.retract(noise, state)), (
            "with its state saved and read again, noise is put back elsewhere"
        )

    def _saved(self, state: State) -> State:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state.safetensors")
            save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
            return load_file(path, device=self.device)

    def test_rows_are_put_back_by_themselves(self) -> None:
        """A batch of three equals three of one, to the bit or nearly."""
        for name, noise in self.moved().items():
            together = self.put_back(noise)
            for i in range(len(SEEDS)):
                alone = self.put_back(noise, slice(i, i + 1))
                assert torch.allclose(alone[0], together[i], rtol=1e-5, atol=1e-5), (
                    f"row {i} of noise moved {name} is put back elsewhere when it is alone"
                )
