"""The pipeline sampler against diffusers' own pipelines and finite differences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import diffusers
import pytest
import torch
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers.clip_skip import ENCODER, reads_the_part
from dno_builtin.samplers._diffusers.memory import Policy
from dno_builtin.samplers._diffusers.noise_map import PipelineNoiseMap
from dno_builtin.samplers._diffusers.schedule import make_scheduler
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.pipeline import Pipeline
from slopes import slope, weigh
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from dno.plugin import IMAGE, BuildContext, ConfigError, RunError, gaussian_noise
from dno.testing.models import LATENT_SHAPE, Kind, tiny_stable_diffusion

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
PROMPTS = ["a black cat", "a white dog"]
SEEDS = [3, 4]
STEPS = 4
TOLERANCE = 1e-5

# numpy 2 says so of torch tensors, which diffusers' Euler schedulers hand it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@dataclass(frozen=True)
class Case:
    """A way of sampling, and what is known of it."""

    id: str
    scheduler: str
    changes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    draws: int = STEPS + 1
    """Draws that act on the image."""
    guidance: float = 3.0


CASES = [
    Case("ddim", "DDIMScheduler", options={"eta": 1.0}),
    Case("ddim-ode", "DDIMScheduler", draws=1),
    Case("euler", "EulerDiscreteScheduler", draws=1),
    Case("euler-ancestral", "EulerAncestralDiscreteScheduler", draws=STEPS),
    Case("dpm++", "DPMSolverMultistepScheduler", draws=1),
    Case(
        "sde-dpm++",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
        draws=STEPS,
    ),
    Case("lcm", "LCMScheduler", draws=STEPS, guidance=0.0),
]
each_case = pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
each_kind = pytest.mark.parametrize("kind", ["sd1", "sdxl"])


def sampler(kind: Kind, case: Case, **changes: Any) -> tuple[PipelineSampler, Any]:
    """The sampler, and a pipeline that does the same by itself."""
    pipe: Any = tiny_stable_diffusion(kind)
    scheduler = make_scheduler(pipe, case.scheduler, case.changes)
    arguments: dict[str, Any] = {
        "steps": STEPS,
        "guidance_scale": case.guidance,
        "options": case.options,
        **changes,
    }
    made = PipelineSampler(pipe, scheduler=scheduler, **arguments)

    unclipped = {}
    if "clip_sample" in scheduler.config:
        unclipped["clip_sample"] = False
    pipe.scheduler = type(scheduler).from_config(scheduler.config, **unclipped)
    pipe.set_progress_bar_config(disable=True)
    return made, pipe


def stock(
    pipe: Any, case: Case, prompts: Sequence[str] = PROMPTS, seeds: Sequence[int] = SEEDS
) -> Tensor:
    """What diffusers itself gives."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    images: Tensor = pipe(
        list(prompts),
        num_inference_steps=STEPS,
        guidance_scale=case.guidance,
        generator=generators,
        output_type="pt",
        **case.options,
    ).images
    return images


@each_case
@each_kind
def test_images_equal_the_diffusers_pipeline(kind: Kind, case: Case) -> None:
    made, pipe = sampler(kind, case)
    model = made.bind(PROMPTS, SEEDS)
    images = model(model.noise_BN)
    assert images.dtype == torch.float32
    assert model.medium == IMAGE
    torch.testing.assert_close(images, stock(pipe, case), atol=TOLERANCE, rtol=0)
    assert torch.equal(images, model(model.noise_BN))


def passes(case: Case) -> int:
    """Passes through the network at each step: one more where there is guidance."""
    return 1 + (case.guidance > 1)


@each_case
def test_draws_that_act_are_found_and_evaluations_counted(case: Case) -> None:
    made, _ = sampler("sd1", case)
    model = made.bind(PROMPTS, SEEDS)
    assert list(model.draws) == [LATENT_SHAPE] * case.draws
    assert torch.equal(model.noise_BN, gaussian_noise(model.draws, SEEDS))
    assert model.network_evaluations == STEPS * passes(case)
    _, slopes = slope(model)
    assert (slopes.reshape(len(SEEDS), case.draws, -1).abs().amax(dim=(0, 2)) > 0).all()


@each_case
def test_gradients_equal_finite_differences(case: Case) -> None:
    made, _ = sampler("sd1", case, dtype=torch.float64)
    model = made.bind(PROMPTS[:1], SEEDS[:1])
    noise_BN = model.noise_BN.double().requires_grad_()
    (slopes_BN,) = torch.autograd.grad(weigh(model(noise_BN)), noise_BN)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(noise_BN.shape, generator=generator, dtype=torch.float64)

    h = 1e-5
    tolerance = 1e-5
    # Some schedulers step in float32 whatever they are given, so that a smaller h would measure its
    # rounding.
    if "Euler" in case.scheduler or "DPM" in case.scheduler:
        h = 1e-3
        tolerance = 2e-3

    with torch.no_grad():
        above = weigh(model(noise_BN + h * direction))
        below = weigh(model(noise_BN - h * direction))
    rise = (above - below) / (2 * h)
    along = (slopes_BN * direction).sum().item()
    assert along == pytest.approx(rise.item(), rel=tolerance)


@each_case
def test_a_batch_of_two_equals_two_of_one(case: Case) -> None:
    made, _ = sampler("sd1", case)
    images, slopes = slope(made.bind(PROMPTS, SEEDS))
    for i in range(2):
        item = slice(i, i + 1)
        image, alone = slope(made.bind(PROMPTS[item], SEEDS[item]))
        torch.testing.assert_close(images[item], image, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(slopes[item], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory", [name for name in get_args(Policy) if name != "keep"])
def test_every_memory_policy_gives_the_same_gradient(memory: Policy) -> None:
    keeping, _ = sampler("sd1", CASES[0], memory="keep")
    saving, _ = sampler("sd1", CASES[0], memory=memory)
    kept_images, kept = slope(keeping.bind(PROMPTS, SEEDS))
    images, slopes = slope(saving.bind(PROMPTS, SEEDS))
    assert torch.equal(images, kept_images)
    torch.testing.assert_close(slopes, kept, atol=1e-6, rtol=1e-5)


def test_half_precision_networks_keep_their_gradient() -> None:
    whole, _ = sampler("sd1", CASES[2])
    half, _ = sampler("sd1", CASES[2], dtype=torch.bfloat16)
    images, slopes = slope(whole.bind(PROMPTS, SEEDS))
    half_images, half_slopes = slope(half.bind(PROMPTS, SEEDS))
    torch.testing.assert_close(half_images, images, atol=0.1, rtol=0)
    assert torch.cosine_similarity(half_slopes.flatten(), slopes.flatten(), dim=0) > 0.98


def test_ddim_is_this_sampler_with_ddim_put_in() -> None:
    ddim = DDIMSampler(tiny_stable_diffusion(), steps=STEPS, guidance_scale=3.0)
    same, _ = sampler("sd1", CASES[0], height=16, width=16)
    images, slopes = slope(ddim.bind(PROMPTS, SEEDS))
    same_images, same_slopes = slope(same.bind(PROMPTS, SEEDS))
    torch.testing.assert_close(images, same_images, atol=1e-6, rtol=0)
    torch.testing.assert_close(slopes, same_slopes, atol=1e-4, rtol=1e-4)


def count_rows(model: PipelineNoiseMap) -> list[int]:
    """Rows that go through the network, appended to at each of its calls."""
    rows: list[int] = []
    unet = model.pipe.unet
    forward = unet.forward

    def counted(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    unet.forward = counted
    return rows


SDE = [case for case in CASES if case.id in ("ddim", "euler-ancestral", "sde-dpm++", "lcm")]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in SDE])
@pytest.mark.parametrize("last_steps", [2, 3])
def test_last_steps(case: Case, last_steps: int) -> None:
    whole = sampler("sd1", case)[0].bind(PROMPTS, SEEDS)
    model = sampler("sd1", case, last_steps=last_steps)[0].bind(PROMPTS, SEEDS)
    n = len(model.draws)
    assert n == last_steps - (STEPS + 1 - case.draws)
    # The noise that a step adds is first seen by the network of the next.
    assert model.network_evaluations == (last_steps - 1) * passes(case)

    rows = count_rows(model)
    start = whole.noise_BN
    moved = model.noise_BN + 0.1
    joined = torch.cat([start[:, : -moved.shape[1]], moved], dim=1)
    assert torch.equal(model.noise_BN, start[:, -moved.shape[1] :])
    first = model(moved)
    assert sum(rows) == len(SEEDS) * STEPS * passes(case)
    assert torch.equal(first, whole(joined))

    rows.clear()
    noise_BN = moved.clone().requires_grad_()
    all_BN = joined.clone().requires_grad_()
    again = model(noise_BN)
    assert sum(rows) == len(SEEDS) * model.network_evaluations
    assert torch.equal(again.detach(), first)

    (slopes,) = torch.autograd.grad(weigh(again), noise_BN)
    (wanted,) = torch.autograd.grad(weigh(whole(all_BN)), all_BN)
    torch.testing.assert_close(slopes, wanted[:, -moved.shape[1] :], atol=1e-6, rtol=1e-5)


def test_last_steps_of_ddim() -> None:
    whole = DDIMSampler(tiny_stable_diffusion(), steps=STEPS).bind(PROMPTS, SEEDS)
    model = DDIMSampler(tiny_stable_diffusion(), steps=STEPS, last_steps=1).bind(PROMPTS, SEEDS)
    assert len(model.draws) == 1
    assert model.network_evaluations == 0
    # At the second call the networks' answers are remembered.
    for _ in range(2):
        assert torch.equal(model(model.noise_BN), whole(whole.noise_BN))


def test_all_steps_are_the_last_steps() -> None:
    model = sampler("sd1", CASES[0], last_steps=STEPS)[0].bind(PROMPTS, SEEDS)
    assert len(model.draws) == STEPS + 1
    assert model.network_evaluations == 2 * STEPS


def test_last_steps_that_cannot_be() -> None:
    too_many, _ = sampler("sd1", CASES[0], last_steps=5)
    message = "at most 4, the steps that the scheduler takes, got 5"
    with pytest.raises(ConfigError, match=message) as caught:
        too_many.bind(PROMPTS, SEEDS)
    assert caught.value.at == "last_steps"

    without_noise, _ = sampler("sd1", CASES[1], last_steps=2)
    message = "no noise that is drawn in the last 2 of 4 steps acts"
    with pytest.raises(ConfigError, match=message) as caught:
        without_noise.bind(PROMPTS, SEEDS)
    assert caught.value.at == "last_steps"


def test_the_pipelines_own_defaults_hold() -> None:
    pipe: Any = tiny_stable_diffusion()
    pipe.set_progress_bar_config(disable=True)
    model = Pipeline(model=pipe).build(CPU).bind(["a cat"], [0])
    images = pipe("a cat", generator=[torch.Generator().manual_seed(0)], output_type="pt").images
    torch.testing.assert_close(model(model.noise_BN), images, atol=3e-5, rtol=0)
    assert model.network_evaluations == 100


def test_a_folder_with_options(pipeline_folders: Callable[[Kind], Path]) -> None:
    folder = str(pipeline_folders("sd1"))
    config = Pipeline(
        model=folder,
        steps=STEPS,
        guidance_scale=3.0,
        negative_prompt="a dog",
        scheduler_class="DPMSolverMultistepScheduler",
        scheduler={"algorithm_type": "sde-dpmsolver++"},
        options={"guidance_rescale": 0.5},
    )
    config.check()
    model = config.build(CPU).bind(PROMPTS, SEEDS)

    # Loaded, too: to `from_config` a value that was saved is no longer a default of the class that
    # saved it.
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="sde-dpmsolver++"
    )
    case = Case("", "", options={"guidance_rescale": 0.5, "negative_prompt": ["a dog"] * 2})
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(model(model.noise_BN), stock(pipe, case), atol=TOLERANCE, rtol=0)


def test_a_live_pipeline_is_left_as_it_was() -> None:
    pipe: Any = tiny_stable_diffusion()
    before = {name: id(value) for name, value in vars(pipe).items()}
    state = {name: str(value) for name, value in vars(pipe.scheduler).items()}
    model = PipelineSampler(pipe, steps=2, scheduler=pipe.scheduler).bind(PROMPTS, SEEDS)
    slope(model)
    assert {name: id(value) for name, value in vars(pipe).items()} == before
    assert {name: str(value) for name, value in vars(pipe.scheduler).items()} == state
    assert all(weight.requires_grad for weight in pipe.unet.parameters())


@pytest.mark.parametrize(
    ("options", "at", "message"),
    [
        ({"options": {"prompt": "a"}}, "options", "`prompt` is the sampler's to give"),
        ({"options": {"num_inference_steps": 3}}, "options", "give it there"),
        ({"scheduler": {"clip_sample": True}}, "scheduler", "must stay off"),
        (
            {"options": {"true_cfg_scale": 3}},
            "options",
            "StableDiffusionPipeline takes no `true_cfg_scale`",
        ),
        ({"scheduler": {"stochastic_sampling": True}}, "scheduler", "DDIMScheduler has no option"),
        ({"scheduler_class": "Nothing"}, "scheduler_class", 'diffusers has no scheduler "Nothing"'),
        ({"scheduler_class": "UNet2DModel"}, "scheduler_class", "diffusers has no scheduler"),
        (
            {"height": 12, "width": 16},
            "model",
            "cannot be sampled with these options: `height` and `width`",
        ),
        (
            {"height": 32},
            "height",
            "makes images of 16 x 16 pixels where a height of 32 was asked; give a width",
        ),
    ],
)
def test_what_does_not_suit_is_one_sentence(options: dict[str, Any], at: str, message: str) -> None:
    def attempt() -> None:
        config = Pipeline(**{"model": tiny_stable_diffusion(), "steps": 2, **options})
        config.check()
        config.build(CPU).bind(["a cat"], [0])

    with pytest.raises(ConfigError, match=message) as caught:
        attempt()
    assert caught.value.at == at
    assert "\n" not in str(caught.value)


def subclass(**methods: Any) -> Any:
    """A tiny pipeline of a class of its own."""
    pipe: Any = tiny_stable_diffusion()
    pipe.__class__ = type("Odd", (type(pipe),), methods)
    return pipe


def call(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A call of two steps whose images are changed last."""

    def changed(self: Any, prompt: Any, return_dict: bool = True, output_type: str = "pil") -> Any:
        images = diffusers.StableDiffusionPipeline.__call__(
            self, prompt, num_inference_steps=2, output_type=output_type, return_dict=return_dict
        )[0]
        return (change(images),)

    return changed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(lambda x: x.detach(), ConfigError, "cuts the gradient", id="detached"),
        pytest.param(lambda x: x[:, :2], ConfigError, "not one RGB image, video or", id="colours"),
        pytest.param(
            lambda x: x.detach().numpy(), ConfigError, "not one RGB image, video or", id="numpy"
        ),
        pytest.param(lambda x: x * torch.rand(()), RunError, "not Gaussian", id="uniform"),
        pytest.param(lambda x: x / 0, ConfigError, "not finite", id="infinite"),
        pytest.param(lambda x: x * 0, ConfigError, "acts on its images", id="inert"),
        pytest.param(
            lambda x: [][0],
            ConfigError,
            "cannot be sampled with these options: list index",
            id="broken",
        ),
    ],
)
def test_pipelines_that_are_no_differentiable_map_are_refused(
    change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PipelineSampler(subclass(__call__=call(change))).bind(PROMPTS, SEEDS)


def test_samples_that_would_share_a_draw_are_drawn_apart() -> None:
    def change(images: Tensor) -> Tensor:
        return images + torch.randn(3, 16, 16) / 100

    sampler = PipelineSampler(subclass(__call__=call(change)))
    together = sampler.bind(PROMPTS, SEEDS)
    images = together(together.noise_BN)
    for i in range(2):
        alone = sampler.bind(PROMPTS[i : i + 1], SEEDS[i : i + 1])
        assert list(alone.draws) == list(together.draws)
        assert torch.equal(alone(alone.noise_BN), images[i : i + 1])


def test_networks_that_draw_are_refused() -> None:
    pipe: Any = tiny_stable_diffusion()
    forward = type(pipe.unet).forward

    def drawing(self: Any, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        return forward(self, latents + torch.randn(()), *args, **kwargs)

    pipe.unet.__class__ = type("Drawing", (type(pipe.unet),), {"forward": drawing})
    with pytest.raises(ConfigError, match="draws noise of its own"):
        PipelineSampler(pipe, steps=2).bind(PROMPTS, SEEDS)


def test_images_in_the_decoders_range_are_brought_into_ours() -> None:
    pipe = subclass(__call__=call(lambda x: 2 * x - 1))
    plain = tiny_stable_diffusion()
    signed = PipelineSampler(pipe).bind(PROMPTS, SEEDS)
    usual = PipelineSampler(plain).bind(PROMPTS, SEEDS)
    assert signed(signed.noise_BN).min() >= 0
    assert usual.draws == signed.draws


def test_pipelines_of_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="should be a diffusers pipeline, got a Linear"):
        PipelineSampler(torch.nn.Linear(2, 2))

    pipe: Any = tiny_stable_diffusion()
    parts = {name: pipe.components[name] for name in ("unet", "scheduler")}
    with pytest.raises(ConfigError, match="DDPMPipeline takes no `prompt`; only pipelines that"):
        PipelineSampler(diffusers.DDPMPipeline(**parts))

    upscale = diffusers.StableDiffusionImg2ImgPipeline(
        **pipe.components, requires_safety_checker=False
    )
    with pytest.raises(ConfigError, match="needs a picture to start from"):
        PipelineSampler(upscale, steps=2).bind(PROMPTS, SEEDS)


def test_pipelines_with_one_clip_encoder_cannot_skip_its_layers() -> None:
    """What a model's files are judged by, before anything loads, is true of the libraries."""
    with torch.device("meta"):
        assert not hasattr(CLIPTextModel(CLIPTextConfig(num_hidden_layers=1)), "text_model")
    mappings = vars(diffusers.pipelines.auto_pipeline)
    classes = {
        cls
        for name, mapping in mappings.items()
        if name.startswith("AUTO_")
        for cls in mapping.values()
        if "clip_skip" in inspect.signature(cls.__call__).parameters
    }
    failing = set()
    for cls in classes:
        parts = inspect.signature(cls.__init__).parameters
        encoders = {name: part for name, part in parts.items() if name.startswith("text_encoder")}
        one = set(encoders) == {"text_encoder"} and ENCODER in str(encoders["text_encoder"])
        assert one == reads_the_part(cls.encode_prompt), cls.__name__
        if one:
            failing.add(cls.__name__)
    assert (
        {"StableDiffusionPipeline", "StableDiffusionInpaintPipeline"}
        < failing
        < {cls.__name__ for cls in classes}
    )


@each_kind
def test_layers_are_skipped_or_left_out_with_the_same_result(kind: Kind, tmp_path: Path) -> None:
    """One kind of pipeline skips them itself; the other is told how to get there."""
    case = Case("skipping", "DDIMScheduler", options={"clip_skip": 1})
    prompts, seeds = PROMPTS[:1], SEEDS[:1]
    whole: Any = tiny_stable_diffusion(kind)
    whole.save_pretrained(tmp_path)
    skipping = Pipeline(model=str(tmp_path), options=case.options)
    if kind == "sdxl":
        skipping.check()
        made, pipe = sampler(kind, case)
        bound = made.bind(prompts, seeds)
        expected = stock(pipe, case, prompts, seeds)
        assert (bound(bound.noise_BN) - expected).abs().max() < TOLERANCE
        return

    said = r"clip_skip fails in a StableDiffusionPipeline of diffusers .* with transformers 5\."
    with pytest.raises(ConfigError, match=f"{said}.*num_hidden_layers=1 in") as caught:
        sampler(kind, case)
    assert caught.value.at == "options"
    # A model's files say as much, before it loads.
    with pytest.raises(ConfigError) as early:
        skipping.check()
    assert str(early.value) == str(caught.value)
    Pipeline(model=str(tmp_path), options={"clip_skip": None}).check()
    with pytest.raises(ConfigError, match=f"{said}.*; leave it out$"):
        sampler(kind, Case("all", "DDIMScheduler", options={"clip_skip": 2}))
    with pytest.raises(ConfigError, match=f"{said}.*; leave it out$"):
        Pipeline(model=str(tmp_path), options={"clip_skip": 2}).check()

    # What the message says to do, with a saved model; the library's own way is gone.
    config = tmp_path / "text_encoder" / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    short = Pipeline(model=str(tmp_path), steps=STEPS).load(CPU).text_encoder
    tokens = whole.tokenizer(prompts, return_tensors="pt").input_ids
    layers = whole.text_encoder(tokens, output_hidden_states=True).hidden_states
    expected = whole.text_encoder.final_layer_norm(layers[-2])
    assert torch.equal(short(tokens)[0], expected)
    assert not torch.equal(whole.text_encoder(tokens)[0], expected)
