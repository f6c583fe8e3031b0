"""Classes of torch.optim as optimizers: against those classes, run by hand."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from dno_builtin.optimizers.torch_optim import TorchOptim
from safetensors.torch import load, save
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.plugin import BuildContext, ConfigError, Optimizer, Slopes

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
START = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
STEPS = 12


class Bumpy:
    """An objective without symmetry; each row by itself, its penalty a tenth of |z|^2."""

    def value(self, noise_BN: Tensor) -> Tensor:
        return -(noise_BN - 1).square().sum(1) + (3 * noise_BN).sin().sum(1)

    def value_and_grad(self, noise_BN: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(noise_BN), -2 * (noise_BN - 1) + 3 * (3 * noise_BN).cos()

    def slopes(self, noise_BN: Tensor) -> Slopes:
        value_B, grad_BN = self.value_and_grad(noise_BN)
        return Slopes(value_B, grad_BN, 0.1 * noise_BN.square().sum(1), 0.2 * noise_BN)


def built(**options: Any) -> Optimizer:
    return TorchOptim(**options).build(CPU)


def climb(optimizer: Optimizer, start: Tensor, steps: int = STEPS) -> list[Tensor]:
    """The path, its state saved and read again after every step."""
    noise, state = start, optimizer.init(start)
    path = []
    for _ in range(steps):
        noise, state = optimizer.step(Bumpy(), noise, load(save(dict(state))))
        path.append(noise)
    return path


def by_hand(
    kind: type[torch.optim.Optimizer],
    options: dict[str, Any],
    start: Tensor,
    schedule: Any = None,
    schedule_options: dict[str, Any] | None = None,
) -> list[Tensor]:
    """Torch's own loop, of one row."""
    leaf = start.clone().requires_grad_()
    optimizer = kind([leaf], **options)
    plan = schedule(optimizer, **(schedule_options or {})) if schedule else None
    path = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = -Bumpy().value(leaf[None]).sum()
        leaf.grad = -Bumpy().value_and_grad(leaf.detach()[None])[1][0]
        optimizer.step()
        if isinstance(plan, torch.optim.lr_scheduler.ReduceLROnPlateau):
            plan.step(loss.item())
        elif plan is not None:
            plan.step()
        path.append(leaf.detach().clone())
    return path


CLASSES: list[tuple[str, dict[str, Any]]] = [
    ("Adadelta", {"lr": 3.0}),
    ("Adafactor", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1}),
    ("Adam", {"lr": 0.05, "betas": [0.5, 0.9], "amsgrad": True}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3}),
    ("Adamax", {}),
    ("ASGD", {"lr": 0.02, "t0": 3}),
    ("NAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.05}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Rprop", {}),
    ("SGD", {"lr": 0.02}),
    ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
]
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("ConstantLR", {"total_iters": 4}),
    ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.001}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3}),
    ("ExponentialLR", {"gamma": 0.8}),
    ("LinearLR", {"total_iters": 6}),
    ("MultiStepLR", {"milestones": [2, 7]}),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": STEPS + 1}),
    ("PolynomialLR", {"total_iters": 9, "power": 2.0}),
    ("ReduceLROnPlateau", {"patience": 1, "threshold": 50.0, "threshold_mode": "abs"}),
    ("StepLR", {"step_size": 3}),
]


@pytest.mark.parametrize(("name", "options"), CLASSES)
def test_the_path_is_torchs_own_row_by_row_and_through_a_saved_state(name, options):
    path = climb(built(cls=name, options=options), START)
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    for row, start in enumerate(START):
        expected = by_hand(getattr(torch.optim, name), plain, start)
        assert not torch.equal(expected[-1], start)
        for noise, other in zip(path, expected, strict=True):
            assert torch.equal(noise[row], other)


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_schedules_go_on_as_torchs_own_do(rule, name, options):
    chosen = {"lr": 0.1, "momentum": 0.9} if rule == "SGD" else {"lr": 0.1, "betas": [0.9, 0.99]}
    optimizer = built(cls=rule, options=chosen, schedule=name, schedule_options=options)
    path = climb(optimizer, START)
    schedule = getattr(torch.optim.lr_scheduler, name)
    constant = climb(built(cls=rule, options=chosen), START)
    assert not torch.equal(path[-1], constant[-1])
    for row, start in enumerate(START):
        expected = by_hand(getattr(torch.optim, rule), chosen, start, schedule, options)
        for noise, other in zip(path, expected, strict=True):
            assert torch.equal(noise[row], other)


def test_a_batch_of_three_is_three_of_one_where_a_class_looks_at_a_whole_tensor():
    """Adafactor scales by the mean square over its tensor, which must be one sample's."""
    optimizer = built(cls="Adafactor", options={"lr": 0.1})
    start = START * torch.tensor([[0.1], [1.0], [10.0]])
    together = climb(optimizer, start)[-1]
    for row in range(3):
        assert torch.equal(climb(optimizer, start[row : row + 1])[-1][0], together[row])


def test_a_step_changes_nothing_that_it_was_given():
    optimizer = built(cls="AdamW", schedule="StepLR", schedule_options={"step_size": 2})
    noise, state = optimizer.step(Bumpy(), START, optimizer.init(START))
    before = {name: value.clone() for name, value in state.items()}
    at = noise.clone()
    first = optimizer.step(Bumpy(), noise, state)
    assert torch.equal(noise, at)
    for name, value in before.items():
        assert torch.equal(state[name], value), name
    again = optimizer.step(Bumpy(), noise, state)
    assert torch.equal(first[0], again[0])


def test_decoupled_penalties_are_adamws_decay():
    """The gradient of a |z|^2 / 2 is a z: what AdamW takes off with weight_decay = a."""
    ours = climb(built(cls="Adam", options={"lr": 0.05}, decoupled=True), START)
    decayed = climb(built(cls="AdamW", options={"lr": 0.05, "weight_decay": 0.2}), START)
    for noise, other in zip(ours, decayed, strict=True):
        torch.testing.assert_close(noise, other, rtol=1e-5, atol=1e-6)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cls": "Nadm"}, r"cls: torch.optim has no 'Nadm'; did you mean NAdam"),
    ({"cls": "nadam"}, r"cls: .* did you mean NAdam"),
    ({"cls": "Optimizer"}, r"cls: torch.optim has no"),
    ({"cls": "lr_scheduler"}, r"cls: torch.optim has no"),
    ({"cls": "LBFGS"}, r"cls: LBFGS cannot be used here: .*closure"),
    ({"cls": "SparseAdam"}, r"cls: SparseAdam cannot be used here: .*sparse"),
    ({"cls": "Adam", "options": {"beta": 0.9}}, r"options.beta: Adam has no .* mean betas"),
    ({"options": {"maximize": True}}, r"options.maximize: is set already"),
    ({"options": {"params": 1}}, r"options.params: NAdam has no such option"),
    ({"options": {"lr": -1.0}}, r"torch.optim.NAdam does not take noise .*: Invalid learning rate"),
    ({"options": {"lr": "fast"}}, r"torch.optim.NAdam does not take noise with these options"),
    ({"schedule": "CosineAnealing"}, r"schedule: .* did you mean CosineAnnealing"),
    ({"schedule": "LambdaLR"}, r"schedule: LambdaLR cannot be used here: .*function"),
    ({"schedule": "SequentialLR"}, r"schedule: SequentialLR cannot be used here"),
    ({"schedule": "StepLR"}, r"step_size"),
    ({"schedule": "StepLR", "schedule_options": {"size": 2}}, r"schedule_options.size: StepLR has"),
    ({"schedule_options": {"gamma": 2}}, r"schedule: has options for no schedule"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED)
def test_what_cannot_work_is_refused_in_one_sentence(options, told):
    with pytest.raises(ConfigError, match=told) as caught:
        built(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_a_class_for_matrices_is_refused():
    with pytest.raises(ConfigError, match=r"torch.optim.Muon does not take noise .* 2D"):
        built(cls="Muon")


def test_no_class_of_torch_is_met_unprepared():
    """Every class either climbs or is refused in a sentence, and none warns."""
    classes = [
        name
        for name, one in vars(torch.optim).items()
        if isinstance(one, type) and issubclass(one, torch.optim.Optimizer)
    ]
    climbed = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in classes:
            try:
                optimizer = built(cls=name)
            except ConfigError:
                continue
            optimizer.step(Bumpy(), START, optimizer.init(START))
            climbed.append(name)
    assert {"Adam", "AdamW", "NAdam", "RMSprop", "SGD"} <= set(climbed)
    assert not {"LBFGS", "Muon", "Optimizer", "SparseAdam"} & set(climbed)


def test_checking_options_imports_no_torch():
    code = (
        "import sys\n"
        "from dno_builtin.optimizers.torch_optim import TorchOptim\n"
        "try: TorchOptim(cls='LBFGS').check()\n"
        "except ValueError: print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_run_from_toml_values(tmp_path):
    result = dno.optimize(
        "x",
        reward=lambda points, prompts: points.mean(dim=1),
        sampler=FunctionSampler(lambda z: z, [(50,)]),
        regularizer=[],
        constraint=[],
        optimizer={
            "use": "torch",
            "cls": "NAdam",
            "options": {"lr": 0.02},
            "schedule": "CosineAnnealingLR",
            "schedule_options": {"T_max": 10},
        },
        iterations=10,
    )
    assert result.history[-1].objective[0] > result.history[0].objective[0] + 0.05
