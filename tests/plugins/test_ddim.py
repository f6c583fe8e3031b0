"""The ddim sampler against diffusers' pipelines, a hand-written DDIM, and finite differences."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from distributions import Site
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers.memory import Policy, spare_blocks
from dno_builtin.samplers.ddim import DDIM
from pydantic import ValidationError
from slopes import slope, weigh
from torch import Tensor

from dno.plugin import BuildContext, ConfigError, find_model, gaussian_noise
from dno.testing.models import LATENT_SHAPE, Kind, Prediction, tiny_scheduler, tiny_stable_diffusion

pytestmark = pytest.mark.slow

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
KINDS: tuple[Kind, ...] = get_args(Kind)
PROMPTS = ["a black cat", "a white dog"]
SEEDS = [3, 4]
STEPS = 6
TOLERANCE = 3e-5
"""float32 rounding, which a network of random weights amplifies most in sample prediction."""


def stock(
    pipe: Any,
    *,
    eta: float,
    prompts: Sequence[str] = PROMPTS,
    seeds: Sequence[int] = SEEDS,
    **options: Any,
) -> Tensor:
    """What diffusers itself gives."""
    pipe.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": 5.0, **options}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    images: Tensor = pipe(
        list(prompts), eta=eta, generator=generators, output_type="pt", **arguments
    ).images
    return images


def gradient(
    sampler: DDIMSampler, prompts: Sequence[str] = PROMPTS, seeds: Sequence[int] = SEEDS
) -> tuple[Tensor, Tensor]:
    """The images where the seeds start, and the gradient of their `weigh`."""
    return slope(sampler.bind(prompts, seeds))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", get_args(Prediction))
@pytest.mark.parametrize("kind", KINDS)
def test_images_equal_the_diffusers_pipeline(
    kind: Kind, prediction: Prediction, eta: float
) -> None:
    pipe = tiny_stable_diffusion(kind, prediction)
    model = DDIMSampler(pipe, steps=STEPS, eta=eta).bind(PROMPTS, SEEDS)
    images = model(model.noise_BN)
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    torch.testing.assert_close(images, stock(pipe, eta=eta), atol=TOLERANCE, rtol=0)


LEVELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha-one": {"set_alpha_to_one": True},
    "zero-snr": {"rescale_betas_zero_snr": True},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
}
SCHEDULES = [
    pytest.param(
        {"timestep_spacing": spacing, "steps_offset": offset, **levels},
        id=f"{spacing}-{offset}-{name}",
    )
    for spacing, offset in [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)]
    for name, levels in LEVELS.items()
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_images_equal_the_diffusers_pipeline_on_every_schedule(schedule: dict[str, Any]) -> None:
    pipe: Any = tiny_stable_diffusion("sd2")
    pipe.scheduler = tiny_scheduler("v_prediction", **schedule)
    for eta in (0.5, 1.0):
        model = DDIMSampler(pipe, steps=7, eta=eta).bind(PROMPTS, SEEDS)
        images = model(model.noise_BN)
        assert images.isfinite().all()
        expected = stock(pipe, eta=eta, num_inference_steps=7)
        if schedule.get("rescale_betas_zero_snr") and eta == 1 and expected.isnan().any():
            # diffusers takes the root of a rounding error there; the limit of eta -> 1 is tested
            # below.
            continue
        torch.testing.assert_close(images, expected, atol=TOLERANCE, rtol=0)


def test_zero_signal_at_eta_one_is_the_limit_of_smaller_eta() -> None:
    pipe: Any = tiny_stable_diffusion("sd2")
    pipe.scheduler = tiny_scheduler(
        "v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    near = DDIMSampler(pipe, steps=STEPS, eta=1 - 1e-5).bind(PROMPTS, SEEDS)
    at = DDIMSampler(pipe, steps=STEPS, eta=1.0).bind(PROMPTS, SEEDS)
    torch.testing.assert_close(at(at.noise_BN), near(near.noise_BN), atol=1e-2, rtol=0)

    images, slopes = gradient(DDIMSampler(pipe, steps=STEPS))
    assert images.isfinite().all()
    assert slopes.isfinite().all()


def test_the_models_own_scheduler_may_be_another() -> None:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    pipe: Any = tiny_stable_diffusion()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    model = DDIMSampler(pipe, steps=STEPS).bind(PROMPTS, SEEDS)
    images = model(model.noise_BN)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    torch.testing.assert_close(images, stock(pipe, eta=1.0), atol=TOLERANCE, rtol=0)


def hand_written(
    pipe: Any, noise_BN: Tensor, prompts: Sequence[str], *, eta: float, guidance: float
) -> Tensor:
    """DDIM from its formulas, without diffusers' scheduler, for leading spacing, offset 1."""
    config = pipe.scheduler.config
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)
    times = [1 + index * (1000 // STEPS) for index in range(STEPS)][::-1]

    tokens = pipe.tokenizer(
        ["", *prompts],
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        return_tensors="pt",
    )
    encoded = pipe.text_encoder(tokens.input_ids)[0]
    empty = encoded[:1].expand(len(prompts), -1, -1)
    text = encoded[1:]

    draws = list(noise_BN.reshape(len(noise_BN), -1, *LATENT_SHAPE).unbind(1))
    x = draws.pop(0)
    for t in times:
        s = t - 1000 // STEPS
        a_t = alpha_bar[t]
        a_s = alpha_bar[max(s, 0)]

        uncond = pipe.unet(x, t, encoder_hidden_states=empty).sample
        cond = pipe.unet(x, t, encoder_hidden_states=text).sample
        out = uncond + guidance * (cond - uncond)

        if config.prediction_type == "epsilon":
            eps = out
        elif config.prediction_type == "v_prediction":
            eps = a_t**0.5 * out + (1 - a_t) ** 0.5 * x
        else:
            eps = (x - a_t**0.5 * out) / (1 - a_t) ** 0.5

        x0 = (x - (1 - a_t) ** 0.5 * eps) / a_t**0.5
        sigma = eta * ((1 - a_s) / (1 - a_t)) ** 0.5 * (1 - a_t / a_s) ** 0.5
        x = a_s**0.5 * x0 + (1 - a_s - sigma**2) ** 0.5 * eps
        if eta > 0:
            x = x + sigma * draws.pop(0)
    assert not draws
    image: Tensor = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return (image / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_images_and_gradients_equal_a_hand_written_ddim(prediction: Prediction, eta: float) -> None:
    pipe: Any = tiny_stable_diffusion("sd1", prediction).to(torch.float64)
    sampler = DDIMSampler(pipe, steps=STEPS, eta=eta, guidance_scale=3.0)
    model = sampler.bind(PROMPTS, SEEDS)
    noise_BN = model.noise_BN.double().requires_grad_()
    expected = hand_written(pipe, noise_BN, PROMPTS, eta=eta, guidance=3.0)
    images = model(noise_BN)
    # diffusers keeps its table of noise levels in float32: that is all the difference.
    torch.testing.assert_close(images, expected, atol=2e-5, rtol=0)

    (wanted,) = torch.autograd.grad(weigh(expected), noise_BN)
    (got,) = torch.autograd.grad(weigh(images), noise_BN)
    assert (got - wanted).norm() < 2e-4 * wanted.norm()


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind: Kind, eta: float) -> None:
    sampler = DDIMSampler(tiny_stable_diffusion(kind), steps=STEPS, eta=eta, dtype=torch.float64)
    model = sampler.bind(PROMPTS, SEEDS)
    noise_BN = model.noise_BN.double().requires_grad_()
    images = model(noise_BN)
    assert images.dtype == torch.float64
    (slopes_BN,) = torch.autograd.grad(weigh(images), noise_BN)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(noise_BN.shape, generator=generator, dtype=torch.float64)

    h = 1e-6
    with torch.no_grad():
        above = weigh(model(noise_BN + h * direction))
        below = weigh(model(noise_BN - h * direction))
    rise = (above - below) / (2 * h)
    assert (slopes_BN * direction).sum().item() == pytest.approx(rise.item(), rel=1e-6)


@pytest.mark.parametrize("memory", [name for name in get_args(Policy) if name != "keep"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_memory_policy_gives_the_same_gradient(kind: Kind, memory: Policy) -> None:
    pipe = tiny_stable_diffusion(kind)
    kept_images, kept = gradient(DDIMSampler(pipe, steps=STEPS, memory="keep"))
    images, slopes = gradient(DDIMSampler(pipe, steps=STEPS, memory=memory))
    assert torch.equal(images, kept_images)
    torch.testing.assert_close(slopes, kept, atol=1e-6, rtol=1e-5)


def saved_bytes(sampler: DDIMSampler) -> int:
    """Bytes of storage that the graph of one call keeps for the backward pass, without weights."""
    pipe: Any = sampler._sampler._pipe
    weights = {
        tensor.untyped_storage().data_ptr()
        for module in (pipe.unet, pipe.vae)
        for tensor in (*module.parameters(), *module.buffers())
    }
    model = sampler.bind(PROMPTS, SEEDS)
    noise_BN = model.noise_BN.clone().requires_grad_()
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        images = model(noise_BN)
    assert images.requires_grad
    return sum(size for pointer, size in sizes.items() if pointer not in weights)


def test_recomputing_keeps_one_network_input_a_step() -> None:
    pipe = tiny_stable_diffusion()

    def bytes_a_step(memory: Policy) -> float:
        few = saved_bytes(DDIMSampler(pipe, steps=4, memory=memory))
        many = saved_bytes(DDIMSampler(pipe, steps=12, memory=memory))
        return (many - few) / (12 - 4)

    # float32; guidance doubles the batch.
    network_input = 4 * 2 * len(PROMPTS) * math.prod(LATENT_SHAPE)
    assert bytes_a_step("recompute") <= network_input + 256
    assert bytes_a_step("keep") > 20 * network_input


@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_keeps_the_inputs_of_the_decoders_blocks_alone(kind: Kind) -> None:
    pipe = tiny_stable_diffusion(kind)
    latents = torch.randn(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    kept: dict[str, int] = {}
    slopes: dict[str, Tensor] = {}
    for memory in get_args(Policy):
        vae: Any = DDIMSampler(pipe, steps=1, memory=memory)._sampler._pipe.vae
        leaf = latents.clone().requires_grad_()
        kept[memory] = 0

        def pack(tensor: Tensor, memory: str = memory) -> Tensor:
            kept[memory] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            picture = vae.decode(leaf).sample
        (slopes[memory],) = torch.autograd.grad(weigh(picture), leaf)

    assert torch.equal(slopes["recompute"], slopes["keep"])
    assert kept["recompute"] < kept["keep"] / 2


class BookBlock(torch.nn.Module):
    """Adds what it was shown before, as decoders of videos do."""

    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        before = seen[-1] if seen else torch.zeros_like(x)
        seen.append(x.detach())
        return (x * x + before).sin()


def test_a_block_that_writes_into_what_it_is_given_is_not_computed_twice() -> None:
    slopes = []
    for memory in get_args(Policy):
        decoder = torch.nn.Sequential(BookBlock())
        assert spare_blocks(memory, decoder)
        leaf = torch.linspace(0.1, 1.0, 5).requires_grad_()
        seen: list[Tensor] = []
        values = decoder[0](decoder[0](leaf, seen), seen)
        slopes += torch.autograd.grad(values.sum(), leaf)
        assert len(seen) == 2
    assert torch.equal(slopes[0], slopes[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_two_equals_two_of_one(kind: Kind) -> None:
    sampler = DDIMSampler(tiny_stable_diffusion(kind), steps=STEPS)
    images, slopes = gradient(sampler)
    for i in range(2):
        item = slice(i, i + 1)
        image, alone = gradient(sampler, prompts=PROMPTS[item], seeds=SEEDS[item])
        torch.testing.assert_close(images[item], image, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(slopes[item], alone, atol=1e-4, rtol=1e-4)


def test_a_sample_depends_on_its_own_noise_alone() -> None:
    model = DDIMSampler(tiny_stable_diffusion(), steps=STEPS).bind(PROMPTS, SEEDS)
    noise_BN = model.noise_BN.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(weigh(model(noise_BN)[:1]), noise_BN)
    assert slopes[0].abs().max() > 0
    assert not slopes[1].any()


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("kind", KINDS)
def test_negative_prompt(kind: Kind, negative: str) -> None:
    pipe = tiny_stable_diffusion(kind)
    model = DDIMSampler(pipe, steps=STEPS, negative_prompt=negative).bind(PROMPTS, SEEDS)
    options: dict[str, Any] = {}
    if negative:
        options["negative_prompt"] = [negative] * 2
    torch.testing.assert_close(
        model(model.noise_BN), stock(pipe, eta=1.0, **options), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("guidance", [0.0, 1.0, 7.5])
def test_guidance_scale(guidance: float) -> None:
    pipe = tiny_stable_diffusion()
    model = DDIMSampler(pipe, steps=STEPS, guidance_scale=guidance).bind(PROMPTS, SEEDS)
    expected = stock(pipe, eta=1.0, guidance_scale=guidance)
    torch.testing.assert_close(model(model.noise_BN), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "shape"),
    [({"height": 24, "width": 8}, (24, 8)), ({"width": 32}, (16, 32)), ({"height": 8}, (8, 16))],
)
def test_other_sizes(kind: Kind, size: dict[str, Any], shape: tuple[int, int]) -> None:
    pipe = tiny_stable_diffusion(kind)
    model = DDIMSampler(pipe, steps=STEPS, **size).bind(PROMPTS, SEEDS)
    assert model.draws[0] == (4, shape[0] // 2, shape[1] // 2)
    images = model(model.noise_BN)
    assert images.shape == (2, 3, *shape)
    expected = stock(pipe, eta=1.0, height=shape[0], width=shape[1])
    torch.testing.assert_close(images, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("schedule", "eta", "draws"),
    [
        pytest.param({}, 0.0, 1, id="ode"),
        pytest.param({}, 1.0, 1 + STEPS, id="sde"),
        pytest.param({}, 0.01, 1 + STEPS, id="a-little-noise"),
        pytest.param({"set_alpha_to_one": True}, 1.0, STEPS, id="last-step-lands-on-no-noise"),
        pytest.param({"steps_offset": 0}, 1.0, STEPS, id="last-step-stays-where-it-is"),
    ],
)
@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_only_draws_that_act_are_in_the_noise(
    prediction: Prediction, schedule: dict[str, Any], eta: float, draws: int
) -> None:
    pipe: Any = tiny_stable_diffusion()
    pipe.scheduler = tiny_scheduler(prediction, **schedule)
    sampler = DDIMSampler(pipe, steps=STEPS, eta=eta)
    model = sampler.bind(PROMPTS, SEEDS)
    assert list(model.draws) == [LATENT_SHAPE] * draws
    assert torch.equal(model.noise_BN, gaussian_noise(model.draws, SEEDS))
    _, slopes = gradient(sampler)
    assert (slopes.reshape(len(SEEDS), draws, -1).abs().amax(dim=(0, 2)) > 0).all()


def test_the_map_is_pure() -> None:
    model = DDIMSampler(tiny_stable_diffusion(), steps=STEPS).bind(PROMPTS, SEEDS)
    state = torch.get_rng_state()
    noise_BN = model.noise_BN.clone()
    first = model(noise_BN)
    second = model(noise_BN)
    assert torch.equal(first, second)
    assert torch.equal(noise_BN, model.noise_BN)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.requires_grad
    with torch.no_grad():
        assert not model(noise_BN.clone().requires_grad_()).requires_grad


def test_prompts_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPTextModel

    calls = []
    forward = CLIPTextModel.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(CLIPTextModel, "forward", counted)
    model = DDIMSampler(tiny_stable_diffusion(), steps=2).bind(PROMPTS, SEEDS)
    bound = len(calls)
    assert bound > 0
    model(model.noise_BN)
    model(model.noise_BN)
    assert len(calls) == bound


def test_wrong_noise_and_wrong_batches_are_refused() -> None:
    sampler = DDIMSampler(tiny_stable_diffusion(), steps=2)
    with pytest.raises(ValueError, match="each sample needs a prompt and a seed, got 2 and 1"):
        sampler.bind(PROMPTS, [0])
    with pytest.raises(ValueError, match=r"the noise of these prompts is \(1, 768\), got \(1, 5\)"):
        sampler.bind(["a cat"], [0])(torch.zeros(1, 5))


def snapshot(pipe: Any) -> dict[str, Any]:
    """Everything about a pipeline that a sampler could have changed."""
    modules = {
        f"{part}.{name}": module
        for part, value in pipe.components.items()
        if isinstance(value, torch.nn.Module)
        for name, module in value.named_modules()
    }
    weights = {
        f"{part}.{name}": weight
        for part, value in pipe.components.items()
        if isinstance(value, torch.nn.Module)
        for name, weight in (*value.named_parameters(), *value.named_buffers())
    }
    return {
        "attributes": {name: id(value) for name, value in vars(pipe).items()},
        "config": dict(pipe.config),
        "scheduler": copy.deepcopy({k: str(v) for k, v in vars(pipe.scheduler).items()}),
        "modules": {name: (id(m), m.training, sorted(vars(m))) for name, m in modules.items()},
        "weights": {
            name: (
                id(w),
                w.data_ptr(),
                w.requires_grad,
                w.dtype,
                w.device,
                w.grad,
                w._version,
                w.stride(),
            )
            for name, w in weights.items()
        },
        "values": {name: weight.detach().clone() for name, weight in weights.items()},
    }


@pytest.mark.parametrize("memory", get_args(Policy))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_live_pipeline_is_left_as_it_was(kind: Kind, dtype: torch.dtype, memory: Policy) -> None:
    pipe: Any = tiny_stable_diffusion(kind)
    pipe.unet.train().requires_grad_(True)
    pipe.set_progress_bar_config(desc="mine")
    before = snapshot(pipe)
    config = DDIM(model=pipe, steps=2, memory=memory)
    config.check()
    sampler = config.build(BuildContext(device=torch.device("cpu"), dtype=dtype))
    images, slopes = gradient(sampler)
    assert images.dtype == torch.float32
    assert slopes.abs().max() > 0

    after = snapshot(pipe)
    values = after.pop("values")
    values_before = before.pop("values")
    assert after == before
    assert all(torch.equal(values[name], values_before[name]) for name in values_before)


def test_a_pipeline_in_training_mode_is_sampled_in_evaluation_mode() -> None:
    pipe: Any = tiny_stable_diffusion()
    for module in pipe.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    images, _ = gradient(DDIMSampler(pipe, steps=2))
    pipe.unet.train()
    again, _ = gradient(DDIMSampler(pipe, steps=2))
    assert torch.equal(images, again)


def test_half_precision_networks_keep_their_gradient() -> None:
    pipe = tiny_stable_diffusion()
    images, slopes = gradient(DDIMSampler(pipe, steps=STEPS))
    half_images, half_slopes = gradient(DDIMSampler(pipe, steps=STEPS, dtype=torch.bfloat16))
    assert half_images.dtype == half_slopes.dtype == torch.float32
    torch.testing.assert_close(half_images, images, atol=0.1, rtol=0)
    assert torch.cosine_similarity(half_slopes.flatten(), slopes.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_what_its_pipeline_gives(
    kind: Kind, pipeline_folders: Callable[[Kind], Path]
) -> None:
    config = DDIM(model=str(pipeline_folders(kind)), steps=STEPS)
    config.check()
    sampler = config.build(CPU)
    model = sampler.bind(PROMPTS, SEEDS)
    images = model(model.noise_BN)
    torch.testing.assert_close(
        images, stock(tiny_stable_diffusion(kind), eta=1.0), atol=TOLERANCE, rtol=0
    )
    assert not any(weight.requires_grad for weight in sampler._sampler._pipe.unet.parameters())


def test_loading_and_sampling_are_silent(
    pipeline_folders: Callable[[Kind], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = pipeline_folders("sd1")
    # Saving it, which may just have happened, is not silent.
    capfd.readouterr()
    sampler = DDIM(model=str(folder), steps=2).build(CPU)
    model = sampler.bind(["a cat"], [0])
    model(model.noise_BN)
    assert capfd.readouterr() == ("", "")


def test_checking_imports_no_torch(pipeline_folders: Callable[[Kind], Path]) -> None:
    code = (
        "import sys\n"
        "from dno_builtin.samplers.ddim import DDIM\n"
        "from dno_builtin.samplers.pipeline import Pipeline\n"
        "DDIM(model=sys.argv[1]).check()\n"
        "Pipeline(model=sys.argv[1]).check()\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(pipeline_folders("sd1"))], check=True)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"eta": 1.5},
        {"eta": -0.1},
        {"guidance_scale": -1},
        {"height": 4},
        {"memory": "less"},
        {"model": ""},
        {"model": 3},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DDIM(**options)


def refusal(config: DDIM) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.check()
    assert "\n" not in str(caught.value)
    return caught.value


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tmp_path: Path, pipeline_folders: Callable[[Kind], Path]) -> Path:
    """A copy of a pipeline folder to spoil."""
    return shutil.copytree(pipeline_folders("sd1"), tmp_path / "pipeline")


def test_check_finds_a_missing_model() -> None:
    error = refusal(DDIM(model="no-such-model"))
    assert error.at == "model"
    assert 'there is no model "no-such-model"' in error.problem


def test_check_finds_an_installed_model_without_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "dno_builtin.samplers._diffusers.where.installed_model", lambda name: tmp_path / "gone"
    )
    error = refusal(DDIM(model="emoji"))
    assert error.at == "model"
    assert error.problem.startswith('the weights of "emoji" are missing')


@pytest.mark.parametrize(
    ("files", "what"),
    [
        pytest.param({}, "nothing", id="empty"),
        pytest.param(
            {"config.json": '{"model_type": "clip"}'}, r"a transformers model \(clip\)", id="clip"
        ),
        pytest.param(
            {"config.json": '{"_class_name": "UNet"}'},
            r"one part of a pipeline \(UNet\)",
            id="part",
        ),
        pytest.param({"model.safetensors": ""}, "bare weights", id="weights"),
        pytest.param({"adapter_config.json": "{}"}, "an adapter", id="adapter"),
        pytest.param({"modular_model_index.json": "{}"}, "a modular pipeline", id="modular"),
        pytest.param({"notes.txt": ""}, "other files", id="other"),
    ],
)
def test_check_says_what_a_folder_without_a_pipeline_holds(
    tmp_path: Path, files: dict[str, str], what: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    error = refusal(DDIM(model=str(tmp_path)))
    assert error.at == "model"
    assert error.problem.startswith(str(tmp_path))
    assert re.search(what, error.problem)
    assert "model_index.json" in error.problem


def test_check_refuses_other_families(folder: Path) -> None:
    rewrite(folder / "model_index.json", _class_name="FluxPipeline")
    error = refusal(DDIM(model=str(folder)))
    assert error.at == "model"
    assert "is a FluxPipeline; ddim samples StableDiffusionPipeline and" in error.problem


def test_check_refuses_weights_that_are_no_safetensors(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "holds no .safetensors weights" in refusal(DDIM(model=str(folder))).problem


def test_check_refuses_an_index_that_is_no_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    assert "cannot be read" in refusal(DDIM(model=str(folder))).problem


def test_check_refuses_sizes_and_steps_that_do_not_suit(folder: Path) -> None:
    error = refusal(DDIM(model=str(folder), height=20))
    assert (error.at, error.problem) == (
        "height",
        "must be a multiple of 8 for this model, such as 16, got 20",
    )
    assert refusal(DDIM(model=str(folder), width=33)).at == "width"
    error = refusal(DDIM(model=str(folder), steps=1001))
    assert error.at == "steps"
    assert error.problem == "must be at most 1000, the number of the model's noise levels, got 1001"


def test_check_refuses_a_hub_id_that_is_not_here_when_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refusal(DDIM(model="nobody/no-model"))
    assert error.at == "model"
    assert "HF_HUB_OFFLINE forbids downloading it" in error.problem


def test_broken_weights_are_one_sentence(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="is not a safetensors file") as caught:
        DDIM(model=str(folder)).build(CPU)
    assert caught.value.at == "model"
    assert "\n" not in str(caught.value)


def test_own_classes_load_only_for_a_model_that_a_distribution_brings(
    site: Site, tmp_path: Path
) -> None:
    package = tmp_path / "package_with_model"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        "from dno.plugin import ModelConfig\n"
        "class Model(ModelConfig):\n"
        "    def folder(self):\n"
        "        return Path(__file__).parent / 'pipeline'\n"
    )
    # diffusers looks for `ModelMixin` among the module's names to learn how the class is loaded.
    (package / "codec.py").write_text(
        "from diffusers import AutoencoderKL, ModelMixin\nclass Codec(AutoencoderKL): pass\n"
    )
    tiny_stable_diffusion().save_pretrained(package / "pipeline")
    rewrite(package / "pipeline" / "model_index.json", vae=["package_with_model.codec", "Codec"])
    elsewhere = shutil.copytree(package / "pipeline", tmp_path / "elsewhere")

    # Being on Python's path makes no folder a package that somebody installed.
    for folder in (elsewhere, package / "pipeline"):
        with pytest.raises(ConfigError, match="package_with_model.codec"):
            DDIM(model=str(folder)).build(CPU)
        assert "package_with_model.codec" not in sys.modules

    entry = "[dno.v1.models]\nbrought = package_with_model:Model\n"
    site.install("dno-with-model", entry)
    sampler = DDIM(model="brought", steps=2).build(CPU)
    assert type(sampler._sampler._pipe.vae).__name__ == "Codec"


def test_live_pipelines_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="ddim samples .* got a Linear"):
        DDIMSampler(torch.nn.Linear(2, 2))

    pipe: Any = tiny_stable_diffusion()
    with pytest.raises(ConfigError, match="must be a multiple of 8"):
        DDIMSampler(pipe, height=20)

    with pytest.raises(ConfigError, match="starts past its last noise level with 1000 steps"):
        DDIMSampler(pipe, steps=1000)

    pipe.scheduler = tiny_scheduler(
        "epsilon", timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    message = "predicts noise and its schedule starts without any signal"
    with pytest.raises(ConfigError, match=message):
        DDIMSampler(pipe)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_embedded_model_equals_the_diffusers_pipeline(eta: float) -> None:
    import dno_emoji.codec  # noqa: F401  (diffusers loads only classes that are imported)
    from diffusers import DiffusionPipeline

    config = DDIM(eta=eta)
    config.check()
    model = config.build(CPU).bind(PROMPTS, SEEDS)
    with torch.no_grad():
        images = model(model.noise_BN)
    pipe = DiffusionPipeline.from_pretrained(find_model("emoji")).to(torch.float32)
    torch.testing.assert_close(
        images, stock(pipe, eta=eta, num_inference_steps=50), atol=1e-4, rtol=0
    )
