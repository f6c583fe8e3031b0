from dataclasses import dataclass, field

import pytest
import torch
from dno_builtin.optimizers.adam import Adam
from dno_builtin.optimizers.sgd import SGD
from pydantic import ValidationError
from torch import Tensor

from dno.plugin import BuildContext, OptimizerConfig, Slopes

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
START = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))


@dataclass
class Bowl:
    """An objective with its top at 1; its gradient comes with noise of its own, the same for each
    step number.
    """

    jitter: float = 0.0
    asked_at: list[Tensor] = field(default_factory=list)

    def value(self, noise_BN: Tensor) -> Tensor:
        return -(noise_BN - 1).square().sum(1)

    def value_and_grad(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        self.asked_at.append(noise_BN)
        generator = torch.Generator().manual_seed(len(self.asked_at))
        jitter = self.jitter * torch.randn(
            noise_BN.shape, generator=generator, dtype=noise_BN.dtype
        )
        return self.value(noise_BN), -2 * (noise_BN - 1) + jitter

    def slopes(self, noise_BN: Tensor) -> Slopes:
        """The same as a reward, beside a penalty of a tenth of |z|^2."""
        value_B, grad_BN = self.value_and_grad(noise_BN)
        return Slopes(value_B, grad_BN, 0.1 * noise_BN.square().sum(1), 0.2 * noise_BN)


def climb(config: OptimizerConfig, start: Tensor, steps: int, jitter: float) -> list[Tensor]:
    optimizer, objective, noise = config.build(CPU), Bowl(jitter), start
    state = optimizer.init(noise)
    path = []
    for _ in range(steps):
        noise, state = optimizer.step(objective, noise, state)
        path.append(noise)
    return path


def climb_with_torch(
    kind: type[torch.optim.Optimizer], start: Tensor, jitter: float, **options: object
) -> list[Tensor]:
    leaf, objective = start.clone().requires_grad_(), Bowl(jitter)
    optimizer = kind([leaf], maximize=True, **options)
    path = []
    for _ in range(50):
        leaf.grad = objective.value_and_grad(leaf.detach().clone())[1]
        optimizer.step()
        path.append(leaf.detach().clone())
    return path


PAIRS = [
    pytest.param(Adam(), torch.optim.Adam, {"lr": 0.01}, id="adam by default"),
    pytest.param(
        Adam(lr=0.3, beta1=0.5, beta2=0.9, eps=1e-3),
        torch.optim.Adam,
        {"lr": 0.3, "betas": (0.5, 0.9), "eps": 1e-3},
        id="adam with options",
    ),
    pytest.param(
        Adam(beta1=0), torch.optim.Adam, {"lr": 0.01, "betas": (0.0, 0.999)}, id="adam without mean"
    ),
    pytest.param(
        SGD(lr=0.1, nesterov=False, clip=0, own_scale=False),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9},
        id="sgd",
    ),
    pytest.param(
        SGD(lr=0.05, clip=0, own_scale=False),
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        id="sgd with Nesterov's momentum",
    ),
    pytest.param(
        SGD(lr=0.02, momentum=0, nesterov=False, clip=0, own_scale=False),
        torch.optim.SGD,
        {"lr": 0.02},
        id="sgd without momentum",
    ),
    pytest.param(
        Adam(lr=0.05, decoupled=True),
        torch.optim.AdamW,
        {"lr": 0.05, "weight_decay": 0.2},
        id="adam with a penalty beside, whose gradient is 0.2 z",
    ),
]


@pytest.mark.parametrize("unit", [1.0, 1e-6, 1e5])
def test_sgd_by_default_is_renos_rule_in_the_rewards_own_unit(unit: float) -> None:
    """Torch's SGD and torch's clipping, on a gradient in units of its first length."""

    class Scaled(Bowl):
        def slopes(self, noise_BN: Tensor) -> Slopes:
            _, grad_BN = self.value_and_grad(noise_BN)
            nothing_B = torch.zeros_like(noise_BN[:, 0])
            return Slopes(nothing_B, unit * grad_BN, nothing_B, 0.01 * noise_BN)

    optimizer = SGD().build(CPU)
    objective = Scaled(jitter=3.0)
    noise = START[:2].double()
    state = optimizer.init(noise)
    for _ in range(20):
        noise, state = optimizer.step(objective, noise, state)

    for row in range(2):
        leaf = START[row].double().requires_grad_()
        oracle = torch.optim.SGD([leaf], lr=5.0, momentum=0.9, nesterov=True)
        hand = Bowl(jitter=3.0)
        first = 0.0
        for _ in range(20):
            at = START[:2].double()
            at[row] = leaf.detach()
            grad = hand.value_and_grad(at)[1][row]
            first = first or grad.norm().item()
            leaf.grad = -(grad / first - 0.01 * leaf.detach())
            torch.nn.utils.clip_grad_norm_([leaf], 0.1)
            oracle.step()
        # Torch divides by the norm and 1e-6 more.
        torch.testing.assert_close(noise[row], leaf.detach(), rtol=1e-3, atol=1e-3)


def test_adam_with_the_penalty_in_its_means_is_as_before() -> None:
    """The published recipe asks for one clipped gradient, to the bit."""
    coupled, apart = (
        climb(Adam(decoupled=decoupled), START, 5, 0.0)[-1] for decoupled in (False, True)
    )
    assert not torch.equal(coupled, apart)
    torch.testing.assert_close(
        coupled, climb_with_torch(torch.optim.Adam, START, 0.0, lr=0.01)[4], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("jitter", [0.0, 50.0], ids=["quadratic", "random gradients"])
@pytest.mark.parametrize(("config", "kind", "options"), PAIRS)
def test_fifty_steps_equal_torch(
    config: OptimizerConfig,
    kind: type[torch.optim.Optimizer],
    options: dict[str, object],
    jitter: float,
) -> None:
    start = START.double()
    path, expected = (
        climb(config, start, 50, jitter),
        climb_with_torch(kind, start, jitter, **options),
    )
    assert (path[-1] - start).abs().min() > 0
    for noise, other in zip(path, expected, strict=True):
        torch.testing.assert_close(noise, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("config", "kind", "options"), PAIRS)
def test_float32_equals_torch_to_rounding(
    config: OptimizerConfig, kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    path, expected = climb(config, START, 50, 1.0), climb_with_torch(kind, START, 1.0, **options)
    assert path[-1].dtype == torch.float32
    torch.testing.assert_close(path[-1], expected[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [Adam(lr=0.1), Adam(decoupled=True), SGD(), SGD(own_scale=False)],
    ids=["adam", "adam, decoupled", "sgd", "sgd in the reward's unit"],
)
def test_a_step_asks_once_where_it_stands(config: OptimizerConfig) -> None:
    optimizer, objective = config.build(CPU), Bowl()
    optimizer.step(objective, START, optimizer.init(START))
    (asked_at,) = objective.asked_at
    assert torch.equal(asked_at, START)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Adam, {"lr": 0}),
        (Adam, {"beta1": 1}),
        (Adam, {"eps": 0}),
        (SGD, {"momentum": 1}),
        (SGD, {"lr": -1}),
    ],
)
def test_impossible_options_are_refused(
    cls: type[OptimizerConfig], options: dict[str, float]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        cls.model_validate(options)


def test_adams_first_step_is_as_long_on_a_grid_of_fewer_draws():
    factor = 4
    config = Adam(lr=0.02)
    fine = climb(config, START, 1, jitter=0.0)[0] - START
    coarse_start = START[:, : START.shape[1] // factor]
    coarse = climb(config.on_coarser(factor), coarse_start, 1, jitter=0.0)[0] - coarse_start
    assert torch.allclose(coarse.norm(dim=1), fine.norm(dim=1), rtol=1e-4)
