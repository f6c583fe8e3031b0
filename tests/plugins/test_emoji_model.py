"""The embedded model as shipped: it loads silently, is small, and draws what it is asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from dno_builtin.rewards.clip import Clip
from dno_emoji import CLIP, JUDGE, PIPELINE
from dno_emoji.codec import EmojiCodec
from transformers import CLIPModel, CLIPTokenizer, ResNetForImageClassification

from dno.plugin import BuildContext

pytestmark = pytest.mark.slow

PROMPTS = ("a black spider", "a white rabbit", "a red fox on a blue background", "a green frog")
SAMPLING = {"num_inference_steps": 50, "guidance_scale": 5.0, "eta": 1.0}


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    pipe = DiffusionPipeline.from_pretrained(PIPELINE, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pictures(pipe: StableDiffusionPipeline) -> torch.Tensor:
    """One picture a prompt, `B x 3 x 64 x 64` in [0, 1], by the plain pipeline."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    images: torch.Tensor = pipe(
        list(PROMPTS), **SAMPLING, generator=generators, output_type="pt"
    ).images
    return images


@pytest.fixture(scope="module")
def codec() -> EmojiCodec:
    codec = EmojiCodec.from_pretrained(PIPELINE / "vae", dtype=torch.float32)
    return codec.requires_grad_(False)


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
    assert image.shape == (1, 3, 64, 64)
    assert image.isfinite().all()


def test_a_seed_draws_the_latents_that_it_always_drew(pipe: StableDiffusionPipeline) -> None:
    """The model that drew 32 x 32 px pictures gave these numbers, and so must any codec's."""
    before = [-6.4492, 1.5428, 0.1216, -0.1268, -1.9524, 0.3814, 0.2934, 1.6058]
    seed = torch.Generator().manual_seed(0)
    latents = pipe("a black cat", **SAMPLING, generator=seed, output_type="latent").images
    assert latents.shape == (1, 24, 8, 8)
    torch.testing.assert_close(latents[0, :8, 3, 4], torch.tensor(before), rtol=0, atol=5e-3)


def test_latents_are_those_of_the_halved_picture(codec: EmojiCodec) -> None:
    """What the 32 px model's encoder, 4 x 4 px a latent, made of this picture at that size."""
    # fmt: off
    before = torch.tensor([
        1.2989, 1.3136, -5.2153, -1.1921, 1.7453, -0.5888, -0.6216, 0.3840, 0.2282, 0.0936,
        -1.2834, -0.5992, -0.0392, -0.2793, 0.2075, -0.1415, -0.1911, 0.2059, 0.2644, -0.0382,
        -0.1286, 0.0890, 0.0929, 0.4498,
    ])
    # fmt: on
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    waves = [torch.sin(x / 3 + y / 7), torch.cos(y / 4), torch.sin(x * y / 90)]
    small = torch.stack(waves)[None]

    # Any picture whose 2 x 2 px have these means will do, such as one with a fine pattern on it.
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    pattern = torch.tensor([[0.3, -0.1], [-0.4, 0.2]]).repeat(32, 32)
    for image in (large, large + pattern):
        latents = codec.encode(image).latent_dist.mode()
        assert latents.shape == (1, 24, 8, 8)
        torch.testing.assert_close(latents[0, :, 2, 5], before, rtol=0, atol=2e-4)


def test_pipelines_read_the_size_of_a_patch(pipe: StableDiffusionPipeline) -> None:
    assert pipe.vae_scale_factor == pipe.vae.config.patch == 8
    wide = pipe("a fox", num_inference_steps=1, height=64, width=128, output_type="pt").images
    assert wide.shape == (1, 3, 64, 128)


def smooth_pictures(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Four pictures of soft gradients in other colours, `4 x 3 x 64 x 64` in [-1, 1]."""
    line = torch.linspace(-0.8, 0.8, 64, dtype=dtype)
    across, down = line.expand(64, 64), line[:, None].expand(64, 64)
    planes = [(across, down, -across), (down, down, across), (-down, across, across), (across,) * 3]
    return torch.stack([torch.stack(picture) for picture in planes])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_codec_keeps_smooth_pictures(dtype: torch.dtype) -> None:
    codec = EmojiCodec.from_pretrained(PIPELINE / "vae", dtype=dtype)
    images = smooth_pictures(dtype)
    latents = codec.encode(images).latent_dist.sample()
    assert latents.shape == (4, 24, 8, 8)
    back = codec.decode(latents, return_dict=False)[0]
    assert back.dtype == dtype
    psnr = -10 * ((back - images).float() / 2).square().mean().log10()
    assert psnr > 25


def test_the_network_takes_grain_away(codec: EmojiCodec) -> None:
    """Flat pictures whose latents got noise: the linear decoder shows it, the whole one hardly."""
    flat = torch.tensor([-0.5, 0.0, 0.6])[:, None, None, None].expand(3, 3, 64, 64)
    latents = codec.encode(flat).latent_dist.mode()
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = latents + 0.2 * noise
    linear = (codec.decode_linearly(noisy) - flat).square().mean()
    whole = (codec.decode(noisy).sample - flat).square().mean()
    assert whole < linear / 3


def test_decoding_draws_nothing(codec: EmojiCodec) -> None:
    latents = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    one = codec.decode(latents).sample
    other = codec.decode(latents, generator=torch.Generator().manual_seed(5)).sample
    torch.testing.assert_close(other, one, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_picture_does_not_depend_on_its_batch(codec: EmojiCodec) -> None:
    latents = torch.randn(2, 24, 8, 8, generator=torch.Generator().manual_seed(2))
    latents[1] *= 10
    both = codec.decode(latents).sample
    alone = torch.cat([codec.decode(one).sample for one in latents.split(1)])
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-5)

    latents.requires_grad_()
    gradient = torch.autograd.grad(codec.decode(latents).sample[0].sum(), latents)[0]
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_the_codec_is_differentiable(codec: EmojiCodec) -> None:
    codec = EmojiCodec.from_pretrained(PIPELINE / "vae", dtype=torch.float64).requires_grad_(False)
    latents = torch.randn(1, 24, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: codec.decode(z).sample, (latents,))


def test_decoding_is_no_steeper_than_a_linear_decoder(
    pipe: StableDiffusionPipeline, codec: EmojiCodec
) -> None:
    """A steep direction would let a reward change the picture with noise that looks ordinary."""
    seed = torch.Generator().manual_seed(3)
    latents = pipe("a red fox", **SAMPLING, generator=seed, output_type="latent").images

    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    steepest = {}
    for name, decode in {
        "whole": lambda z: codec.decode(z).sample,
        "linear": codec.decode_linearly,
    }.items():
        for _ in range(30):
            direction = direction / direction.norm()
            _, moved = torch.autograd.functional.jvp(decode, latents, direction)
            _, direction = torch.autograd.functional.vjp(decode, latents, moved)
        steepest[name] = float(moved.norm())
    assert 0.3 * steepest["linear"] < steepest["whole"] < 2 * steepest["linear"]


def reduced(pictures: torch.Tensor) -> torch.Tensor:
    """What scorer and judge see of pictures in [0, 1]: 32 x 32 px in [-1, 1]."""
    return torch.nn.functional.avg_pool2d(pictures, 2) * 2 - 1


def test_the_judge_sees_what_was_asked_for(pictures: torch.Tensor) -> None:
    judge = ResNetForImageClassification.from_pretrained(JUDGE, dtype=torch.float32)
    large = torch.nn.functional.interpolate(
        reduced(pictures), size=(64, 64), mode="bilinear", align_corners=False
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
    clip = CLIPModel.from_pretrained(CLIP, dtype=torch.float32)
    words = CLIPTokenizer.from_pretrained(CLIP)(
        list(PROMPTS), padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        fit = clip(**words, pixel_values=reduced(pictures)).logits_per_image
    assert fit.argmax(1).tolist() == list(range(len(PROMPTS)))


def test_the_clip_reward_sees_what_the_scorer_was_trained_on(pictures: torch.Tensor) -> None:
    """The reward reduces pictures by a bicubic filter, training by averaging: they must agree."""
    reward = Clip().build(BuildContext(device=torch.device("cpu"), dtype=torch.float32))
    small = (reduced(pictures) + 1) / 2
    with torch.no_grad():
        given, averaged = reward(pictures, PROMPTS), reward(small, PROMPTS)
    torch.testing.assert_close(given, averaged, rtol=0, atol=0.02)
