"""The embedded model as shipped: it loads silently, is small, and draws what it is asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from dno_emoji import CLIP, JUDGE, PIPELINE
from dno_emoji.codec import PatchCodec
from transformers import CLIPModel, CLIPTokenizer, ResNetForImageClassification

pytestmark = pytest.mark.slow

PROMPTS = ("a black spider", "a white rabbit", "a red fox on a blue background", "a green frog")


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    pipe = DiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pictures(pipe: StableDiffusionPipeline) -> torch.Tensor:
    """One picture a prompt, `B x 3 x 32 x 32` in [0, 1], by the plain pipeline."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    images: torch.Tensor = pipe(
        list(PROMPTS),
        num_inference_steps=50,
        guidance_scale=5.0,
        eta=1.0,
        generator=generators,
        output_type="pt",
    ).images
    return images


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What the model libraries log at warning level or above."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    keep, loggers = (
        Keep(logging.WARNING),
        [logging.getLogger(name) for name in ("diffusers", "transformers")],
    )
    for logger in loggers:
        logger.addHandler(keep)
    yield found
    for logger in loggers:
        logger.removeHandler(keep)


def test_every_folder_loads_without_a_warning(complaints: list[str]) -> None:
    DiffusionPipeline.from_pretrained(PIPELINE)
    CLIPModel.from_pretrained(CLIP)
    CLIPTokenizer.from_pretrained(CLIP)
    ResNetForImageClassification.from_pretrained(JUDGE)
    # The libraries say once a process that torchvision is missing, whatever is loaded.
    assert [line for line in complaints if "torchvision" not in line] == []


def test_all_weights_fit_in_25_megabytes() -> None:
    files = [
        path for folder in (PIPELINE, CLIP, JUDGE) for path in folder.rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in files) <= 25_000_000


@pytest.mark.parametrize("folder", [PIPELINE, CLIP, JUDGE], ids=lambda folder: folder.name)
def test_configs_name_no_path_of_the_machine_that_wrote_them(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        assert "_name_or_path" not in content, path.name


@pytest.mark.parametrize("folder", [PIPELINE / "tokenizer", CLIP], ids=["pipeline", "clip"])
def test_every_caption_word_is_one_token(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    labels = ResNetForImageClassification.config_class.from_pretrained(JUDGE).id2label.values()
    assert len(labels) == 45 + 11
    for word in (*labels, "a", "an", "on", "background"):
        assert len(tokenizer(word).input_ids) == 3, word  # start, word, end


@pytest.mark.parametrize("prompt", ["", "a quokka, please!", "é 日本 🦊", "fox " * 40])
def test_any_text_makes_a_picture(pipe: StableDiffusionPipeline, prompt: str) -> None:
    image = pipe(prompt, num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 32, 32)
    assert image.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_codec_keeps_smooth_pictures(dtype: torch.dtype) -> None:
    codec = PatchCodec.from_pretrained(PIPELINE / "vae", dtype=dtype)
    line = torch.linspace(-1, 1, 32, dtype=dtype)
    images = torch.stack(
        [line.expand(32, 32), line[:, None].expand(32, 32), line.neg().expand(32, 32)]
    )[None]
    latents = codec.encode(images).latent_dist.sample()
    assert latents.shape == (1, 24, 8, 8)
    back = codec.decode(latents, return_dict=False)[0]
    assert back.dtype == dtype
    psnr = -10 * ((back - images).float() / 2).square().mean().log10()
    assert psnr > 25


def test_the_codec_is_differentiable() -> None:
    codec = PatchCodec.from_pretrained(PIPELINE / "vae", dtype=torch.float64).requires_grad_(False)
    latents = torch.randn(1, 24, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: codec.decode(z).sample, (latents,))


def test_the_judge_sees_what_was_asked_for(pictures: torch.Tensor) -> None:
    judge = ResNetForImageClassification.from_pretrained(JUDGE, dtype=torch.float32)
    large = torch.nn.functional.interpolate(
        pictures * 2 - 1, size=(64, 64), mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        animal, colour = judge(large).logits.split([45, 11], dim=1)
    names = [judge.config.id2label[index] for index in range(45 + 11)]
    seen = [
        f"{names[45 + c]} {names[a]}"
        for a, c in zip(animal.argmax(1), colour.argmax(1), strict=True)
    ]
    asked = [" ".join(prompt.split()[1:3]) for prompt in PROMPTS]
    assert sum(a == b for a, b in zip(seen, asked, strict=True)) >= len(PROMPTS) - 1, seen


def test_the_scorer_prefers_the_right_caption(pictures: torch.Tensor) -> None:
    clip, tokenizer = (
        CLIPModel.from_pretrained(CLIP, dtype=torch.float32),
        CLIPTokenizer.from_pretrained(CLIP),
    )
    words = tokenizer(list(PROMPTS), padding="max_length", return_tensors="pt")
    with torch.no_grad():
        fit = clip(**words, pixel_values=pictures * 2 - 1).logits_per_image
    assert fit.argmax(1).tolist() == list(range(len(PROMPTS)))
