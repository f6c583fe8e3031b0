"""Rewards with published weights, on small models of the same classes, names and file formats.

The models' own code is not installed here; what it computes is written out below in plain torch,
and their preprocessing in PIL.
"""

import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from dno_builtin.rewards import _files, _weights
from dno_builtin.rewards._aesthetic import load_aesthetic
from dno_builtin.rewards._files import PINNED, fetch
from dno_builtin.rewards._imagereward import configs, text_names, vision_names
from dno_builtin.rewards._openclip import clip_config, clip_names
from dno_builtin.rewards._preprocess import MEAN, STD, Preprocess
from dno_builtin.rewards.aesthetic import Aesthetic
from dno_builtin.rewards.hpsv2 import HPSv2, HPSv21
from dno_builtin.rewards.imagereward import ImageReward
from dno_builtin.rewards.pickscore import PickScore
from dno_builtin.rewards.siglip import Siglip
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from PIL import Image, ImageDraw
from preference_models import Models, State, imagereward_state, openclip_state, save_bert_tokenizer
from torch import Tensor
from transformers import (
    BlipTextModel,
    BlipVisionModel,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SiglipModel,
    SiglipProcessor,
)

import dno
from dno.plugin import BuildContext, ConfigError, RewardConfig

pytestmark = pytest.mark.slow

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
NAMES = ["siglip", "aesthetic", "pickscore", "hpsv2", "hpsv2.1", "imagereward"]
PROMPTS = ["a black cat", "duck"]


# --- Pictures
# --------------------------------------------------------------------------------------------------


def picture(kind: str, height: int, width: int) -> Image.Image:
    """A gradient, writing, noise as in a photograph, or a piece of the emoji model's samples."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    if kind == "gradient":
        return Image.fromarray((np.stack([x, y, 1 - x], 2) * 255).astype(np.uint8))
    if kind == "writing":
        page = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(page).multiline_text(
            (2, 2), "black and sharp\nletters here\n" * 20, fill="black"
        )
        return page
    if kind == "noise":
        rng = np.random.default_rng(height * width)
        light = 128 + 90 * np.sin(7 * x + 3 * y)[..., None] + rng.normal(0, 12, (height, width, 3))
        return Image.fromarray(light.clip(0, 255).astype(np.uint8))
    sheet = Image.open(
        Path(__file__).parents[2] / "plugins/emoji/dno_emoji/card/samples.png"
    ).convert("RGB")
    return sheet.crop((4, 4, 4 + width, 4 + height))


def as_tensor(*pictures: Image.Image) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in pictures])


KINDS = ["gradient", "writing", "noise", "emoji"]
SHAPES = [
    (224, 224),
    (32, 32),
    (300, 225),
    (100, 149),
    (151, 97),
    (512, 640),
    (61, 240),
    (225, 231),
]


def rms(found: Tensor, expected: Tensor) -> float:
    """In the units of pixels: [0, 1]."""
    assert found.shape == expected.shape
    return ((found - expected) * torch.tensor(STD).view(1, 3, 1, 1)).square().mean().sqrt().item()


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shortest_side_is_torchvisions_on_a_picture(kind: str, shape: tuple[int, int]) -> None:
    """`Resize(224, BICUBIC)`, `CenterCrop(224)`, `ToTensor`, `Normalize`: ImageReward and the
    aesthetic predictor.
    """
    image = picture(kind, *shape)
    (width, height), short = image.size, min(image.size)
    small = image.resize(
        (int(224 * width / short), int(224 * height / short)), Image.Resampling.BICUBIC
    )
    left, top = (round((side - 224) / 2.0) for side in small.size)
    expected = normalised(as_tensor(small.crop((left, top, left + 224, top + 224))))
    assert rms(Preprocess.torchvision(224)(as_tensor(image)), expected) <= 0.5 / 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_longest_side_is_torchvisions_on_a_tensor(kind: str, shape: tuple[int, int]) -> None:
    """`ToTensor`, the longer side to 224 by an antialiased bicubic filter, `pad` with zeros,
    `Normalize`: HPSv2.
    """
    image = picture(kind, *shape)
    scale = 224 / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    # PIL's pictures of floats are resized by the same filter, without rounding and without a limit.
    planes = [Image.fromarray(plane.numpy()) for plane in as_tensor(image)[0]]
    if scale != 1:
        planes = [plane.resize((width, height), Image.Resampling.BICUBIC) for plane in planes]
    expected = torch.zeros(1, 3, 224, 224)
    top, left = (224 - height) // 2, (224 - width) // 2
    pixels = torch.stack([torch.from_numpy(np.array(plane)) for plane in planes])
    expected[0, :, top : top + height, left : left + width] = pixels
    found = Preprocess.whole(224, antialias=True)(as_tensor(image))
    torch.testing.assert_close(found, normalised(expected), rtol=0, atol=1e-4)


def test_longest_side_without_antialias_is_interpolate() -> None:
    images = as_tensor(picture("emoji", 96, 128))
    small = F.interpolate(images, (24, 32), mode="bicubic", align_corners=False, antialias=False)
    found = Preprocess.whole(32, antialias=False)(images)
    torch.testing.assert_close(found, normalised(F.pad(small, (0, 0, 4, 4))))


@pytest.mark.parametrize(
    "make", [Preprocess.torchvision, lambda size: Preprocess.whole(size, antialias=True)]
)
def test_preprocessing_has_the_gradient_of_finite_differences(make: Any) -> None:
    images = 0.3 + 0.4 * torch.rand(
        1, 3, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(make(6), images.requires_grad_())


# --- Small models
# --------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | float = 0.0) -> Tensor:
    """Attention, written out."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(-3, -2) for part in (q, k, v))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask).softmax(-1)
    return (weights @ v).transpose(-3, -2).flatten(-2)


def norm(x: Tensor, state: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def openclip_blocks(x: Tensor, state: State, tower: str, mask: Tensor | float = 0.0) -> Tensor:
    for i in range(2):
        block = f"{tower}.resblocks.{i}"
        y = norm(x, state, f"{block}.ln_1")
        qkv = y @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]
        x = x + linear(
            attend(*qkv.chunk(3, -1), heads=x.shape[-1] // 64, mask=mask),
            state,
            f"{block}.attn.out_proj",
        )
        y = F.gelu(linear(norm(x, state, f"{block}.ln_2"), state, f"{block}.mlp.c_fc"))
        x = x + linear(y, state, f"{block}.mlp.c_proj")
    return x


def openclip_score(state: State, images: Tensor, tokens: Tensor) -> Tensor:
    """Image features times text features, each of length 1, as open_clip computes them."""
    x = F.conv2d(normalised(images), state["visual.conv1.weight"], stride=8).flatten(2).mT
    x = (
        torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
        + state["visual.positional_embedding"]
    )
    x = openclip_blocks(norm(x, state, "visual.ln_pre"), state, "visual.transformer")
    seen = norm(x[:, 0], state, "visual.ln_post") @ state["visual.proj"]
    y = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    y = norm(openclip_blocks(y, state, "transformer", state["attn_mask"]), state, "ln_final")
    read = y[torch.arange(len(y)), tokens.argmax(-1)] @ state["text_projection"]
    return (F.normalize(seen, dim=-1) * F.normalize(read, dim=-1)).sum(-1)


def clip_tokens(prompt: str) -> list[int]:
    """By the vocabulary of `save_tiny_clip`: every letter a token, another one where it ends a
    word.
    """
    letters = [
        ord(c) - 97 + 26 * (c == word[-1] and i == len(word) - 1)
        for word in prompt.split()
        for i, c in enumerate(word)
    ]
    return [52, *letters, 53]


def imagereward_score(state: State, images: Tensor, tokens: Tensor) -> Tensor:
    """BLIP's `VisionTransformer` and `BertModel` (mode "multimodal"), and ImageReward's head."""
    blip = {key.removeprefix("blip."): value for key, value in state.items()}
    x = F.conv2d(
        normalised(images),
        blip["visual_encoder.patch_embed.proj.weight"],
        blip["visual_encoder.patch_embed.proj.bias"],
        stride=8,
    )
    x = torch.cat([blip["visual_encoder.cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1)
    x = x + blip["visual_encoder.pos_embed"]
    for i in range(2):
        block = f"visual_encoder.blocks.{i}"
        qkv = linear(norm(x, blip, f"{block}.norm1", 1e-6), blip, f"{block}.attn.qkv")
        x = x + linear(attend(*qkv.chunk(3, -1), heads=2), blip, f"{block}.attn.proj")
        y = F.gelu(linear(norm(x, blip, f"{block}.norm2", 1e-6), blip, f"{block}.mlp.fc1"))
        x = x + linear(y, blip, f"{block}.mlp.fc2")
    seen = norm(x, blip, "visual_encoder.norm", 1e-6)

    words = "text_encoder.embeddings"
    y = blip[f"{words}.word_embeddings.weight"][tokens]
    y = norm(
        y + blip[f"{words}.position_embeddings.weight"][: tokens.shape[1]],
        blip,
        f"{words}.LayerNorm",
        1e-12,
    )
    padding = torch.where(tokens == 0, -10000.0, 0.0)[:, None, None]
    for i in range(2):
        layer = f"text_encoder.encoder.layer.{i}"
        for attention, source in (("attention", None), ("crossattention", seen)):
            own = f"{layer}.{attention}.self"
            keys = y if source is None else source
            answer = attend(
                linear(y, blip, f"{own}.query"),
                linear(keys, blip, f"{own}.key"),
                linear(keys, blip, f"{own}.value"),
                heads=1,
                mask=padding if source is None else 0.0,
            )
            answer = linear(answer, blip, f"{layer}.{attention}.output.dense")
            y = norm(answer + y, blip, f"{layer}.{attention}.output.LayerNorm", 1e-12)
        answer = linear(
            F.gelu(linear(y, blip, f"{layer}.intermediate.dense")), blip, f"{layer}.output.dense"
        )
        y = norm(answer + y, blip, f"{layer}.output.LayerNorm", 1e-12)
    score = y[:, 0]
    for number in (0, 2, 4, 6, 7):
        score = linear(score, state, f"mlp.layers.{number}")
    return (score[:, 0] - 0.16717362830052426) / 1.0333394966054072


def bert_tokens(prompt: str) -> list[int]:
    letters = [
        ord(c) - 97 + (5 if i == 0 else 31) for word in prompt.split() for i, c in enumerate(word)
    ]
    return [2, *letters, 3]


def filled(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


@pytest.fixture(scope="module")
def rewards(models: Models) -> dict[str, Any]:
    return {name: models.config(name).build(CPU) for name in NAMES}


def square(*kinds: str) -> Tensor:
    """Pictures of the models' own size, which preprocessing leaves as they are."""
    return as_tensor(*(picture(kind, 32, 32) for kind in kinds))


# --- Scores
# --------------------------------------------------------------------------------------------------


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float32
    assert found.shape == (len(expected),)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["hpsv2", "hpsv2.1"])
def test_hpsv2_is_open_clips_cosine(models: Models, rewards: dict[str, Any], name: str) -> None:
    images, prompts = square(*KINDS), [*PROMPTS, "duck", "red"]
    state = models.hps if name == "hpsv2" else models.hps21
    expected = openclip_score(
        state, images, filled([clip_tokens(prompt) for prompt in prompts], 24)
    )
    close(rewards[name](images, prompts), expected)


def test_imagereward_is_blip_and_its_head(models: Models, rewards: dict[str, Any]) -> None:
    images, prompts = square(*KINDS), [*PROMPTS, "duck", "red"]
    expected = imagereward_score(
        models.imagereward, images, filled([bert_tokens(prompt) for prompt in prompts], 35)
    )
    close(rewards["imagereward"](images, prompts), expected)


def test_aesthetic_is_the_head_on_clips_normalised_feature(
    models: Models, rewards: dict[str, Any]
) -> None:
    images = square(*KINDS)
    with torch.no_grad():
        found = CLIPModel.from_pretrained(models.folder / "clip").get_image_features(
            normalised(images)
        )
        feature = getattr(found, "pooler_output", found).numpy()
        x = torch.from_numpy(feature / np.linalg.norm(feature, axis=-1, keepdims=True))
        for number in (0, 2, 4, 6, 7):
            x = linear(x, models.head, f"layers.{number}")
    close(rewards["aesthetic"](images, ["any"] * 4), x[:, 0])


def test_pickscore_is_its_authors_snippet(models: Models, rewards: dict[str, Any]) -> None:
    model = CLIPModel.from_pretrained(models.folder / "clip")
    processor = CLIPProcessor.from_pretrained(models.folder / "clip")
    pictures, prompts = [picture(kind, 32, 32) for kind in KINDS], [*PROMPTS, "duck", "red"]
    with torch.no_grad():
        seen = model.get_image_features(**processor(images=pictures, return_tensors="pt"))
        read = model.get_text_features(
            **processor(
                text=prompts, padding=True, truncation=True, max_length=24, return_tensors="pt"
            )
        )
    seen, read = (getattr(found, "pooler_output", found) for found in (seen, read))
    seen, read = (found / torch.norm(found, dim=-1, keepdim=True) for found in (seen, read))
    scores = model.logit_scale.exp().detach() * (read @ seen.T).diagonal()
    close(rewards["pickscore"](as_tensor(*pictures), prompts), scores)


def test_siglip_is_transformers_logit_on_its_processor(
    models: Models, rewards: dict[str, Any]
) -> None:
    model = SiglipModel.from_pretrained(models.folder / "siglip")
    processor = SiglipProcessor.from_pretrained(models.folder / "siglip")
    pictures = [
        picture(kind, *shape)
        for kind, shape in zip(KINDS, [(32, 32), (64, 80), (32, 32), (90, 40)], strict=True)
    ]
    inputs = processor(
        text=[prompt.lower() for prompt in ("A black cat", "duck", "DUCK", "red")],
        images=pictures,
        padding="max_length",
        max_length=16,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.diagonal()
    expected = (logits - model.logit_bias.detach()) / model.logit_scale.exp().detach()
    prompts = ["A black cat", "duck", "DUCK", "red"]
    found = torch.cat(
        [rewards["siglip"](as_tensor(one), [p]) for one, p in zip(pictures, prompts, strict=True)]
    )
    assert found.dtype == torch.float32
    # PIL's rounding to 8 bits is between the two where a picture is resized.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(found[::2], expected[::2], rtol=0, atol=1e-5)


def modules(reward: Any) -> list[Any]:
    return [reward.vision, reward.text] if hasattr(reward, "vision") else [reward.model]


@pytest.mark.parametrize("name", NAMES)
def test_scores_have_the_gradient_of_finite_differences(models: Models, name: str) -> None:
    reward = models.config(name).build(CPU)
    for module in modules(reward):
        module.double()
    generator = torch.Generator().manual_seed(1)
    images = (
        0.2 + 0.6 * torch.rand(2, 3, 41, 48, generator=generator, dtype=torch.float64)
    ).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    assert gradient.dtype == torch.float64
    assert gradient.flatten(2).abs().amax(2).min() > 0
    for _ in range(3):
        way = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            high, low = (reward(images + step * way, PROMPTS).sum() for step in (1e-5, -1e-5))
        assert (gradient * way).sum().item() == pytest.approx(
            ((high - low) / 2e-5).item(), rel=1e-4
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(20, 33), (64, 48), (32, 32)], ids=str)
def test_a_batch_of_two_is_two_of_one(
    rewards: dict[str, Any], name: str, shape: tuple[int, int]
) -> None:
    images = as_tensor(picture("noise", *shape), picture("emoji", *shape)).requires_grad_()
    before = images.detach().clone()
    whole = rewards[name](images, PROMPTS)
    for row in range(2):
        alone = rewards[name](images[row : row + 1], PROMPTS[row : row + 1])
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(whole[0], images)
    assert gradient[0].abs().max() > 0
    assert not gradient[1].any()
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_frozen_and_half_precision_gives_float32_scores(
    models: Models, rewards: dict[str, Any], name: str
) -> None:
    images = square("noise", "emoji").requires_grad_()
    half = models.config(name, dtype="bfloat16").build(CPU)
    scores = half(images, PROMPTS)
    assert scores.dtype == torch.float32
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    full = rewards[name](images, PROMPTS)
    # bfloat16 has 8 bits: one part in 128 of what the towers compute with, over a few layers.
    assert (scores - full).abs().max() <= 0.05 * max(1.0, full.abs().max().item())
    for reward, dtype in ((half, torch.bfloat16), (rewards[name], torch.float32)):
        for module in modules(reward):
            assert not module.training
            assert all(p.dtype == dtype and not p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_small_gradients_survive_float16(
    models: Models, rewards: dict[str, Any], name: str
) -> None:
    images = square("noise", "emoji").requires_grad_()
    (wanted,) = torch.autograd.grad(rewards[name](images, PROMPTS).sum(), images)
    half = models.config(name, dtype="float16").build(CPU)
    (whole,) = torch.autograd.grad(half(images, PROMPTS).sum(), images)
    # Of a large picture, and a small weight. A power of two: no bit may change.
    small = 2.0**-24 * half(images, PROMPTS).sum()
    (found,) = torch.autograd.grad(small, images)
    assert torch.equal(2.0**24 * found, whole)
    assert F.cosine_similarity(whole.flatten(), wanted.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("name", ["siglip", "pickscore", "hpsv2"])
def test_a_prompt_is_embedded_once(
    rewards: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward, seen = rewards[name], []
    embed = reward.model.get_text_features
    monkeypatch.setattr(
        reward.model, "get_text_features", lambda **inputs: seen.append("x") or embed(**inputs)
    )
    for _ in range(3):
        reward(square("noise", "emoji", "noise"), ["owl", "bee", "owl"])
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        (
            "siglip",
            15,
            "the SigLIP model reads 16 tokens; the end of this prompt's 41 is not scored: ",
        ),
        (
            "pickscore",
            22,
            "the CLIP model reads 24 tokens; the end of this prompt's 42 is not scored: ",
        ),
        (
            "hpsv2",
            22,
            "the CLIP model reads 24 tokens; the end of this prompt's 42 is not scored: ",
        ),
        (
            "imagereward",
            33,
            "ImageReward reads 35 tokens; the end of this prompt's 42 is not scored: ",
        ),
    ],
)
def test_a_long_prompt_is_cut_and_said_once(
    rewards: dict[str, Any], name: str, limit: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    reward, images, letters = rewards[name], square("emoji"), "abcdefghij" * 4
    with caplog.at_level(logging.WARNING, logger="dno"):
        long = reward(images, [letters])
        reward(images, [letters])
    assert [record.getMessage() for record in caplog.records] == [said + letters]
    assert torch.equal(long, reward(images, [letters[:limit] + "z" * (40 - limit)]))
    assert not torch.equal(
        long, reward(images, [letters[: limit - 1] + "zz" + letters[limit + 1 :]])
    )


# --- The real sizes, without the real numbers
# -----------------------------------------------------------------------


def on_meta(shapes: Mapping[str, tuple[int, ...]]) -> State:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def same_shapes(cls: Any, config: Any, state: State, **options: Any) -> None:
    with torch.device("meta"):
        wanted = cls(config, **options).state_dict()
    assert {key: value.shape for key, value in wanted.items()} == {
        key: value.shape for key, value in state.items()
    }


def test_vit_h_14_is_recognised() -> None:
    """Sizes of open_clip's model_configs/ViT-H-14.json."""
    tiny, shapes = openclip_state(0), {}
    real = {"visual": (1280, 5120, 32), "text": (1024, 4096, 24)}
    for key, value in tiny.items():
        width, inner, layers = real["visual" if key.startswith("visual") else "text"]
        old = 128 if key.startswith("visual") else 64
        shape = tuple(
            {3 * old: 3 * width, 2 * old: inner, old: width, 16: 1024}.get(n, n)
            for n in value.shape
        )
        for i in range(layers if "resblocks.0" in key else 1):
            shapes[key.replace("resblocks.0", f"resblocks.{i}")] = shape
    shapes = {key: shape for key, shape in shapes.items() if key != "attn_mask"} | {
        "visual.positional_embedding": (257, 1280),
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.proj": (1280, 1024),
        "positional_embedding": (77, 1024),
        "token_embedding.weight": (49408, 1024),
        "text_projection": (1024, 1024),
    }
    config = clip_config(on_meta(shapes))
    vision, text = config.vision_config, config.text_config
    assert (
        vision.image_size,
        vision.patch_size,
        vision.num_attention_heads,
        vision.hidden_act,
    ) == (
        224,
        14,
        16,
        "gelu",
    )
    assert (text.max_position_embeddings, text.num_attention_heads, text.hidden_act) == (
        77,
        16,
        "gelu",
    )
    assert (text.bos_token_id, text.eos_token_id) == (49406, 49407)
    same_shapes(CLIPModel, config, clip_names(on_meta(shapes)))


def test_blip_large_is_recognised() -> None:
    """Sizes of BLIP's `create_vit("large", 224)` and of ImageReward's med_config.json."""
    tiny, shapes = imagereward_state(0), {}
    for key, value in tiny.items():
        if key.startswith("mlp"):
            continue
        seen = "visual_encoder" in key
        names = {384: 3072, 256: 4096, 128: 1024} if seen else {128: 3072, 64: 768}
        shape = tuple(names.get(n, n) for n in value.shape)
        if "crossattention.self" in key and key.endswith(("key.weight", "value.weight")):
            shape = (768, 1024)
        block = "blocks." if seen else "layer."
        for i in range((24 if seen else 12) if f"{block}0" in key else 1):
            shapes[key.replace(f"{block}0", f"{block}{i}")] = shape
    shapes |= {
        "blip.visual_encoder.pos_embed": (1, 197, 1024),
        "blip.visual_encoder.patch_embed.proj.weight": (1024, 3, 16, 16),
        "blip.text_encoder.embeddings.word_embeddings.weight": (30524, 768),
        "blip.text_encoder.embeddings.position_embeddings.weight": (512, 768),
        "blip.text_encoder.embeddings.position_ids": (1, 512),
    }
    vision_state, text_state = vision_names(on_meta(shapes)), text_names(on_meta(shapes))
    vision, text = configs(vision_state, text_state)
    assert (vision.image_size, vision.patch_size, vision.num_attention_heads) == (224, 16, 16)
    assert (vision.layer_norm_eps, text.layer_norm_eps, text.num_attention_heads) == (
        1e-6,
        1e-12,
        12,
    )
    same_shapes(BlipVisionModel, vision, vision_state)
    same_shapes(BlipTextModel, text, text_state, add_pooling_layer=False)


# --- Files
# --------------------------------------------------------------------------------------------------


def refusal(config: Any, method: str = "build") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.check() if method == "check" else config.build(CPU)
    assert "\n" not in caught.value.problem
    return caught.value


def test_a_pickled_file_is_converted_once(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "head.pth"
    torch.save(models.head, file)
    first = _weights.read_weights(file)
    (kept,) = (tmp_path / "cache").rglob("head-*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("read again"))
        second = _weights.read_weights(file)
        assert _weights.read_weights(kept).keys() == first.keys()
    assert all(
        torch.equal(first[key], second[key]) and torch.equal(first[key], models.head[key])
        for key in models.head
    )
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    # Another file at the same place is another file.
    torch.save({"other.weight": torch.ones(3)}, file)
    os.utime(file, ns=(1, 1))
    assert list(_weights.read_weights(file)) == ["other.weight"]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNO_CACHE", "/some/where")
    assert _weights.cache_folder() == Path("/some/where")
    monkeypatch.delenv("DNO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert _weights.cache_folder() == Path("/caches/dno")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert _weights.cache_folder() == Path.home() / ".cache" / "dno"


def test_a_cache_that_cannot_be_written_is_said_and_does_not_matter(
    models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("DNO_CACHE", str(tmp_path / "taken"))
    with caplog.at_level(logging.WARNING, logger="dno"):
        state = _weights.read_weights(models.folder / "head" / "sac+logos+ava1-l14-linearMSE.pth")
    assert state.keys() == models.head.keys()
    assert "set DNO_CACHE" in caplog.text


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickled_file_is_not_run(models: Models, tmp_path: Path, zipped: bool) -> None:
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((models.folder / "clip" / name).read_bytes())
    file = tmp_path / "HPS_v2_compressed.pt"
    content = {"state_dict": models.hps, "note": Trap(tmp_path / "mark")}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    error = refusal(HPSv2(model=str(tmp_path)))
    assert error.at == "model"
    assert (
        error.problem
        == f'"{file}" holds pickled code, which was not run; get the weights as a .safetensors file'
    )
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"not weights", "cannot be read as weights"),
        ([1, 2], "holds a list, not tensors by name"),
        ({"a": 1}, "holds no tensors by name"),
        ({"state_dict": {"a.weight": torch.ones(2)}}, "it has no tensor "),
    ],
    ids=["bytes", "list", "no tensors", "other model"],
)
def test_other_files_are_refused(
    models: Models, tmp_path: Path, content: Any, problem: str
) -> None:
    save_bert_tokenizer(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "ImageReward.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "ImageReward.pt")
    error = refusal(ImageReward(model=str(tmp_path)))
    assert error.at == "model"
    assert re.search(problem, error.problem)


def test_weights_that_are_not_whole_are_refused(models: Models, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_bert_tokenizer(tmp_path)
    lacking = "blip.text_encoder.encoder.layer.1.crossattention.self.query.bias"
    save_file(
        {k: v for k, v in models.imagereward.items() if k != lacking},
        tmp_path / "ImageReward.safetensors",
    )
    assert (
        "lacks 1 of a BlipTextModel's weights, such as encoder.layer.1.cross"
        in refusal(ImageReward(model=str(tmp_path))).problem
    )
    (tmp_path / "head").mkdir()
    save_file(
        {"layers.0.weight": torch.ones(4, 8), "layers.0.bias": torch.ones(4)},
        tmp_path / "head/aesthetic-model.safetensors",
    )
    error = refusal(models.config("aesthetic", head=str(tmp_path / "head")))
    assert (error.at, "it holds no head" in error.problem) == ("head", True)
    save_file(
        {"layers.0.weight": torch.ones(1, 9), "layers.0.bias": torch.ones(1)},
        tmp_path / "head/aesthetic-model.safetensors",
    )
    error = refusal(models.config("aesthetic", head=str(tmp_path / "head")))
    assert "is for embeddings of 9 numbers" in error.problem


def test_safetensors_with_the_same_names_are_read(
    models: Models, rewards: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(models.hps, tmp_path / "HPS_v2_compressed.safetensors")
    found = HPSv2(model=str(tmp_path), tokenizer=str(models.folder / "clip")).build(CPU)
    images = square("emoji", "noise")
    assert torch.equal(found(images, PROMPTS), rewards["hpsv2"](images, PROMPTS))


def test_a_tokenizer_of_another_model_is_refused(models: Models, tmp_path: Path) -> None:
    words = CLIPTokenizer.from_pretrained(models.folder / "clip")
    words.add_tokens(["more"])
    words.save_pretrained(tmp_path)
    error = refusal(models.config("hpsv2", tokenizer=str(tmp_path)))
    assert (error.at, "has 55 tokens, the model fewer" in error.problem) == ("tokenizer", True)


def test_the_published_head_is_known_by_its_content(models: Models) -> None:
    with pytest.raises(ConfigError, match="not the published file"):
        load_aesthetic(
            str(models.folder / "clip"),
            None,
            str(models.folder / "head"),
            ["sac+logos+ava1-l14-linearMSE.pth"],
            "0" * 64,
            torch.float32,
            CPU.device,
        )


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_is_refused_before_anything_is_built(
    models: Models, tmp_path: Path, name: str
) -> None:
    error = refusal(models.config(name, model=str(tmp_path)), "check")
    assert error.at == "model"
    assert str(tmp_path) in error.problem
    assert (
        'no model "no/such/folder"'
        in refusal(models.config(name, model="no/such/folder"), "check").problem
    )


@pytest.mark.parametrize(
    "config", [Siglip(), Aesthetic(), PickScore(), HPSv2(), HPSv21(), ImageReward()], ids=NAMES
)
def test_what_is_not_here_is_one_sentence_when_offline(
    config: RewardConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for method in ("check", "build"):
        error = refusal(config, method)
        assert error.at == "model"
        assert (
            "HF_HUB_OFFLINE forbids downloading it; unset that once, or name a local folder"
            in error.problem
        )


def test_hub_files_are_asked_for_at_their_pinned_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def download(repo: str, name: str, *, revision: str | None) -> str:
        asked.append((repo, name, revision))
        if name.endswith(".safetensors"):
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("dno_builtin.rewards._files.check_hub", lambda model: None)
    assert fetch("xswu/HPSv2", HPSv2.files) == tmp_path / "HPS_v2_compressed.pt"
    pinned = PINNED["xswu/HPSv2"]
    assert asked == [("xswu/HPSv2", name, pinned) for name in HPSv2.files]
    asked.clear()
    fetch("xswu/HPSv2", ["a.pt"], "refs/pr/1")
    fetch("some/body", ["a.pt"])
    assert asked == [("xswu/HPSv2", "a.pt", "refs/pr/1"), ("some/body", "a.pt", None)]
    with pytest.raises(ConfigError, match=r'"some/body" holds no a\.safetensors'):
        fetch("some/body", ["a.safetensors"])


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            LocalEntryNotFoundError("long\nstory"),
            "the hub cannot be reached; check the network, or name a local folder",
        ),
        (PermissionError("gated\nsee more"), '"some/body" could not be downloaded: gated'),
    ],
    ids=["no network", "gated"],
)
def test_a_download_that_fails_is_one_sentence(
    error: Exception, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("dno_builtin.rewards._files.check_hub", lambda model: None)
    with pytest.raises(ConfigError) as caught:
        fetch("some/body", ["a.pt"], at="head")
    assert caught.value.at == "head"
    assert problem in caught.value.problem
    assert "\n" not in caught.value.problem


def test_the_docs_list_every_pinned_commit_and_licence() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/preference-rewards.md").read_text(
        encoding="utf-8"
    )
    assert all(f"`{model}`" in page and commit in page for model, commit in PINNED.items())
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINNED.values())
    for config in (Siglip, Aesthetic, PickScore, HPSv2, HPSv21, ImageReward):
        assert "Licence" in (config.__doc__ or "")
        model = config.model_fields["model"].default
        assert model in _files.PINNED


# --- The job
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe() -> Any:
    import dno_emoji.codec  # noqa: F401  diffusers wants the decoder's module imported
    from diffusers import DiffusionPipeline

    from dno.plugin import find_model

    return DiffusionPipeline.from_pretrained(find_model("emoji"), dtype=torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_every_reward_optimises_the_embedded_model(models: Models, pipe: Any, name: str) -> None:
    result = dno.optimize(
        "a cat",
        reward=models.config(name),
        model=pipe,
        steps=3,
        iterations=5,
        paper=True,
        regularizer=[],
    )
    assert result.status == "finished"
    values = [record.rewards[name][0] for record in result.history]
    # Adam's first step is as long in every entry, and on an untrained judge it may overshoot.
    assert values[-1] > values[0]
    assert values[-1] > values[1]
