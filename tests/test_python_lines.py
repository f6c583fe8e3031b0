"""What people who come from diffusers type: each line works, or is told in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError, RunError
from dno.testing.models import Kind, tiny_stable_diffusion

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])


def bright(images: Tensor, prompts: Any) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def by_size(pictures: list[Any]) -> list[float]:
    return [picture.resize((1, 1)).getpixel((0, 0))[0] / 255 for picture in pictures]


def with_prompts(pictures: list[Any], prompts: list[str]) -> list[int]:
    return [len(prompt) for prompt in prompts]


def optimize(*prompt: Any, **options: Any) -> dno.Result:
    """`dno.optimize` of a function that is quick, where a line says nothing else."""
    if not prompt and "prompt" not in options:
        prompt = ("a cat",)
    return dno.optimize(
        *prompt, **{"reward": bright, "sampler": SAMPLER, "iterations": 1, **options}
    )


def config(**options: Any) -> dno.RunConfig:
    """What `dno.optimize` would run."""
    from dno.runs.aliases import own_options
    from dno.runs.shorthands import assemble

    values = {"prompts": "a cat", "sampler": SAMPLER, "rewards": options.pop("reward", bright)}
    return assemble(values, own_options(options))


def size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


@dataclass(frozen=True)
class Line:
    """A line as somebody types it, and what is so afterwards, or what it is told."""

    code: str
    so: str = ""
    told: str = ""


LINES = [
    # What comes out.
    Line("optimize().images[0].save(file)", so="size(file) == (8, 8)"),
    Line("optimize().initial.images[0].save(file)", so="size(file) == (8, 8)"),
    Line("html = optimize()._repr_html_()", so="html.count('<img') == 2 and '<svg' in html"),
    Line("result = optimize(prompt='a cat')", so="result.items == (('a cat', 0),)"),
    Line("result = optimize(['a cat', 'a dog'])", so="len(result.images) == 2"),
    # By the names of diffusers.
    Line("made = ddim(num_inference_steps=4)", so="made.sampler.steps == 4"),
    Line("made = ddim(guidance_scale=7.5)", so="made.sampler.guidance_scale == 7.5"),
    Line("made = ddim(negative_prompt='dark')", so="made.sampler.negative_prompt == 'dark'"),
    Line("made = ddim(eta=0.5)", so="made.sampler.eta == 0.5"),
    Line(
        "made = ddim(height=64, width=32)",
        so="(made.sampler.height, made.sampler.width) == (64, 32)",
    ),
    Line("made = ddim(mask_image=file, image=file)", so="made.sampler.mask.path == str(file)"),
    Line("made = ddim(model=Path('folder'))", so="made.sampler.model == 'folder'"),
    Line("made = ddim(lora=[Path('a.safetensors')])", so="'a.safetensors' in str(made.sampler)"),
    Line(
        "made = config(reward={'use': 'clip', 'model': Path('folder')})",
        so="made.rewards[0].model == 'folder'",
    ),
    Line("result = optimize(num_images_per_prompt=2, seed=3)", so="seeds(result) == [3, 4]"),
    Line(
        "result = optimize(generator=torch.Generator().manual_seed(7))", so="seeds(result) == [7]"
    ),
    Line("result = optimize(seed=2**64 - 1)", so="seeds(result) == [2**64 - 1]"),
    Line(
        "result = optimize(latents=noise)", so="result.initial.noise_BN.equal(noise.reshape(1, -1))"
    ),
    Line("made = config(device=torch.device('cpu'))", so="made.device == 'cpu'"),
    Line("made = config(dtype=torch.bfloat16)", so="made.dtype == 'bfloat16'"),
    Line("made = config(torch_dtype=torch.float16)", so="made.dtype == 'float16'"),
    # What to climb.
    Line("result = optimize(reward='brightness=3')", so="weight(result) == 3"),
    Line("result = optimize(reward={'brightness': 3})", so="weight(result) == 3"),
    Line("result = optimize(reward=[('brightness', 3)])", so="weight(result) == 3"),
    Line(
        "result = optimize(reward=[{'use': 'brightness', 'weight': 3}])", so="weight(result) == 3"
    ),
    Line(
        "result = optimize(reward={'brightness': 2, 'darkness': 1})",
        so="round(weight(result) - 1 / result.history[0].rewards['brightness'][0], 3) == 1",
    ),
    Line(
        "result = optimize(reward=dno.pil_reward(by_size))", so="'by_size' in result.best.rewards"
    ),
    Line(
        "result = optimize(reward=dno.pil_reward(with_prompts))",
        so="result.history[0].reward == (5.0,)",
    ),
    # Where to start.
    Line("result = optimize(start=before)", so="starts_at(result, before.best)"),
    Line("result = optimize(start=before.last)", so="starts_at(result, before.last)"),
    Line("result = optimize(start=before.best.noise_BN)", so="starts_at(result, before.best)"),
    Line("result = optimize(start=before.folder)", so="starts_at(result, before.best)"),
    Line("result = optimize(start=before.images[0])", told="start: is a picture, and this sampler"),
    # Who looks on.
    Line("result = optimize(observer=lambda event: seen.append(event))", so="len(seen) == 2"),
    Line("result = optimize(callback=stop)", so="result.status == 'stopped' and len(seen) == 1"),
    Line("result = optimize(progress=True)", so="'iteration 1/1' in told()"),
    Line("result = optimize()", so="told() == ''"),
    # What cannot be meant.
    Line("optimize(rewards='clip')", told="rewards: is called reward, which may be a list"),
    Line("optimize(rewrd='clip')", told="rewrd: unknown option; did you mean reward?"),
    Line("optimize(num_steps=3)", told="num_steps: unknown option; did you mean steps?"),
    Line("optimize('a cat', 'a dog')", told="takes the prompt alone by place"),
    Line("optimize(steps=3, num_inference_steps=4)", told="another name of steps; give one"),
    Line("optimize(generator=[torch.Generator()])", told="generator: needs one torch.Generator"),
    Line("optimize(observer=object())", told="or a function"),
    Line("optimize(callback_on_step_end=stop)", told="callback is called after each iteration"),
    Line("optimize(output_type='pt')", told="output_type: is not needed: result.images"),
    Line("optimize(pipe=before)", told="pipe: is called model; or give the pipeline before"),
    Line("dno.optimize(SAMPLER, 'a cat', reward=bright)", told="sampler.model: .*FunctionSampler"),
]

PIPELINES = [
    Line("result = dno.optimize(pipe, 'a cat', **few)", so="result.images[0].size == (16, 16)"),
    Line("result = dno.optimize('a cat', model=pipe, **few)", so="len(result.images) == 1"),
    Line("result = dno.optimize('a cat', model=Path(folder), **few)", so="len(result.images) == 1"),
    Line(
        "result = dno.optimize(pipe, 'a cat', height=32, width=64, **few)",
        so="result.images[0].size == (64, 32)",
    ),
    Line(
        "result = dno.optimize(pipe, 'a cat', generator=torch.Generator().manual_seed(5), **few)",
        so="result.images[0].tobytes() == stock.tobytes()",
    ),
]


def check(line: Line, names: dict[str, Any]) -> None:
    """Run a line, and see that what should be so afterwards is so."""
    if line.told:
        with pytest.raises(ConfigError, match=line.told):
            exec(line.code, names)
        return
    exec(line.code, names)
    assert eval(line.so, names)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dno.Result:
    return optimize(seed=9, out=tmp_path_factory.mktemp("runs") / "before")


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.code)
def test_a_line(
    line: Line, before: dno.Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cat.png"
    seen: list[Any] = []

    def stop(event: Any) -> bool:
        seen.append(event)
        return True

    def ddim(**options: Any) -> dno.RunConfig:
        from dno.runs.aliases import own_options
        from dno.runs.shorthands import assemble

        values = {"prompts": "a cat", "rewards": ["brightness"]}
        return assemble(values, own_options(options))

    names = {
        **globals(),
        "before": before,
        "ddim": ddim,
        "file": file,
        "noise": torch.randn(1, 3, 8, 8),
        "seeds": lambda result: [seed for _, seed in result.items],
        "seen": seen,
        "starts_at": lambda result, there: torch.equal(result.initial.noise_BN, there.noise_BN),
        "stop": stop,
        "told": lambda: capsys.readouterr().err,
        "weight": lambda result: round(
            result.history[0].reward[0] / result.history[0].rewards["brightness"][0], 4
        ),
    }
    check(line, names)


@pytest.mark.slow
@pytest.mark.parametrize("line", PIPELINES, ids=lambda line: line.code)
def test_a_line_with_a_pipeline(line: Line, pipeline_folders: Callable[[Kind], Path]) -> None:
    pipe = tiny_stable_diffusion("sd1")
    few = {"reward": "brightness", "iterations": 0, "num_inference_steps": 2}
    names = {**globals(), "few": few, "folder": pipeline_folders("sd1"), "pipe": pipe}
    if "stock" in line.so:
        names["stock"] = _drawn_by_diffusers(pipe)
    check(line, names)


def _drawn_by_diffusers(pipe: Any) -> Image.Image:
    """The picture of the stock pipeline with DDIM from seed 5."""
    import copy

    from diffusers import DDIMScheduler

    plain = copy.copy(pipe)
    plain.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    plain.set_progress_bar_config(disable=True)
    (picture,) = plain(
        "a cat",
        num_inference_steps=2,
        eta=1.0,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(5),
    ).images
    found: Image.Image = picture
    return found


def test_a_function_that_gives_too_few_scores_is_told() -> None:
    reward = dno.pil_reward(lambda pictures: [1.0])
    with pytest.raises(RunError, match="gave 1 scores for 2 pictures"):
        reward(torch.rand(2, 3, 4, 4), ["x", "y"])


def test_a_function_of_pil_pictures_scores_what_the_sampler_drew() -> None:
    result = optimize(reward=dno.pil_reward(by_size), batch=2)
    red = result.initial.samples[:, 0].mean(dim=(1, 2))
    assert result.initial.rewards["by_size"].tolist() == pytest.approx(red.tolist(), abs=0.02)
