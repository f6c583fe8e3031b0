"""Write docs/reference/families.md: what the pipeline sampler does with each family of models.

python docs/figures/families.py
"""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.pipeline import Pipeline
from torch import Tensor

from dno.errors import DNOError
from dno.plugin import quiet

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "families"))
from tiny_conditioned import (
    CONDITIONED,
    conditioned_call,
    conditioned_pipeline,
    draws_of,
    our_inputs,
    stock_inputs,
)
from tiny_families import FAMILIES, OTHERS, tiny_call, tiny_pipeline

PAGE = Path(__file__).parents[1] / "reference" / "families.md"
PROMPTS = ["a black cat", "a white dog"]
SEEDS = [3, 4]
STEPS = 3
PRIOR_STEPS = 2
"""Steps of a combined pipeline's prior, as `tiny_call` asks for them."""
H = 3e-3
"""Length of a finite difference's step in noise space."""


@dataclass(frozen=True)
class Case:
    """A family under a scheduler."""

    family: str
    draws: int
    """Gaussian draws that can move the image, in `STEPS` steps."""
    scheduler: str = ""
    """Class of diffusers; the family's own where it is empty."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Scheduler options that differ from the family's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the pipeline's call."""
    keeps_generators: bool = False
    """The pipeline keeps its generators from the scheduler, which draws from torch's global one."""
    signed: bool = False
    """What the pipeline calls "pt" are pixels in [-1, 1], not clamped."""
    dtype: torch.dtype = torch.float64
    """What the gradient is compared with finite differences in."""
    seed: int = 0
    """Of the network's random weights."""

    def __str__(self) -> str:
        settings = {**_telling(self.changes), **self.options}
        words = [f"{key}={value}" for key, value in settings.items()]
        return "-".join([self.family, self.scheduler or "own", *words])


def _telling(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that tell cases apart: clipping is off in all of them."""
    return {key: value for key, value in changes.items() if key != "clip_sample"}


@dataclass(frozen=True)
class Figures:
    """What was measured of a case."""

    scheduler: str
    draws: int
    difference: float
    """Largest difference of a pixel from the plain pipeline's."""
    batch: float
    """Largest difference of a pixel in a batch of two from the same sample alone."""
    low: float
    high: float
    """Darkest and brightest entry of the images."""
    gradient: float
    """Relative difference of the slope along one direction from a central finite difference."""
    reached: float
    """Norm of the gradient at the draw where it is smallest, over the norm of all."""


Row = tuple[str, int, dict[str, Any], dict[str, Any]]
"""A scheduler: class, draws that can move the image, changes, and options of the call."""

UNCLIPPED = {"clip_sample": False}
DIFFUSION: tuple[Row, ...] = (
    ("DDIMScheduler", 1 + STEPS, UNCLIPPED, {"eta": 1.0}),
    # The last step's noise counts: diffusers never lets its standard deviation fall below 1e-10.
    ("DDPMScheduler", 1 + STEPS, UNCLIPPED, {}),
    ("EulerDiscreteScheduler", 1, {}, {}),
    ("EulerAncestralDiscreteScheduler", STEPS, {}, {}),
    ("DPMSolverMultistepScheduler", 1, {}, {}),
    ("DPMSolverMultistepScheduler", STEPS, {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("DPMSolverSinglestepScheduler", 1, {}, {}),
    ("KDPM2DiscreteScheduler", 1, {}, {}),
    ("KDPM2AncestralDiscreteScheduler", STEPS, {}, {}),
    ("LCMScheduler", STEPS, UNCLIPPED, {}),
    ("TCDScheduler", 1, UNCLIPPED, {}),
    ("TCDScheduler", STEPS, UNCLIPPED, {"eta": 0.3}),
    ("UniPCMultistepScheduler", 1, {}, {}),
    ("PNDMScheduler", 1, {"skip_prk_steps": True}, {}),
    ("HeunDiscreteScheduler", 1, UNCLIPPED, {}),
    ("DEISMultistepScheduler", 1, {}, {}),
    ("SASolverScheduler", STEPS, {}, {}),
    ("EDMEulerScheduler", 1, {}, {}),
)
ALSO_ON_SDXL = ("EulerAncestralDiscreteScheduler", "LCMScheduler")
STOCHASTIC_FLOWS = ("sd3", "flux", "flux2-klein", "sana", "qwen-image", "lumina2")


def _cases() -> tuple[Case, ...]:
    cases = (*_under_their_own(), *_diffusion(), *_flow(), *_conditioned())
    return tuple(_fitted(case) for case in cases)


def _under_their_own() -> Iterator[Case]:
    """Each family under the scheduler that it comes with."""
    draws = {"lcm": STEPS, "hunyuan-dit": STEPS, "sana-sprint": STEPS, "deepfloyd-if": STEPS}
    # Combined pipelines draw for their prior too: each its start, and noise at each step but the
    # last.
    draws["kandinsky22"] = PRIOR_STEPS + STEPS
    draws["stable-cascade"] = PRIOR_STEPS + STEPS
    signed = ("kandinsky22", "deepfloyd-if")
    for family in FAMILIES:
        yield Case(family, draws.get(family, 1), signed=family in signed)


def _conditioned() -> Iterator[Case]:
    """Pipelines that are given more than a prompt, or make more than an image."""
    for kind in CONDITIONED:
        # Stable Diffusion 3 encodes its control image with noise that no generator gives.
        yield Case(kind, draws_of(kind), keeps_generators=kind == "sd3-controlnet")


def _diffusion() -> Iterator[Case]:
    """Stable Diffusion 1 under every scheduler of its kind, and XL under those that draw often."""
    for name, draws, changes, options in DIFFUSION:
        yield Case("sd1", draws, name, changes, options)

    for name, draws, changes, options in DIFFUSION:
        if options or "algorithm_type" in changes or name in ALSO_ON_SDXL:
            yield Case("sdxl", draws, name, changes, options)


def _flow() -> Iterator[Case]:
    """Flow models under schedulers of their kind."""
    as_flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    as_sde = {**as_flow, "algorithm_type": "sde-dpmsolver++"}
    yield Case("sd3", 1, "FlowMatchHeunDiscreteScheduler")
    yield Case("sd3", 1, "UniPCMultistepScheduler", as_flow)
    yield Case("sd3", STEPS, "DPMSolverMultistepScheduler", as_sde, keeps_generators=True)
    yield Case("flux", STEPS, "FlowMatchLCMScheduler", keeps_generators=True)

    for family in STOCHASTIC_FLOWS:
        yield Case(
            family,
            STEPS,
            "FlowMatchEulerDiscreteScheduler",
            {"stochastic_sampling": True},
            keeps_generators=family != "sana",
        )


def _fitted(case: Case) -> Case:
    if case.family == "lumina2":
        # In float64 torch's attention gives NaN where all of a row is masked, as it is in this
        # model's padding.
        return replace(case, dtype=torch.float32)
    if case.family == "sd1-controlnet-inpaint":
        # With other weights a pixel is clamped on one side of the finite difference alone.
        return replace(case, seed=1)
    if case.family == "sana":
        # Its linear attention divides by sums of rectified numbers; with other weights a sum comes
        # close to zero.
        return replace(case, seed=1)
    return case


CASES = _cases()


def measure(case: Case) -> Figures:
    """Run the case: the plain pipeline, the sampler on both items and on each, and a slope."""
    pipe = pipeline(case.family, case.seed)
    kind = type(pipe.scheduler)
    if case.scheduler:
        kind = getattr(diffusers, case.scheduler)
    with quiet():
        scheduler = kind.from_config(pipe.scheduler.config, **case.changes)
    options = {**call(case.family), **case.options}
    given = Pipeline()
    if case.family in CONDITIONED:
        given = Pipeline(**our_inputs(case.family))

    def sampler_in(dtype: torch.dtype) -> PipelineSampler:
        return PipelineSampler(
            pipe,
            steps=STEPS,
            scheduler=scheduler,
            options=options,
            height=given.height,
            width=given.width,
            inputs=given.inputs(),
            lengths=given.lengths(),
            dtype=dtype,
        )

    def bound(sampler: PipelineSampler, items: slice) -> Any:
        with quiet():
            return sampler.bind(PROMPTS[items], SEEDS[items])

    sampler = sampler_in(torch.float32)
    model = bound(sampler, slice(2))
    images = model(model.noise_BN)
    expected = plain(pipe, scheduler, options, case)

    alone = []
    for i in range(2):
        item = slice(i, i + 1)
        alone.append(bound(sampler, item)(model.noise_BN[item]))

    exact = sampler if case.dtype == torch.float32 else sampler_in(case.dtype)
    slopes_BN, error = _slopes(bound(exact, slice(2)), case.dtype)
    sizes = [math.prod(shape) for shape in model.draws]
    shares = [part.norm() / slopes_BN.norm() for part in torch.split(slopes_BN, sizes, dim=1)]
    return Figures(
        scheduler=type(scheduler).__name__,
        draws=len(model.draws),
        difference=(images - expected).abs().max().item(),
        batch=(torch.cat(alone) - images).abs().max().item(),
        low=images.min().item(),
        high=images.max().item(),
        gradient=error,
        reached=min(share.item() for share in shares),
    )


def _slopes(model: Any, dtype: torch.dtype) -> tuple[Tensor, float]:
    """The gradient at the model's noise, and its relative error along one direction."""
    noise_BN = model.noise_BN.to(dtype).requires_grad_()
    (slopes_BN,) = torch.autograd.grad(weigh(model(noise_BN)), noise_BN)

    # Leaning towards the gradient: along a random direction alone the slope may be next to nothing.
    generator = torch.Generator().manual_seed(0)
    random_BN = torch.randn(slopes_BN.shape, generator=generator, dtype=dtype)
    direction_BN = random_BN / random_BN.norm() + slopes_BN / slopes_BN.norm()
    direction_BN /= direction_BN.norm()

    with torch.no_grad():
        above = weigh(model(noise_BN + H * direction_BN))
        below = weigh(model(noise_BN - H * direction_BN))
    slope = (slopes_BN * direction_BN).sum()
    ratio = ((above - below) / (2 * H) / slope).item()
    return slopes_BN, abs(ratio - 1)


@functools.cache
def pipeline(family: str, seed: int = 0) -> Any:
    """A family's tiny pipeline."""
    build: Any = conditioned_pipeline if family in CONDITIONED else tiny_pipeline
    with quiet():
        pipe: Any = build(family, seed)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(family: str) -> dict[str, Any]:
    """What a family's tiny pipeline is called with, for a small, quick sample."""
    if family in CONDITIONED:
        return conditioned_call(family)
    return tiny_call(family)


def plain(pipe: Any, scheduler: Any, options: Mapping[str, Any], case: Case) -> Tensor:
    """What diffusers itself gives."""
    own = copy.copy(pipe)
    if case.scheduler or case.changes:
        own.scheduler = copy.deepcopy(scheduler)

    def called(prompts: Sequence[str], generator: Any) -> Tensor:
        inputs = {}
        if case.family in CONDITIONED:
            inputs = stock_inputs(case.family, len(prompts))
        with quiet():
            made = own(
                prompt=list(prompts),
                generator=generator,
                output_type="pt",
                num_inference_steps=STEPS,
                return_dict=False,
                **options,
                **inputs,
            )
        # Some give their images alone, others first of several.
        images: Tensor = made if isinstance(made, Tensor) else made[0]
        if case.signed:
            return (images / 2 + 0.5).clamp(0, 1)
        if images.ndim == 2:
            return images[:, None]
        if images.ndim == 3:
            return images.clamp(-1, 1)
        return images

    if not case.keeps_generators:
        return called(PROMPTS, [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS])

    images = []
    with torch.random.fork_rng(devices=()):
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
            torch.manual_seed(seed)
            images.append(called([prompt], None))
    return torch.cat(images)


def weigh(images: Tensor) -> Tensor:
    """A fixed scalar of the images to which every pixel adds its own share."""
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype).reshape(images[0].shape)
    return (images * weights + images**2 / 2).sum()


HEAD = f"""# Families of models

Written by `python docs/figures/families.py`, with diffusers {diffusers.__version__}. The `pipeline`
sampler ran tiny models with random weights (`tests/families/tiny_families.py` and, for those that
take pictures or make videos or sounds, `tiny_conditioned.py` beside it) of the same classes that
the real models load as; no real weights were used. Two items, {STEPS} steps asked for; sample
clipping switched off.

- **draws**: Gaussian draws of one sample that the optimizer moves.
- **image**: largest difference of a pixel (of 1) from the plain pipeline's image for the same
  noise, both in float32; of a video in any frame, of a sound at any moment.
- **batch**: largest difference of a pixel in a batch of two from the same item alone.
- **gradient**: relative difference of the slope along one direction from a central finite
  difference with a step of {H}; in float64 but for schedulers that compute in float32, and for
  Lumina 2.
"""
TAIL = """
¹ The pipeline does not hand its generators to the scheduler. It was compared one item at a time,
with torch's global generator seeded.

## Refused

| pipeline | what it is told |
|---|---|
{refused}

## Not run

- Flux 2 (dev), Kandinsky 5, LongCat-Image, NucleusMoE-Image, DreamLite, Qwen-Image 2.1 and OmniGen
  take image or video processors that need torchvision, and so do Qwen-Image-Edit and its kin;
  Kolors' tokenizer needs sentencepiece, PRX and Wan's image-to-video need ftfy.
- HiDream always draws 128 x 128 latents, whatever the size asked for: too slow for a tiny model.
- `LMSDiscreteScheduler` needs scipy; `DPMSolverSDEScheduler` needs torchsde.
- Flux and Qwen-Image themselves refuse schedulers that take no sigmas, such as
  `FlowMatchHeunDiscreteScheduler`.
- FLUX.1 Kontext brings its picture to about 1024 x 1024 pixels: too slow for a tiny model.
- Pipelines that start from a picture without a prompt, such as Stable Video Diffusion, or from a
  video, are refused.
- Not tried: GLM-Image, HunyuanImage, Ideogram 4, Bria FIBO, Kandinsky 2.1 and 3, Wuerstchen,
  unCLIP, FLUX.1 Fill, T2I-Adapters, several ControlNets at once, upscalers, depth-to-image,
  HunyuanVideo, Mochi, AudioLDM 2, and Stable Audio's own scheduler, which needs torchsde.
"""


def refusal(name: str) -> str:
    """The sentence with which a pipeline is refused."""
    try:
        sampler = PipelineSampler(pipeline(name), steps=STEPS, options=tiny_call(name))
        sampler.bind(PROMPTS, SEEDS)
    except DNOError as error:
        return str(error)
    raise AssertionError(f"{name} is not refused")


def text() -> str:
    """The whole page."""
    rows = [
        "| family | pipeline | scheduler | draws | image | batch | gradient |",
        "|---|---|---|---|---|---|---|",
        *(_row(case) for case in CASES),
    ]
    refused = [f"| {type(pipeline(name)).__name__} | {refusal(name)} |" for name in OTHERS]
    return "\n".join([HEAD, *rows, TAIL.format(refused="\n".join(refused))])


def _row(case: Case) -> str:
    """A line of the table."""
    found = measure(case)
    scheduler = found.scheduler
    changes = ", ".join(f"{key}={value}" for key, value in _telling(case.changes).items())
    if changes:
        scheduler += f"({changes})"

    settings = [f"`{scheduler}`", *(f"`{key}={value}`" for key, value in case.options.items())]
    mark = ""
    if case.keeps_generators:
        mark = " ¹"
    cells = [
        case.family,
        type(pipeline(case.family)).__name__,
        ", ".join(settings) + mark,
        str(found.draws),
        f"{found.difference:.0e}",
        f"{found.batch:.0e}",
        f"{found.gradient:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
