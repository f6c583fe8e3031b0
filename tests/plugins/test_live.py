"""Pipelines as a process has them at hand: each is sampled as it is, or what it has is named."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._pipeline import PipelineSampler
from torch import Tensor, nn

from dno.plugin import ConfigError
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow


def images(pipe: Any) -> tuple[Tensor, Tensor]:
    """What is drawn of it, and the gradient of its brightness."""
    bound = PipelineSampler(pipe, steps=2).bind(["a cat"], [0])
    leaf_BN = bound.noise_BN.clone().requires_grad_()
    drawn = bound(leaf_BN)
    (slope_BN,) = torch.autograd.grad(drawn.mean(), leaf_BN)
    return drawn.detach(), slope_BN


class Drawing(nn.Module):
    """A block that adds noise from a generator of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        noise = torch.randn(hidden.shape, generator=self.generator)
        return self.inner(hidden + 0.01 * noise, *args, **kwargs)


class Dropping(nn.Module):
    """A block that drops a part of what it answers, whatever its mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(self.inner(hidden), 0.1)


def with_dropout(pipe: Any) -> None:
    pipe.unet.conv_in = Dropping(pipe.unet.conv_in)


def with_own_generator(pipe: Any) -> None:
    pipe.unet.conv_in = Drawing(pipe.unet.conv_in)


def without(name: str) -> Callable[[Any], None]:
    return lambda pipe: setattr(pipe, name, None)


def wrapped(name: str) -> Callable[[Any], None]:
    return lambda pipe: setattr(pipe, name, nn.DataParallel(getattr(pipe, name)))


NAMED = {
    "DataParallel": (wrapped("unet"), r"unet is wrapped in DataParallel; .* pipe.unet.module\)"),
    "DataParallel VAE": (wrapped("vae"), "vae is wrapped in DataParallel"),
    "no text encoder": (without("text_encoder"), "has no text_encoder, without which"),
    "no tokenizer": (without("tokenizer"), "has no tokenizer, without which"),
    "no unet": (without("unet"), "has no unet, without which"),
    "own generator": (with_own_generator, "has a network that draws noise of its own"),
    "dropout": (with_dropout, "has a network that draws noise of its own"),
}


@pytest.mark.parametrize("sampler", [DDIMSampler, PipelineSampler])
@pytest.mark.parametrize(("change", "told"), NAMED.values(), ids=NAMED.keys())
def test_what_cannot_be_sampled_is_named(
    sampler: Callable[..., Any], change: Callable[[Any], None], told: str
) -> None:
    pipe = tiny_stable_diffusion()
    change(pipe)
    with pytest.raises(ConfigError, match=told):
        sampler(pipe, steps=2).bind(["a cat"], [0])


def test_parts_that_a_pipeline_may_do_without_are_told_where_it_fails() -> None:
    pipe: Any = tiny_stable_diffusion("sdxl")
    pipe.text_encoder_2 = None
    with pytest.raises(ConfigError, match=r"cannot be sampled .* \(it has no text_encoder_2\)"):
        PipelineSampler(pipe, steps=2).bind(["a cat"], [0])


def test_a_pipeline_of_inference_tensors_is_sampled() -> None:
    usual = images(tiny_stable_diffusion())
    with torch.inference_mode():
        pipe: Any = tiny_stable_diffusion()
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            for name, weight in list(part.named_parameters()):
                owner, _, last = name.rpartition(".")
                made = nn.Parameter(weight.detach().clone(), requires_grad=False)
                setattr(part.get_submodule(owner), last, made)
    assert pipe.unet.conv_in.weight.is_inference()

    for found, wanted in zip(images(pipe), usual, strict=True):
        assert torch.equal(found, wanted)
    assert pipe.unet.conv_in.weight.is_inference()


def test_what_another_thread_draws_is_none_of_the_pipelines() -> None:
    done = threading.Event()

    def neighbour() -> None:
        while not done.is_set():
            torch.randn(4)

    thread = threading.Thread(target=neighbour)
    thread.start()
    try:
        for _ in range(3):
            PipelineSampler(tiny_stable_diffusion(), steps=2).bind(["a cat"], [0])
    finally:
        done.set()
        thread.join()


def test_a_pipeline_that_was_sampled_is_left_as_it_was() -> None:
    pipe: Any = tiny_stable_diffusion()
    assert isinstance(pipe, StableDiffusionPipeline)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    images(pipe)
    assert all(torch.equal(weight, before[name]) for name, weight in pipe.unet.state_dict().items())
