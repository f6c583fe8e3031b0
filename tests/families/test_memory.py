"""Memory policies: what is predicted against what is measured, and gradients bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers.choice import Call, at_levels, uniform
from dno_builtin.samplers._diffusers.memory import Level
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.ddim import DDIM
from slopes import slope
from tiny_families import tiny_pipeline

from dno.core.costs import Beside, Room
from dno.registry.configs import BuildContext
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
MODELS = Path(__file__).parents[2] / "docs/figures/models"
PROMPTS = ["a black cat", "a white dog"]
STEPS = 4
SLACK = 2**20
"""Bytes that a prediction for tiny networks may be off besides a tenth: noise, the image, and what
one operation works on."""


def sampler(kind: str, memory: str = "auto") -> Any:
    if kind in ("sd1", "sdxl"):
        pipe = tiny_stable_diffusion(kind)
        return DDIMSampler(pipe, steps=STEPS, memory=memory)
    if kind == "reuse":
        return DDIMSampler(tiny_stable_diffusion(), steps=STEPS, memory=memory, reuse=3)
    return PipelineSampler(tiny_pipeline(kind), steps=STEPS, memory=memory, **SIZE)


SIZE = {"height": 16, "width": 16}
KINDS = ["sd1", "sdxl", "sd3", "flux", "reuse"]


@functools.cache
def bound(kind: str) -> Any:
    """A sampler bound, for all tests: each sets the levels that it is about."""
    return sampler(kind).bind(PROMPTS, [1, 2])


def at(bound: Any, levels: Callable[[Sequence[Call]], Sequence[Level]]) -> Any:
    """The same bound map, with a level for each call chosen by the test."""
    bound._memory.levels = levels(bound._memory._calls)
    return bound


LEVELS: dict[str, Callable[[Sequence[Call]], Sequence[Level]]] = {
    "keep": lambda calls: uniform(calls, "keep", "keep"),
    "step": lambda calls: uniform(calls, "step", "step"),
    "mixed": lambda calls: uniform(calls, "step", "step", keep=2),
    "blocks": lambda calls: uniform(calls, "blocks", "step"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_gives_the_same_bits(kind: str) -> None:
    plain_images, plain_slope = slope(sampler(kind, "keep").bind(PROMPTS, [1, 2]))
    for name, levels in LEVELS.items():
        images, grad = slope(at(bound(kind), levels))
        assert torch.equal(images, plain_images), name
        assert torch.equal(grad, plain_slope), name


@contextmanager
def allocated() -> Iterator[list[int]]:
    """The most bytes that torch's allocator had out at once, over what it had before."""
    most = [0]
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        yield most
    now = 0
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most[0] = max(most[0], now)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_predicted_peak_is_what_is_allocated(kind: str, name: str) -> None:
    model = at(bound(kind), LEVELS[name])
    memory = model._memory
    predicted = at_levels(memory._calls, memory.levels, passing=0).peak
    slope(model)  # What is made once and kept is made now.
    with allocated() as most:
        slope(model)
    assert most[0] == pytest.approx(predicted, rel=0.1, abs=SLACK)


SIDE = 128
"""Of a middle-sized model's image."""


@functools.cache
def middle_sized(reuse: int) -> Any:
    """A bound map, large enough that its graphs stand out from what a process needs anyway."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    pipe = tiny_stable_diffusion()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        pipe.register_modules(
            unet=UNet2DConditionModel(
                sample_size=32,
                block_out_channels=(64, 128),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=4,
            ),
            vae=AutoencoderKL(
                block_out_channels=(32, 64, 64, 64),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                sample_size=256,
            ),
        )
    pipe.vae_scale_factor = 8
    sampler = DDIMSampler(pipe, steps=STEPS, memory="auto", height=SIDE, width=SIDE, reuse=reuse)
    return sampler.bind(PROMPTS, [1, 2])


@pytest.mark.parametrize(
    ("name", "reuse"), [("keep", 1), ("mixed", 1), ("blocks", 1), ("keep", 3), ("step", 3)]
)
def test_a_middle_sized_model_takes_what_is_predicted(name: str, reuse: int) -> None:
    model = at(middle_sized(reuse), LEVELS[name])
    memory = model._memory
    predicted = at_levels(memory._calls, memory.levels, passing=0).peak
    with allocated() as most:
        slope(model)
    # What the noise and the images take, in a few copies each.
    assert most[0] == pytest.approx(predicted, rel=0.1, abs=2 * 2**20)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_by_trace_is_what_is_kept_by_a_call(kind: str) -> None:
    ledger = bound(kind).spare.ledger
    for form, kept in ledger._kept.items():
        cost = ledger.cost(form, "keep", decodes=False)
        # The answer is kept for whoever asked, and its graph may need it no more.
        assert kept == pytest.approx(cost.kept, rel=0.1, abs=ledger.answered(form))
        assert cost.peak >= cost.kept
        assert cost.backward == pytest.approx(cost.forward, rel=0.3)


def test_the_room_there_is_decides_how_much_is_kept() -> None:
    tiny = sampler("sdxl")

    def bound(free: int | None) -> Any:
        def beside(shape: Sequence[int], entries: int) -> Beside:
            assert tuple(shape) == (2, 3, 16, 16)
            # Of all steps, or of the coarser grid's two.
            assert entries in (2 * (STEPS + 1) * 4 * 8 * 8, 2 * (2 + 1) * 4 * 8 * 8)
            return Beside(held=1000)

        tiny.make_room(Room(free, beside))
        return tiny.bind(PROMPTS, [1, 2])

    plenty = bound(2**34)
    assert plenty.footprint.policy == "keep all of 4 network calls"
    assert plenty.footprint.flop is None, "nothing should be traced where there is plenty"
    assert bound(None).footprint.policy == plenty.footprint.policy

    # What is left to workspaces, and some of the graphs.
    some = bound(2**28 + 2_000_000)
    assert some.footprint.policy.startswith("keep the last ")
    assert some.footprint.peak <= some.footprint.room
    # Under `auto` a run begins all the same: searches need no gradient.
    least = bound(0)
    assert least.footprint.policy.startswith("recompute block by block all of 4")
    assert least.footprint.missing > 0

    images, grad = slope(plenty)
    for other in (some, least):
        assert torch.equal(slope(other)[0], images)
        assert torch.equal(slope(other)[1], grad)
        # A coarser grid has a choice of its own.
        assert other.coarser(2).sample.footprint.policy.endswith("block by block")


def test_a_plan_allocates_nothing_large() -> None:
    context = BuildContext(CPU, torch.bfloat16, weightless=True)
    with allocated() as most:
        config = DDIM(model=str(MODELS / "sd-1.5"), steps=2, memory="recompute")
        bound = config.build(context).bind(PROMPTS, [1, 2])
    assert bound.footprint.peak > 4 * 2**30
    assert most[0] < 2**26
