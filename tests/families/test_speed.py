"""Compiled blocks and channels-last weights: the plain answers and gradients, or a refusal."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers.choice import uniform
from dno_builtin.samplers._diffusers.memory import Level
from dno_builtin.samplers._diffusers.speed import repeated
from dno_builtin.samplers._pipeline import PipelineSampler
from slopes import slope
from tiny_conditioned import conditioned_pipeline
from tiny_families import tiny_pipeline
from torch import Tensor

import dno
from dno.errors import ConfigError
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

PROMPTS = ["a black cat", "a white dog"]
STEPS = 3
SIZE = {"height": 16, "width": 16}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and g++ is not here"
)


def sampler(kind: str, pipe: Any = None, **options: Any) -> Any:
    if kind in ("sd1", "sdxl"):
        pipe = tiny_stable_diffusion(kind) if pipe is None else pipe
        return DDIMSampler(pipe, steps=STEPS, **options)
    return PipelineSampler(tiny_pipeline(kind), steps=STEPS, **SIZE, **options)


def check_near(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def graphs() -> int:
    """How many were compiled so far."""
    found: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return found


LEVELS: dict[str, tuple[Level, Level]] = {
    "keep": ("keep", "keep"),
    "step": ("step", "step"),
    "blocks": ("blocks", "step"),
}


@needs_compiler
@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_compiled_blocks_have_the_plain_gradient_at_every_level(kind: str) -> None:
    plain = slope(sampler(kind, memory="keep").bind(PROMPTS, [1, 2]))
    torch._dynamo.reset()
    before = graphs()
    bound = sampler(kind, memory="auto", compile=True).bind(PROMPTS, [1, 2])
    # What is rehearsed and measured is not compiled, nor waited for.
    assert graphs() == before
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (network, decoder) in LEVELS.items():
        bound._memory.levels = uniform(bound._memory._calls, network, decoder)
        found[name] = slope(bound)
        check_near(found[name], plain)
        if name == "keep":
            assert graphs() > before
            after = graphs()
    # Each level computes the same, by what was compiled for the first.
    assert graphs() == after
    for images, gradient in found.values():
        assert torch.equal(images, found["keep"][0])
        assert torch.equal(gradient, found["keep"][1])
    check_bits_do_not_depend_on_what_was_compiled(kind, bound, found["keep"])


def check_bits_do_not_depend_on_what_was_compiled(
    kind: str, bound: Any, before: tuple[Tensor, Tensor]
) -> None:
    """As in a process that goes on with the run, and has had other shapes first."""
    if kind != "sd1":
        return
    torch._dynamo.reset()
    slope(sampler(kind, memory="keep", compile=True).bind(PROMPTS[:1], [1]))
    images, gradient = slope(bound)
    assert torch.equal(images, before[0])
    assert torch.equal(gradient, before[1])


def test_networks_without_repeated_blocks_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"compile: no network of the pipeline \(unet, .* repeated"
    ):
        sampler("kandinsky22", compile=True)


def test_without_a_compiler_it_is_told_before_the_model_loads(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match=r"sampler\.compile: torch.compile needs a C\+\+ compiler"
    ):
        dno.load(
            reward="brightness",
            sampler={"use": "ddim", "model": str(tiny_folder), "compile": True},
            device="cpu",
        )


@pytest.mark.skipif(find_spec("torchao") is None, reason="quantised weights need torchao")
@pytest.mark.parametrize("option", ["compile", "channels_last"])
def test_quantised_weights_are_refused(option: str) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    pipe = tiny_stable_diffusion()
    quantize_(pipe.unet, Int8WeightOnlyConfig())
    with pytest.raises(ConfigError, match=f"{option}: the pipeline's unet has quantised weights"):
        sampler("sd1", pipe, **{option: True})


@pytest.mark.parametrize("kind", ["sd1", "flux"])
def test_channels_last_has_the_plain_gradient_and_leaves_a_pipeline_as_it_was(kind: str) -> None:
    plain = slope(sampler(kind, memory="keep").bind(PROMPTS, [1, 2]))
    made = sampler(kind, memory="recompute", channels_last=True)
    check_near(slope(made.bind(PROMPTS, [1, 2])), plain)
    private = made._sampler._pipe if kind == "sd1" else made._pipe
    convolved = [w for w in private.vae.parameters() if w.ndim == 4 and w.shape[2] > 1]
    assert convolved
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolved)


def test_a_live_pipeline_keeps_the_order_of_its_weights() -> None:
    pipe = tiny_stable_diffusion()
    before = {
        name: (weight.data_ptr(), weight.stride(), weight.clone())
        for part in (pipe.unet, pipe.vae, pipe.text_encoder)
        for name, weight in part.named_parameters()
    }
    slope(sampler("sd1", pipe, channels_last=True).bind(PROMPTS, [1, 2]))
    assert not any("forward" in vars(part) for part in repeated(pipe.unet))
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        for name, weight in part.named_parameters():
            place, stride, value = before[name]
            assert (weight.data_ptr(), weight.stride()) == (place, stride)
            assert torch.equal(weight, value)


def test_three_dimensions_have_no_such_order() -> None:
    with pytest.raises(ConfigError, match="channels_last: the pipeline's .* three dimensions"):
        PipelineSampler(conditioned_pipeline("wan"), channels_last=True)


def test_a_run_says_what_was_done_for_speed(tiny_folder: Any, tmp_path: Any) -> None:
    options: dict[str, Any] = {"reward": "brightness", "device": "cpu", "iterations": 1}
    table = {"use": "ddim", "model": str(tiny_folder), "steps": 2, "channels_last": True}
    settings = {"tf32": True}
    dno.optimize("a cat", out=tmp_path / "run", sampler=table, settings=settings, **options)
    text = (tmp_path / "run" / "run.toml").read_text()
    assert "tf32 = true" in text
    assert "channels_last = true" in text
    assert "compile = false" in text
