"""Reused deep features against UNets whose blocks are called by hand, and finite differences."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import diffusers
import pytest
import torch
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers.modules import frozen_view
from dno_builtin.samplers._diffusers.reuse import with_reuse
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.pipeline import Pipeline
from slopes import slope, weigh
from tiny_conditioned import conditioned_call, conditioned_pipeline, our_inputs, stock_inputs
from tiny_families import tiny_pipeline
from torch import Tensor

import dno
from dno.plugin import ConfigError
from dno.testing.models import Kind, tiny_stable_diffusion

# numpy 2 says so of torch tensors, which diffusers' Euler schedulers hand it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

CPU = torch.device("cpu")
KINDS: tuple[Kind, ...] = get_args(Kind)
PROMPTS = ["a black cat", "a white dog"]
SEEDS = [3, 4]
STEPS = 5
TOLERANCE = 3e-5


def by_hand(unet: Any, every: int) -> Callable[..., Any]:
    """A forward that calls a UNet's blocks one by one, the deep ones at every so many calls."""
    calls = 0
    deep: Tensor | None = None

    def forward(
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Any = None,
        down_block_additional_residuals: Any = None,
        mid_block_additional_residual: Any = None,
        **_: Any,
    ) -> tuple[Tensor]:
        nonlocal calls, deep
        emb = unet.time_embedding(unet.get_time_embed(sample, timestep))
        more = unet.get_aug_embed(emb, encoder_hidden_states, added_cond_kwargs or {})
        emb = emb if more is None else emb + more

        def called(block: Any, x: Tensor, **given: Any) -> Any:
            if getattr(block, "has_cross_attention", False):
                given["encoder_hidden_states"] = encoder_hidden_states
            return block(x, temb=emb, **given)

        x = unet.conv_in(sample)
        skips = [x]
        for block in unet.down_blocks:
            x, answers = called(block, x)
            skips += answers
        if down_block_additional_residuals is not None:
            added = down_block_additional_residuals
            skips = [skip + more for skip, more in zip(skips, added, strict=True)]

        is_full = calls % every == 0
        calls += 1
        x = called(unet.mid_block, x)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual
        *deep_blocks, outermost = unet.up_blocks
        for block in deep_blocks:
            own = tuple(skips[-len(block.resnets) :])
            del skips[-len(block.resnets) :]
            x = called(block, x, res_hidden_states_tuple=own)
        if is_full:
            deep = x
        assert deep is not None
        x = called(outermost, deep.clone(), res_hidden_states_tuple=tuple(skips))
        return (unet.conv_out(unet.conv_act(unet.conv_norm_out(x))),)

    return forward


def stock(pipe: Any, every: int, **options: Any) -> Tensor:
    """What diffusers itself gives with the UNet called by hand."""
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.forward = by_hand(pipe.unet, every)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    images: Tensor = pipe(PROMPTS, generator=generators, output_type="pt", **options).images
    return images


def gradient(
    sampler: Any, prompts: Sequence[str] = PROMPTS, seeds: Sequence[int] = SEEDS
) -> tuple[Tensor, Tensor]:
    """The images where the seeds start, and the gradient of their `weigh`."""
    return slope(sampler.bind(prompts, seeds))


def three_levels() -> Any:
    """A pipeline whose UNet has three levels of two layers, attention in the outermost."""
    pipe: Any = tiny_stable_diffusion()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        pipe.unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
        ).eval()
    return pipe


def with_freeu() -> Any:
    """A pipeline whose outermost block on the way up writes into what it is handed."""
    pipe: Any = tiny_stable_diffusion()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return pipe


MODELS: dict[str, Callable[[], Any]] = {
    **{kind: lambda kind=kind: tiny_stable_diffusion(kind) for kind in KINDS},
    "three-levels": three_levels,
    "freeu": with_freeu,
}


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_pictures_equal_blocks_called_by_hand(model: str, every: int) -> None:
    bound = DDIMSampler(MODELS[model](), steps=STEPS, reuse=every).bind(PROMPTS, SEEDS)
    images = bound(bound.noise_BN)
    options = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "eta": 1.0}
    expected = stock(MODELS[model](), every, **options)
    torch.testing.assert_close(images, expected, atol=TOLERANCE, rtol=0)
    plain = stock(MODELS[model](), 1, **options)
    assert (expected - plain).abs().max() > 10 * TOLERANCE


@dataclass(frozen=True)
class Case:
    """A scheduler, and how it is asked."""

    scheduler: str
    changes: dict[str, Any] = field(default_factory=dict)
    guidance: float = 3.0


CASES = [
    Case("EulerDiscreteScheduler"),
    Case("EulerAncestralDiscreteScheduler", guidance=0.0),
    Case("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Case("HeunDiscreteScheduler"),
    Case("PNDMScheduler"),
    Case("LCMScheduler", guidance=0.0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.scheduler)
def test_schedulers_equal_blocks_called_by_hand(case: Case) -> None:
    pipe: Any = tiny_stable_diffusion()
    scheduler = getattr(diffusers, case.scheduler).from_config(
        pipe.scheduler.config, **case.changes
    )
    sampler = PipelineSampler(
        pipe, steps=STEPS, guidance_scale=case.guidance, scheduler=scheduler, reuse=2
    )
    bound = sampler.bind(PROMPTS, SEEDS)
    images = bound(bound.noise_BN)

    pipe.scheduler = scheduler
    expected = stock(pipe, 2, num_inference_steps=STEPS, guidance_scale=case.guidance)
    torch.testing.assert_close(images, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["sd1-controlnet", "sdxl-controlnet", "sd1-img2img"])
def test_what_takes_pictures_equals_blocks_called_by_hand(name: str) -> None:
    call = conditioned_call(name)
    sampler = PipelineSampler(
        conditioned_pipeline(name), steps=STEPS, reuse=2, inputs=picture_inputs(name)
    )
    bound = sampler.bind(PROMPTS, SEEDS)
    images = bound(bound.noise_BN)
    expected = stock(
        conditioned_pipeline(name), 2, num_inference_steps=STEPS, **stock_inputs(name, 2), **call
    )
    torch.testing.assert_close(images, expected, atol=TOLERANCE, rtol=0)


def picture_inputs(name: str) -> dict[str, Any]:
    """What a sampler is built with for a kind's pictures."""
    config = Pipeline(**our_inputs(name))
    return dict(config.inputs())


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_t2i_adapters_act_on_the_outermost_blocks_and_on_full_steps(kind: Kind) -> None:
    pipe: Any = three_levels() if kind == "sd1" else tiny_stable_diffusion(kind)
    generator = torch.Generator().manual_seed(0)
    unet = pipe.unet
    forward = with_reuse(frozen_view(unet, CPU, None))
    width = unet.config.cross_attention_dim
    text = torch.randn(1, 7, width, generator=generator)
    size = torch.zeros(1, 6)
    pooled = {"text_embeds": torch.randn(1, 16, generator=generator), "time_ids": size}

    def answers(latent: Tensor, forward: Any, adapters: Sequence[Tensor], **more: Any) -> Any:
        given = [adapter.clone() for adapter in adapters]
        return forward(
            latent,
            10,
            encoder_hidden_states=text,
            added_cond_kwargs=pooled,
            return_dict=False,
            down_intrablock_additional_residuals=given,
            **more,
        )

    first, second = torch.randn(2, 1, 4, 8, 8, generator=generator)
    # Those of blocks with attention are added before they scale down, others after it.
    shapes = [(8, 4, 4), (16, 4, 4)]
    if kind == "sd1":
        shapes = [(8, 8, 8), (16, 4, 4), (16, 2, 2)]
    adapters = [torch.randn(1, *shape, generator=generator) for shape in shapes]

    (whole,), deep = answers(first, forward, adapters, deep=True)
    torch.testing.assert_close(whole, answers(first, unet, adapters)[0])
    (shallow,) = answers(second, forward, adapters, deep=deep)

    # Another latent's deep features, put where the last deep block answers.
    unet.up_blocks[-2].register_forward_hook(lambda *_: deep)
    torch.testing.assert_close(shallow, answers(second, unet, adapters)[0])


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_gradients_equal_finite_differences(kind: Kind, every: int) -> None:
    sampler = DDIMSampler(
        tiny_stable_diffusion(kind), steps=STEPS, reuse=every, dtype=torch.float64
    )
    bound = sampler.bind(PROMPTS, SEEDS)
    noise_BN = bound.noise_BN.double().requires_grad_()
    (slopes_BN,) = torch.autograd.grad(weigh(bound(noise_BN)), noise_BN)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(noise_BN.shape, generator=generator, dtype=torch.float64)

    h = 1e-6
    with torch.no_grad():
        above = weigh(bound(noise_BN + h * direction))
        below = weigh(bound(noise_BN - h * direction))
    rise = (above - below) / (2 * h)
    assert (slopes_BN * direction).sum().item() == pytest.approx(rise.item(), rel=1e-6)


def test_one_is_off() -> None:
    pipe = tiny_stable_diffusion()
    images, grad = gradient(DDIMSampler(pipe, steps=STEPS))
    same_images, same = gradient(DDIMSampler(pipe, steps=STEPS, reuse=1))
    assert torch.equal(images, same_images)
    assert torch.equal(grad, same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("every", [2, 3])
def test_memory_policies_give_the_same_bits(every: int, dtype: torch.dtype) -> None:
    found = {}
    for memory in ("keep", "recompute", "auto"):
        sampler = DDIMSampler(
            tiny_stable_diffusion(), steps=STEPS, reuse=every, memory=memory, dtype=dtype
        )
        found[memory] = gradient(sampler)
    images, grad = found.pop("keep")
    assert grad.abs().max() > 0
    for other_images, other in found.values():
        assert torch.equal(other_images, images)
        assert torch.equal(other, grad)


def test_samples_and_calls_do_not_see_each_other() -> None:
    pipe: Any = tiny_stable_diffusion()
    sampler = DDIMSampler(pipe, steps=STEPS, reuse=3)
    images, grad = gradient(sampler)
    # Other prompts, and a call that was left in the middle.
    bound = sampler.bind(["a pig"], [7])
    bound(bound.noise_BN)
    again_images, again = gradient(sampler)
    assert torch.equal(images, again_images)
    assert torch.equal(grad, again)

    for i in range(2):
        item = slice(i, i + 1)
        image, alone = gradient(sampler, PROMPTS[item], SEEDS[item])
        torch.testing.assert_close(images[item], image, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(grad[item], alone, atol=1e-4, rtol=1e-4)

    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    for part in (part for module in modules for part in module.modules()):
        assert "forward" not in vars(part)
        assert "takes_deep" not in vars(part)


def test_only_the_noise_of_the_last_steps_may_move() -> None:
    pipe = tiny_stable_diffusion()
    images, grad = gradient(DDIMSampler(pipe, steps=STEPS, reuse=2))
    for last in (1, 2, 3):
        some_images, some = gradient(DDIMSampler(pipe, steps=STEPS, reuse=2, last_steps=last))
        torch.testing.assert_close(some_images, images, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(some, grad[:, -some.shape[1] :], atol=1e-4, rtol=1e-4)


def test_a_coarser_grid_is_computed_in_full() -> None:
    pipe = tiny_stable_diffusion()
    fine = DDIMSampler(pipe, steps=4, reuse=2).bind(PROMPTS, SEEDS).coarser(2).sample
    plain = DDIMSampler(pipe, steps=4).bind(PROMPTS, SEEDS).coarser(2).sample
    assert torch.equal(fine(fine.noise_BN), plain(plain.noise_BN))


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart-alpha"])
def test_transformers_are_refused_by_name(family: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline(family)
    name = type(pipe.transformer).__name__
    with pytest.raises(ConfigError, match=rf"a {name}; leave reuse out") as caught:
        PipelineSampler(pipe, reuse=2)
    assert caught.value.at == "reuse"

    # Its small files tell, before it is loaded.
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"a {name}; leave reuse out"):
        Pipeline(model=str(tmp_path), reuse=2).check()
    Pipeline(model=str(tmp_path)).check()


def test_a_unet_of_one_level_is_refused() -> None:
    pipe: Any = tiny_stable_diffusion()
    pipe.unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    with pytest.raises(ConfigError, match=r"two levels or more.* has 1 \(CrossAttnUpBlock2D\)"):
        DDIMSampler(pipe, reuse=2)


def test_a_run_tells_that_it_reused_and_does_it_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = dno.optimize(
        "a cat",
        reward="brightness",
        steps=6,
        iterations=1,
        settings={"sampler.reuse": 2},
        out=out,
    )
    written = tomllib.loads((out / "run.toml").read_text())
    assert written["sampler"]["reuse"] == 2
    again = dno.run(dno.RunConfig.parse(written))
    assert torch.equal(again.best.samples, result.best.samples)
    plain = dno.optimize("a cat", reward="brightness", steps=6, iterations=1)
    assert not torch.equal(plain.initial.samples, result.initial.samples)
