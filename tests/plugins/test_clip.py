import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dno_builtin.rewards._preprocess import Preprocess
from dno_builtin.rewards.clip import Clip
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from dno.plugin import BuildContext, ConfigError
from dno.testing.clip import save_tiny_clip

pytestmark = pytest.mark.slow

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def reward(folder: Path) -> Any:
    return Clip(model=str(folder)).build(CPU)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Sharp discs and stripes with a little noise: what resizing gets wrong if anything."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), rng.integers(0, 256, 3), dtype=float)
    for _ in range(6):
        centre, radius = rng.uniform(0, [height, width]), rng.uniform(0.1, 0.4) * min(height, width)
        pixels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = rng.integers(0, 256, 3)
    pixels[(x + y) % 7 < 2] *= 0.5
    return Image.fromarray((pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8))


def as_tensor(*pictures: Image.Image) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in pictures])


def official(folder: Path) -> CLIPProcessor:
    return CLIPProcessor.from_pretrained(folder)


SHAPES = [
    (32, 32),
    (64, 64),
    (50, 75),
    (75, 50),
    (33, 200),
    (20, 16),
    (512, 512),
    (333, 401),
    (32, 47),
    (31, 97),
]
CHANGES = {
    "bilinear": {"resample": 2},
    "squashed": {"size": {"height": 24, "width": 40}, "do_center_crop": False},
    "crop with a border": {"crop_size": {"height": 27, "width": 45}},
    "crop alone": {"do_resize": False},
    "no mean or deviation": {"do_normalize": False},
    "to -1..1": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
}


@pytest.mark.parametrize(
    ("shape", "changes"),
    [pytest.param(shape, {}, id="x".join(map(str, shape))) for shape in SHAPES]
    + [
        pytest.param(shape, CHANGES[name], id=name)
        for name in CHANGES
        for shape in [(50, 75), (31, 97), (20, 16)]
    ],
)
def test_preprocessing_is_the_processors(
    folder: Path, shape: tuple[int, int], changes: dict[str, Any]
) -> None:
    processor = official(folder).image_processor
    config = processor.to_dict() | changes
    image = picture(*shape, seed=sum(shape))
    expected = torch.as_tensor(np.stack(processor(image, **changes)["pixel_values"]))
    preprocess = Preprocess.from_config(config)
    found = preprocess(as_tensor(image))
    assert found.shape == expected.shape
    # In the units of pixels before they were normalised.
    unit = torch.tensor(preprocess.std).view(1, 3, 1, 1) / preprocess.scale
    rms = ((found - expected) * unit).square().mean().sqrt().item()
    assert rms <= 0.5 / 255


def test_other_spellings_are_read_too() -> None:
    known = {
        "size": 224,
        "crop_size": 224,
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": 0.25,
    }
    assert Preprocess.from_config(known) == Preprocess(
        size=224, mode="bicubic", crop=(224, 224), scale=1.0, mean=(0.5,) * 3, std=(0.25,) * 3
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"resample": 1}, "filter 1"),
        ({"size": {"longest_edge": 224}}, "resizes to {'longest_edge': 224}"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "'longest_edge': 300"),
        ({"do_pad": True}, "pads images"),
    ],
)
def test_processors_of_another_kind_are_refused(
    folder: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Preprocess.from_config(official(folder).image_processor.to_dict() | changes)


def test_preprocessing_has_the_gradient_of_finite_differences(folder: Path) -> None:
    preprocess = Preprocess.from_config(official(folder).image_processor.to_dict())
    small = replace(preprocess, size=6, crop=(6, 6))
    generator = torch.Generator().manual_seed(0)
    images = (
        0.3 + 0.4 * torch.rand(1, 3, 9, 11, generator=generator, dtype=torch.float64)
    ).requires_grad_()
    assert torch.autograd.gradcheck(small, images)


@pytest.mark.parametrize("template", ["{}", "photo of {}"])
def test_the_score_is_the_models_own_cosine(folder: Path, template: str) -> None:
    prompts = ["a black cat", "duck", "a black cat"]
    pictures = [picture(32, 32, seed=seed) for seed in range(3)]
    processor, model = official(folder), CLIPModel.from_pretrained(folder)
    inputs = processor(
        text=[template.format(prompt) for prompt in prompts],
        images=pictures,
        return_tensors="pt",
        padding=True,
    )
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()
    found = Clip(model=str(folder), template=template).build(CPU)(as_tensor(*pictures), prompts)
    assert found.dtype == torch.float32
    assert found.std() > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("template", [None, "photo of {}"])
def test_clipscore_is_its_definition(folder: Path, template: str | None) -> None:
    prompts, images = (
        ["a cat", "duck", "a dog"],
        as_tensor(*(picture(32, 32, seed=seed) for seed in range(3))),
    )
    given = {} if template is None else {"template": template}
    cosine: Any = Clip(model=str(folder), template=template or "A photo depicts {}").build(CPU)
    score: Any = Clip(model=str(folder), clipscore=True, **given).build(CPU)
    for _ in "-+":
        expected = 2.5 * cosine(images, prompts).clamp(min=0)
        torch.testing.assert_close(score(images, prompts), expected, rtol=0, atol=1e-6)
        for reward in (cosine, score):  # The opposite of every feature has the opposite cosine.
            reward.model.visual_projection.weight.neg_()
    assert cosine(images, prompts).abs().min() > 1e-3


def test_pickled_weights_are_read_and_kept_as_safetensors(
    broken: Path,
    reward: Any,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DNO_CACHE", str(cache))
    (broken / "model.safetensors").unlink()
    torch.save(reward.model.state_dict(), broken / "pytorch_model.bin")
    images = as_tensor(picture(32, 32))
    found = Clip(model=str(broken)).build(CPU)(images, ["a cat"])
    torch.testing.assert_close(found, reward(images, ["a cat"]), rtol=0, atol=1e-6)
    assert len(list(cache.rglob("pytorch_model-*.safetensors"))) == 1


def test_bfloat16_weights_give_float32_scores(folder: Path, reward: Any) -> None:
    images = as_tensor(*(picture(40, 50, seed=seed) for seed in range(2))).requires_grad_()
    half = Clip(model=str(folder), dtype="bfloat16").build(CPU)
    scores = half(images, ["a cat", "a dog"])
    assert all(p.dtype == torch.bfloat16 for p in half.model.parameters())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, reward(images, ["a cat", "a dog"]), rtol=0, atol=0.03)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert gradient.dtype == torch.float32
    assert gradient.abs().max() > 0


def test_score_has_the_gradient_of_finite_differences(folder: Path) -> None:
    reward: Any = Clip(model=str(folder)).build(CPU)
    prompts = ["a cat", "a dog"]
    # The texts first: transformers 4 cannot embed them in float64.
    reward(as_tensor(picture(32, 32), picture(32, 32)), prompts)
    reward.model.double()
    generator = torch.Generator().manual_seed(1)
    images = (
        0.2 + 0.6 * torch.rand(2, 3, 40, 48, generator=generator, dtype=torch.float64)
    ).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images, prompts).sum(), images)
    assert gradient.dtype == torch.float64
    for _ in range(5):
        way = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            high, low = (reward(images + step * way, prompts).sum() for step in (1e-5, -1e-5))
        assert (gradient * way).sum().item() == pytest.approx(
            ((high - low) / 2e-5).item(), rel=1e-5
        )


def test_an_image_does_not_depend_on_its_neighbours(reward: Any) -> None:
    images = as_tensor(*(picture(40, 50, seed=seed) for seed in range(3)))
    prompts = ["cat", "a dog", "cat"]
    whole = reward(images, prompts)
    for row in range(3):
        alone = reward(images[row : row + 1], prompts[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=0, atol=1e-6)


def test_weights_are_frozen_and_a_prompt_is_embedded_once(
    reward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    embed = reward.model.get_text_features
    monkeypatch.setattr(
        reward.model, "get_text_features", lambda **inputs: seen.append("x") or embed(**inputs)
    )
    images = as_tensor(picture(32, 32), picture(32, 32, seed=1)).requires_grad_()
    for _ in range(3):
        reward(images, ["a cat", "a dog"]).sum().backward()
    assert len(seen) == 2
    assert images.grad is not None
    assert all(not p.requires_grad and p.grad is None for p in reward.model.parameters())
    assert all(p.dtype == torch.float32 for p in reward.model.parameters())
    assert not reward.model.training


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_reads_texts_stays_on_the_cpu(folder: Path, dtype: str, reward: Any) -> None:
    # No device but the CPU is sure to be here that computes; this one tells where weights go.
    meta = BuildContext(torch.device("meta"), torch.float32)
    built: Any = Clip(model=str(folder), dtype=dtype).build(meta)
    assert built.model.vision_model.device.type == "meta"
    assert built.model.visual_projection.weight.is_meta
    assert built.model.device.type == "meta"
    assert [type(part) for part in built.on_cpu] == [
        type(built.model.text_model),
        type(built.model.text_projection),
    ]
    for part in built.on_cpu:
        for weight in part.parameters():
            # CPUs are slow in half precision.
            assert (weight.device.type, weight.dtype) == ("cpu", torch.float32)

    prompts = ["a cat"]
    scores = built(torch.rand(1, 3, 32, 32, device="meta"), prompts)
    assert scores.is_meta
    assert scores.shape == (1,)
    assert built._texts["a cat"].is_meta
    reward(torch.rand(1, 3, 32, 32), prompts)
    assert reward.model.text_model.device == reward.model.vision_model.device


def test_a_long_prompt_is_cut_and_said_once(reward: Any, caplog: pytest.LogCaptureFixture) -> None:
    images = as_tensor(picture(32, 32))
    with caplog.at_level(logging.WARNING, logger="dno"):
        long = reward(images, ["catcatcatcat dogdogdogdog"])
        reward(images, ["catcatcatcat dogdogdogdog"])
        assert [record.getMessage() for record in caplog.records] == [
            "the CLIP model reads 24 tokens; the end of this prompt's 26 is not scored: "
            "catcatcatcat dogdogdogdog"
        ]
    # 22 letters between the two ends.
    assert torch.equal(long, reward(images, ["catcatcatcat dogdogdogdzz"]))
    assert not torch.equal(long, reward(images, ["catcatcatcat dogdogdogzog"]))


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to spoil."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_json(path: Path, **values: object) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8"
    )


def refuse(model: object, method: str) -> str:
    config = Clip(model=str(model))
    with pytest.raises(ConfigError) as caught:
        config.check() if method == "check" else config.build(CPU)
    assert caught.value.at == "model"
    return caught.value.problem


def test_what_check_refuses(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert 'no model "no/such/folder"' in refuse("no/such/folder", "check")
    Clip(model="owner/name").check()  # A hub id: nobody knows yet.
    for name, problem in (
        ("processor_config.json", ""),
        ("preprocessor_config.json", "holds no processor"),
        ("model.safetensors", "holds no weights: no model.safetensors or "),
        ("config.json", "has no config.json"),
    ):
        (broken / name).unlink(missing_ok=True)
        if problem:
            assert problem in refuse(broken, "check")
            assert problem in refuse(broken, "build")
        else:
            Clip(model=str(broken)).check()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"clip"'])
def test_a_config_that_is_none_is_refused(broken: Path, content: str) -> None:
    (broken / "config.json").write_text(content, encoding="utf-8")
    assert "cannot be read" in refuse(broken, "check")


def test_another_kind_of_model_is_refused(broken: Path) -> None:
    change_json(broken / "config.json", model_type="bert")
    assert "a model of type bert; name a CLIP model" in refuse(broken, "check")


def test_weights_that_are_not_whole_are_refused(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    Clip(model=str(broken)).check()
    assert "lacks 1 of a CLIP model's weights, such as visual_projection.weight" in refuse(
        broken, "build"
    )
    (broken / "model.safetensors").write_bytes(b"not weights")
    assert "could not be loaded as a CLIP model: " in refuse(broken, "build")


def test_a_processor_of_another_kind_is_refused(broken: Path) -> None:
    change_json(broken / "preprocessor_config.json", resample=1)
    assert f'"{broken}": its image processor resizes with PIL\'s filter 1' in refuse(
        broken, "build"
    )


@pytest.mark.parametrize("template", ["a photo", "{} and {}", ""])
def test_a_template_has_one_place_for_the_prompt(template: str) -> None:
    with pytest.raises(ValidationError, match="once, in the prompt's place"):
        Clip(template=template)


def test_braces_in_a_prompt_are_text(folder: Path) -> None:
    config = Clip(model=str(folder), template="of {}")
    assert math.isfinite(config.build(CPU)(as_tensor(picture(32, 32)), ["{0} {cat} {}"]).item())


def test_an_installed_model_whose_files_are_gone_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dno_builtin.rewards._files.find_model", lambda model: str(tmp_path / "gone")
    )
    assert f'"{tmp_path / "gone"}" holds no model' in refuse("emoji-clip", "check")
