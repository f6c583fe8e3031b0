"""Half precision: networks in it, noise and sampler in float32, and gradients that survive it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from dno_builtin.samplers._diffusers import modules
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline
from tiny_families import tiny_call, tiny_pipeline
from torch import Tensor, nn

import dno
from dno.plugin import BuildContext, ConfigError, RunError, quiet

pytestmark = pytest.mark.slow

MODELS = ("sd1", "sdxl", "flux")
HALVES = (torch.float16, torch.bfloat16)
UNCHOSEN = BuildContext(torch.device("cpu"), torch.float32, dtype_chosen=False)
PROMPTS = ("a cat", "a dog")


def network(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def halved(name: str, dtype: torch.dtype) -> Any:
    pipe = tiny_pipeline(name)
    with quiet():
        return pipe.to(dtype)


def sampler(pipe: Any, name: str, **options: Any) -> PipelineSampler:
    call = tiny_call(name)
    sizes = {side: call.pop(side, None) for side in ("height", "width")}
    return PipelineSampler(pipe, steps=3, **sizes, options=call, **options)


def gradient(
    bound: Any, scales: Sequence[float] = (1.0, 1.0), noise_BN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The images, and the gradient of a weighted sum of them, each image's with its own scale."""
    start_BN = bound.noise_BN if noise_BN is None else noise_BN
    leaf_BN = start_BN.clone().requires_grad_()
    images = bound(leaf_BN)
    weights = torch.linspace(-1, 1, images[0].numel()).reshape(images[0].shape)
    scores_B = (images * weights).flatten(1).sum(dim=1)
    (slope_BN,) = torch.autograd.grad((scores_B * torch.tensor(scales)).sum(), leaf_BN)
    return images.detach(), slope_BN


def cosine(found: Tensor, wanted: Tensor) -> float:
    return float(torch.cosine_similarity(found.double().flatten(), wanted.double().flatten(), 0))


def memory_of(module: nn.Module) -> set[int]:
    return {weight.untyped_storage().data_ptr() for weight in module.parameters()}


def modules_of(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_live_pipeline_computes_in_its_own_dtype_on_its_own_weights(
    name: str, dtype: torch.dtype
) -> None:
    expected, expected_BN = gradient(sampler(tiny_pipeline(name), name).bind(PROMPTS, [0, 1]))
    pipe = halved(name, dtype)
    before = {part: memory_of(module) for part, module in modules_of(pipe).items()}
    made = sampler(pipe, name)
    images, slope_BN = gradient(made.bind(PROMPTS, [0, 1]))

    assert images.dtype == slope_BN.dtype == torch.float32
    assert (images - expected).abs().max() < 0.05
    assert cosine(slope_BN, expected_BN) > 0.998
    for part, module in modules_of(made._pipe).items():
        if part == "vae":
            assert {weight.dtype for weight in module.parameters()} == {torch.float32}
        else:
            assert {weight.dtype for weight in module.parameters()} == {dtype}
            assert memory_of(module) == before[part]
    for part, module in modules_of(pipe).items():
        assert {weight.dtype for weight in module.parameters()} == {dtype}
        assert memory_of(module) == before[part]


def test_parts_of_several_types_keep_each_its_own() -> None:
    pipe: Any = tiny_pipeline("sdxl")
    with quiet():
        pipe.unet.half()
        pipe.text_encoder.bfloat16()
    before = {part: memory_of(module) for part, module in modules_of(pipe).items()}
    made = sampler(pipe, "sdxl")
    _, slope_BN = gradient(made.bind(PROMPTS, [0, 1]))
    assert slope_BN.isfinite().all()

    found = modules_of(made._pipe)
    assert {name: memory_of(module) for name, module in found.items()} == before
    types = {name: next(module.parameters()).dtype for name, module in found.items()}
    assert types == {
        "unet": torch.float16,
        "text_encoder": torch.bfloat16,
        "text_encoder_2": torch.float32,
        "vae": torch.float32,
    }


def test_what_is_chosen_goes_before_what_a_pipeline_has() -> None:
    pipe = halved("sd1", torch.float16)
    for config in (DDIM(model=pipe), Pipeline(model=pipe)):
        assert config.dtypes(UNCHOSEN)["dtype"] is None
        chosen = BuildContext(torch.device("cpu"), torch.float32)
        assert config.dtypes(chosen)["dtype"] == torch.float32
    assert DDIM(model="emoji").dtypes(UNCHOSEN)["dtype"] == torch.float32

    made: Any = DDIM(model=pipe, steps=2).build(UNCHOSEN)
    assert made._sampler._pipe.unet.dtype == torch.float16
    made = DDIM(model=pipe, steps=2).build(chosen)
    assert made._sampler._pipe.unet.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "vae_dtype"), [("sd1", None), ("sdxl", torch.float16), ("flux", None)]
)
def test_small_gradients_survive_float16(
    name: str, vae_dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected_BN = gradient(sampler(tiny_pipeline(name), name).bind(PROMPTS, [0, 1]))
    made = sampler(halved(name, torch.float16), name, vae_dtype=vae_dtype)
    bound = made.bind(PROMPTS, [0, 1])
    _, whole_BN = gradient(bound)
    # A power of two: not one bit may change, however small it is, or the neighbour is.
    for scales in ((2.0**-24, 2.0**-24), (1.0, 2.0**-40), (2.0**30, 1.0)):
        _, slope_BN = gradient(bound, scales)
        assert torch.equal(slope_BN / torch.tensor(scales)[:, None], whole_BN)
    assert cosine(whole_BN, expected_BN) > 0.9999

    class Unscaled(modules.Lift):
        def enter(self, value: Any) -> Any:
            return value

        def leave(self, value: Any) -> Any:
            return value

    monkeypatch.setattr(modules, "Lift", Unscaled)
    _, lost_BN = gradient(bound, (2.0**-24, 2.0**-24))
    assert cosine(lost_BN, expected_BN) < 0.96


def test_a_sick_sample_leaves_its_neighbours_float16_gradient_as_it_was() -> None:
    bound = sampler(halved("sd1", torch.float16), "sd1").bind(PROMPTS, [0, 1])
    _, whole_BN = gradient(bound)
    for sick in (float("nan"), float("inf")):
        _, slope_BN = gradient(bound, (sick, 1.0))
        assert torch.equal(slope_BN[1], whole_BN[1])
        assert not slope_BN[0].isfinite().all()


def test_recomputing_gives_the_same_float16_gradient() -> None:
    pipe = halved("sdxl", torch.float16)
    kept = gradient(sampler(pipe, "sdxl").bind(PROMPTS, [0, 1]))
    again = gradient(sampler(pipe, "sdxl", memory="recompute").bind(PROMPTS, [0, 1]))
    for found, wanted in zip(again, kept, strict=True):
        assert torch.equal(found, wanted)


def test_a_decoder_computes_in_what_is_chosen_unless_it_overflows() -> None:
    pipe: Any = tiny_pipeline("sdxl")
    _, wide_BN = gradient(sampler(pipe, "sdxl").bind(PROMPTS, [0, 1]))
    made = sampler(pipe, "sdxl", vae_dtype=torch.bfloat16)
    _, slope_BN = gradient(made.bind(PROMPTS, [0, 1]))
    assert made._pipe.vae.dtype == torch.bfloat16
    assert cosine(slope_BN, wide_BN) > 0.99

    # Filled in by diffusers, it says nothing of this decoder.
    sampler(pipe, "sdxl", vae_dtype=torch.float16)
    config = {**pipe.vae.config, "force_upcast": True}
    pipe.vae = type(pipe.vae).from_config(config)
    pipe.vae.register_to_config(_use_default_values=[])
    with pytest.raises(ConfigError, match=r"vae_dtype: the model's vae overflows in float16"):
        sampler(pipe, "sdxl", vae_dtype=torch.float16)


@dataclass(frozen=True)
class Sick:
    """Types that parts are computed in, and what is said when they give what is not finite."""

    network: torch.dtype
    options: Mapping[str, Any]
    remedy: str


SICK = (
    Sick(torch.float16, {}, "computes unet in float16, which ends at 65504; choose dtype=bfloat16"),
    Sick(torch.float32, {"vae_dtype": "float16"}, "computes vae in float16, .* sampler.vae_dtype"),
    Sick(torch.bfloat16, {}, "or dtype=float32: the model computes unet in bfloat16"),
    Sick(torch.float32, {}, "smaller learning rate; the model computes in float32 already"),
)


@pytest.mark.parametrize("case", SICK, ids=lambda case: f"{case.network} {dict(case.options)}")
def test_what_is_not_finite_is_told_with_its_remedy(case: Sick) -> None:
    pipe = halved("sd1", case.network)
    pipe.vae.float()
    sick = pipe.vae.decoder.conv_out if case.options else pipe.unet.conv_out
    with torch.no_grad():
        for weight in sick.parameters():
            weight.mul_(torch.finfo(weight.dtype).max)
    settings = {f"sampler.{name}": value for name, value in case.options.items()}
    with pytest.raises(RunError, match=rf"output is not finite .*{case.remedy}"):
        dno.optimize(
            "a cat", model=pipe, reward="brightness", steps=2, iterations=1, settings=settings
        )
