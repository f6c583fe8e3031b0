"""The noise tape, on plain functions and under pipelines with schedulers of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from dno_builtin.samplers._diffusers.tape import NoiseTape
from torch import Tensor

from dno.plugin import RunError
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow


def constant(value: float) -> Callable[[tuple[int, ...]], Tensor]:
    return lambda shape: torch.full(shape, value)


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        pytest.param(lambda: torch.randn(2, 3), (2, 3), id="sizes"),
        pytest.param(lambda: torch.randn((2, 3)), (2, 3), id="tuple"),
        pytest.param(lambda: torch.randn(torch.Size([2, 3])), (2, 3), id="Size"),
        pytest.param(lambda: torch.randn(size=(2, 3)), (2, 3), id="keyword"),
        pytest.param(lambda: torch.randn([2], generator=torch.Generator()), (2,), id="generator"),
        pytest.param(lambda: torch.randn(4), (4,), id="one-size"),
        pytest.param(lambda: torch.randn(()), (), id="no-size"),
        pytest.param(lambda: torch.randn_like(torch.empty(2, 3)), (2, 3), id="like"),
        pytest.param(lambda: torch.randn_like(input=torch.empty(2, 3)), (2, 3), id="like-keyword"),
    ],
)
def test_every_way_of_drawing_is_answered(
    call: Callable[[], Tensor], shape: tuple[int, ...]
) -> None:
    asked: list[tuple[int, ...]] = []

    def draw(wanted: tuple[int, ...]) -> Tensor:
        asked.append(wanted)
        return torch.full(wanted, 7.0)

    with NoiseTape(draw):
        drawn = call()
    assert asked == [shape]
    assert torch.equal(drawn, torch.full(shape, 7.0))


def test_a_draw_has_the_dtype_asked_for() -> None:
    with NoiseTape(constant(1.0)):
        assert torch.randn(2, dtype=torch.float16).dtype == torch.float16
        assert torch.randn_like(torch.empty(2, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert torch.randn_like(torch.empty(2), dtype=torch.float64).dtype == torch.float64
        assert torch.randn(2).dtype == torch.float32
        assert torch.randn(2, device="meta").device.type == "meta"


def test_writing_into_a_draw_leaves_the_given_noise_as_it_was() -> None:
    noise = torch.ones(3)
    with NoiseTape(lambda shape: noise):
        torch.randn(3).mul_(5)
    assert torch.equal(noise, torch.ones(3))


def test_gradients_pass_through_no_grad() -> None:
    @torch.no_grad()
    def sample() -> Tensor:
        first = torch.randn(3)
        with torch.no_grad():
            return first**2 + 3 * torch.randn_like(first)

    leaves = [torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)]
    for leaf in leaves:
        leaf.requires_grad_()

    given = iter(leaves)
    with NoiseTape(lambda shape: next(given)):
        total = sample().sum()

    first, second = torch.autograd.grad(total, leaves)
    assert torch.equal(first, 2 * leaves[0])
    assert torch.equal(second, torch.full((3,), 3.0))


def test_a_tape_entered_without_gradients_records_none() -> None:
    leaf = torch.zeros(3, requires_grad=True)
    with torch.no_grad(), NoiseTape(lambda shape: leaf):
        with torch.enable_grad():
            drawn = torch.randn(3)
        assert not drawn.requires_grad


def test_an_error_inside_ends_the_tape_and_keeps_the_gradient_mode() -> None:
    with pytest.raises(ZeroDivisionError), NoiseTape(constant(1.0)), torch.no_grad():
        _ = 1 / 0
    assert torch.is_grad_enabled()
    assert not torch.equal(torch.randn(8), torch.ones(8))
    with torch.no_grad():
        assert not torch.is_grad_enabled()


def test_noise_of_another_shape_is_refused() -> None:
    message = r"drew noise of shape \(2, 3\) where \(6,\) was recorded"
    with pytest.raises(RunError, match=message), NoiseTape(lambda shape: torch.zeros(6)):
        torch.randn(2, 3)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: torch.rand(2), id="rand"),
        pytest.param(lambda: torch.randint(0, 5, (2,)), id="randint"),
        pytest.param(lambda: torch.randperm(4), id="randperm"),
        pytest.param(lambda: torch.empty(2).uniform_(), id="uniform_"),
        pytest.param(lambda: torch.empty(2).normal_(0, 2), id="normal_"),
        pytest.param(lambda: torch.normal(torch.zeros(2), torch.ones(2)), id="normal"),
        pytest.param(lambda: torch.bernoulli(torch.ones(2)), id="bernoulli"),
    ],
)
def test_other_random_draws_are_refused(call: Callable[[], Tensor]) -> None:
    with pytest.raises(RunError, match="not Gaussian noise"), NoiseTape(constant(0.0)):
        call()


SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, {}),
    "sde-dpm++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "lcm": (diffusers.LCMScheduler, {"clip_sample": False}),
}


# numpy 2 says so of torch tensors, which diffusers' Euler schedulers hand it.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_replayed_pipeline_gives_the_same_images_with_gradients(kind: Any, name: str) -> None:
    cls, options = SCHEDULERS[name]
    pipe: Any = tiny_stable_diffusion(kind)
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {
        "prompt": "a cat",
        "num_inference_steps": 5,
        "output_type": "pt",
        "return_dict": False,
    }
    generator = torch.Generator().manual_seed(3)
    leaves: list[Tensor] = []

    def draw(shape: tuple[int, ...]) -> Tensor:
        leaf = torch.randn(shape, generator=generator).requires_grad_()
        leaves.append(leaf)
        return leaf

    plain = pipe(**arguments, generator=torch.Generator().manual_seed(3))[0]
    with NoiseTape(draw):
        taped = pipe(**arguments)[0]
    torch.testing.assert_close(taped.detach(), plain, atol=1e-5, rtol=0)

    # The last draw of some schedulers is scaled by zero.
    gradients = torch.autograd.grad(taped.sum(), leaves, allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0].abs().max() > 0
