"""Write docs/reference/families.md from what the pipeline sampler does with a tiny model of each family.

python docs/figures/families.py
"""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from dno_builtin._quiet import quiet
from dno_builtin.samplers._pipeline import PipelineSampler
from torch import Tensor

from dno.errors import DNOError

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "families"))
from tiny_families import FAMILIES, OTHERS, tiny_call, tiny_pipeline  # noqa: E402

PAGE = Path(__file__).parents[1] / "reference" / "families.md"
PROMPTS, SEEDS = ["a black cat", "a white dog"], [3, 4]
STEPS, PRIOR_STEPS = 3, 2
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
    """The pipeline does not hand its generators to the scheduler, which then draws from torch's global one."""
    signed: bool = False
    """What the pipeline calls "pt" are pixels in [-1, 1], not clamped."""
    dtype: torch.dtype = torch.float64
    """What the gradient is compared with finite differences in."""
    seed: int = 0
    """Of the network's random weights."""

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in {**self.changes, **self.options}.items() if key != "clip_sample"]
        return "-".join([self.family, self.scheduler or "own", *words])


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


def _cases() -> tuple[Case, ...]:
    # Combined pipelines draw for their prior too: each stage its start, and noise at each step but the last.
    draws = {"lcm": STEPS, "hunyuan-dit": STEPS, "sana-sprint": STEPS, "deepfloyd-if": STEPS}
    draws |= {"kandinsky22": PRIOR_STEPS + STEPS, "stable-cascade": PRIOR_STEPS + STEPS}
    own = [Case(family, draws.get(family, 1), signed=family in ("kandinsky22", "deepfloyd-if")) for family in FAMILIES]
    unclipped = {"clip_sample": False}
    diffusion = [
        ("DDIMScheduler", 1 + STEPS, unclipped, {"eta": 1.0}),
        # The last step's noise counts: diffusers never lets its standard deviation fall below 1e-10.
        ("DDPMScheduler", 1 + STEPS, unclipped, {}),
        ("EulerDiscreteScheduler", 1, {}, {}),
        ("EulerAncestralDiscreteScheduler", STEPS, {}, {}),
        ("DPMSolverMultistepScheduler", 1, {}, {}),
        ("DPMSolverMultistepScheduler", STEPS, {"algorithm_type": "sde-dpmsolver++"}, {}),
        ("DPMSolverSinglestepScheduler", 1, {}, {}),
        ("KDPM2DiscreteScheduler", 1, {}, {}),
        ("KDPM2AncestralDiscreteScheduler", STEPS, {}, {}),
        ("LCMScheduler", STEPS, unclipped, {}),
        ("TCDScheduler", 1, unclipped, {}),
        ("TCDScheduler", STEPS, unclipped, {"eta": 0.3}),
        ("UniPCMultistepScheduler", 1, {}, {}),
        ("PNDMScheduler", 1, {"skip_prk_steps": True}, {}),
        ("HeunDiscreteScheduler", 1, unclipped, {}),
        ("DEISMultistepScheduler", 1, {}, {}),
        ("SASolverScheduler", STEPS, {}, {}),
        ("EDMEulerScheduler", 1, {}, {}),
    ]
    on_sd1 = [Case("sd1", draws, name, changes, options) for name, draws, changes, options in diffusion]
    on_sdxl = [
        Case("sdxl", draws, name, changes, options)
        for name, draws, changes, options in diffusion
        if options or changes.get("algorithm_type") or name in ("EulerAncestralDiscreteScheduler", "LCMScheduler")
    ]
    as_flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    flow = [
        Case("sd3", 1, "FlowMatchHeunDiscreteScheduler"),
        Case("sd3", 1, "UniPCMultistepScheduler", as_flow),
        Case("sd3", STEPS, "DPMSolverMultistepScheduler", {**as_flow, "algorithm_type": "sde-dpmsolver++"}, {}, True),
        Case("flux", STEPS, "FlowMatchLCMScheduler", keeps_generators=True),
        *(
            Case(
                family,
                STEPS,
                "FlowMatchEulerDiscreteScheduler",
                {"stochastic_sampling": True},
                keeps_generators=family != "sana",
            )
            for family in ("sd3", "flux", "flux2-klein", "sana", "qwen-image", "lumina2")
        ),
    ]
    return tuple(_fitted(case) for case in (*own, *on_sd1, *on_sdxl, *flow))


def _fitted(case: Case) -> Case:
    if case.family == "lumina2":
        # In float64 torch's attention gives NaN where all of a row is masked, as it is in this model's padding.
        return replace(case, dtype=torch.float32)
    if case.family == "sana":
        # Its linear attention divides by sums of rectified numbers; with other weights a sum comes close to zero.
        return replace(case, seed=1)
    return case


CASES = _cases()


def measure(case: Case) -> Figures:
    """Run the case: the plain pipeline, the sampler on both samples and on each alone, and two finite differences."""
    pipe = pipeline(case.family, case.seed)
    with quiet():
        kind = getattr(diffusers, case.scheduler) if case.scheduler else type(pipe.scheduler)
        scheduler = kind.from_config(pipe.scheduler.config, **case.changes)
    options = {**tiny_call(case.family), **case.options}

    def bound(samples: slice, dtype: torch.dtype) -> Any:
        sampler = PipelineSampler(pipe, steps=STEPS, scheduler=scheduler, options=options, dtype=dtype)
        with quiet():
            return sampler.bind(PROMPTS[samples], SEEDS[samples])

    model = bound(slice(2), torch.float32)
    images = model(model.noise_BN)
    expected = plain(pipe, scheduler, options, case)
    alone = [bound(slice(i, i + 1), torch.float32)(model.noise_BN[i : i + 1]) for i in range(2)]

    precise = bound(slice(2), case.dtype)
    noise_BN = precise.noise_BN.to(case.dtype).requires_grad_()
    (slopes_BN,) = torch.autograd.grad(weigh(precise(noise_BN)), noise_BN)
    random_BN = torch.randn(slopes_BN.shape, generator=torch.Generator().manual_seed(0), dtype=case.dtype)
    # Leaning towards the gradient: along a random direction alone the slope may be next to nothing.
    direction_BN = random_BN / random_BN.norm() + slopes_BN / slopes_BN.norm()
    direction_BN /= direction_BN.norm()
    with torch.no_grad():
        rise = weigh(precise(noise_BN + H * direction_BN)) - weigh(precise(noise_BN - H * direction_BN))
    slope = (slopes_BN * direction_BN).sum()
    parts = torch.split(slopes_BN, [math.prod(shape) for shape in model.draws], dim=1)
    return Figures(
        scheduler=type(scheduler).__name__,
        draws=len(model.draws),
        difference=(images - expected).abs().max().item(),
        batch=(torch.cat(alone) - images).abs().max().item(),
        low=images.min().item(),
        high=images.max().item(),
        gradient=abs((rise / (2 * H) / slope).item() - 1),
        reached=min((part.norm() / slopes_BN.norm()).item() for part in parts),
    )


@functools.cache
def pipeline(family: str, seed: int = 0) -> Any:
    """A family's tiny pipeline."""
    with quiet():
        pipe: Any = tiny_pipeline(family, seed)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain(pipe: Any, scheduler: Any, options: Mapping[str, Any], case: Case) -> Tensor:
    """What diffusers itself gives."""
    own = copy.copy(pipe)
    if case.scheduler or case.changes:
        own.scheduler = copy.deepcopy(scheduler)

    def call(prompts: Sequence[str], generator: Any) -> Tensor:
        with quiet():
            images: Tensor = own(
                prompt=list(prompts), generator=generator, output_type="pt", num_inference_steps=STEPS, **options
            ).images
        return (images / 2 + 0.5).clamp(0, 1) if case.signed else images

    if not case.keeps_generators:
        return call(PROMPTS, [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS])
    images = []
    with torch.random.fork_rng(devices=()):
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
            torch.manual_seed(seed)
            images.append(call([prompt], None))
    return torch.cat(images)


def weigh(images: Tensor) -> Tensor:
    """A fixed scalar of the images to which every pixel adds its own share."""
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype).reshape(images[0].shape)
    return (images * weights + images**2 / 2).sum()


HEAD = f"""# Families of models

Written by `python docs/figures/families.py`, with diffusers {diffusers.__version__}. The `pipeline` sampler ran tiny
models with random weights (`tests/families/tiny_families.py`) of the same classes that the real models load as; no real weights
were used. Two samples, {STEPS} steps; sample clipping switched off.

- **draws**: Gaussian draws of one sample that the optimizer moves.
- **image**: largest difference of a pixel (of 1) from the plain pipeline's image for the same noise, both in float32.
- **batch**: largest difference of a pixel in a batch of two from the same sample alone.
- **gradient**: relative difference of the slope along one direction from a central finite difference with a step of
  {H}; in float64 but for schedulers that compute in float32, and for Lumina 2.
"""
TAIL = """
¹ The pipeline does not hand its generators to the scheduler. It was compared one sample at a time, with torch's global
generator seeded.

## Refused

| pipeline | what it is told |
|---|---|
{refused}

## Not run

- Flux 2 (dev), Kandinsky 5, LongCat-Image, NucleusMoE-Image, DreamLite, Qwen-Image 2.1 and OmniGen take image or video
  processors that need torchvision; Kolors' tokenizer needs sentencepiece, PRX needs ftfy.
- HiDream always draws 128 x 128 latents, whatever the size asked for: too slow for a tiny model.
- `LMSDiscreteScheduler` needs scipy; `DPMSolverSDEScheduler` needs torchsde.
- Flux and Qwen-Image themselves refuse schedulers that take no sigmas, such as `FlowMatchHeunDiscreteScheduler`.
- Not tried: GLM-Image, HunyuanImage, Ideogram 4, Bria FIBO, Kandinsky 2.1 and 3, Wuerstchen, unCLIP, and pipelines that
  take a control image.
"""


def refusal(name: str) -> str:
    """The sentence with which a pipeline is refused."""
    try:
        PipelineSampler(pipeline(name), steps=STEPS, options=tiny_call(name)).bind(PROMPTS, SEEDS)
    except DNOError as error:
        return str(error)
    raise AssertionError(f"{name} is not refused")


def text() -> str:
    """The whole page."""
    rows = ["| family | pipeline | scheduler | draws | image | batch | gradient |", "|---|---|---|---|---|---|---|"]
    for case in CASES:
        found = measure(case)
        changes = ", ".join(f"{key}={value}" for key, value in case.changes.items() if key != "clip_sample")
        scheduler = f"`{found.scheduler}({changes})`" if changes else f"`{found.scheduler}`"
        scheduler += "".join(f", `{key}={value}`" for key, value in case.options.items())
        mark = " ¹" if case.keeps_generators else ""
        rows.append(
            f"| {case.family} | {type(pipeline(case.family)).__name__} | {scheduler}{mark} | {found.draws} "
            f"| {found.difference:.0e} | {found.batch:.0e} | {found.gradient:.0e} |"
        )
    refused = "\n".join(f"| {type(pipeline(name)).__name__} | {refusal(name)} |" for name in OTHERS)
    return "\n".join([HEAD, *rows, TAIL.format(refused=refused)])


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
