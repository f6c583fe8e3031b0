"""ImageReward's network: BLIP's image tower and cross-attending text tower of transformers, and a
head.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError
from dno_builtin.rewards._clip import READING
from dno_builtin.rewards._files import commit, fetch
from dno_builtin.rewards._preprocess import Preprocess
from dno_builtin.rewards._weights import (
    apply_layers,
    build,
    count,
    full,
    linear_layers,
    loading,
    read_weights,
    seen_in,
)

_log = logging.getLogger("dno")

TOKENS = 35
"""What the authors cut a prompt to, and fill it up to."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's answers over the authors' data."""

_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "norm.": "post_layernorm.",
    "blocks.": "encoder.layers.",
}
_BLOCK = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}


def load_imagereward(
    model: str,
    files: Sequence[str],
    revision: str | None,
    tokenizer: str,
    dtype: torch.dtype,
    device: torch.device,
) -> ImageRewardScore:
    """The scorer, frozen.

    Args:
        model: folder or hub id of the weights.
        files: their names, in order of preference.
        revision: of the hub id.
        tokenizer: folder or hub id of BERT's tokenizer.
        dtype: what the towers compute in; the head is float32.
        device: where all compute.

    Raises:
        ConfigError: something cannot be had or read, or is no such model.
    """
    from transformers import AutoTokenizer, BlipTextModel, BlipVisionModel

    with loading(model, "ImageReward model"):
        state = read_weights(fetch(model, files, revision))
        vision_state, text_state = vision_names(state), text_names(state)
        vision_options, text_options = configs(vision_state, text_state)
        vision = build(BlipVisionModel, vision_options, vision_state, dtype)
        text = build(BlipTextModel, text_options, text_state, dtype, add_pooling_layer=False)
        head = [
            (weight.to(device), bias.to(device))
            for weight, bias in linear_layers(state, "mlp.layers.")
        ]
    with loading(tokenizer, "BERT tokenizer", "tokenizer"):
        fetch(tokenizer, ["tokenizer_config.json", "tokenizer.json", "vocab.txt"], at="tokenizer")
        words = AutoTokenizer.from_pretrained(
            tokenizer, revision=commit(tokenizer), trust_remote_code=False
        )
    if len(words) > text_options.vocab_size:
        raise ConfigError(
            f'"{tokenizer}" has {len(words)} tokens, the model fewer; name its own', at="tokenizer"
        )
    preprocess = Preprocess.torchvision(vision_options.image_size)
    return ImageRewardScore(vision.to(device), text.to(device), head, words, preprocess)


@dataclass(frozen=True)
class ImageRewardScore:
    """`(images, prompts) -> scores`. A prompt's tokens are made once; its features depend on the
    image.
    """

    vision: Any
    text: Any
    head: list[tuple[Tensor, Tensor]]
    tokenizer: Any
    preprocess: Preprocess
    _tokens: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores for `B x 3 x H x W` images in [0, 1] and B prompts."""
        pixels = self.preprocess(full(images.to(self.vision.device)))
        look = functools.partial(self._read_with, prompts)
        read_BLD = seen_in(self.vision.dtype, pixels, look)
        return (apply_layers(self.head, read_BLD[:, 0]) - MEAN) / STD

    def _read_with(self, prompts: Sequence[str], pixels: Tensor) -> Tensor:
        """What the prompts' tokens are to their images."""
        seen_BPD = self.vision(pixel_values=pixels).last_hidden_state
        ids, masks = zip(*(self._read(prompt) for prompt in prompts), strict=True)
        read_BLD: Tensor = self.text(
            input_ids=torch.cat(ids),
            attention_mask=torch.cat(masks),
            encoder_hidden_states=seen_BPD,
            encoder_attention_mask=torch.ones(
                seen_BPD.shape[:2], dtype=torch.long, device=seen_BPD.device
            ),
            use_cache=False,
            is_decoder=False,
        ).last_hidden_state
        return read_BLD

    def _read(self, prompt: str) -> tuple[Tensor, Tensor]:
        """The prompt's tokens and which of them are not filling, `1 x TOKENS` each."""
        if prompt not in self._tokens:
            with READING:
                tokens = len(self.tokenizer(prompt, verbose=False)["input_ids"])
            if tokens > TOKENS:
                _log.warning(
                    "ImageReward reads %d tokens; the end of this prompt's %d is not scored: %s",
                    TOKENS,
                    tokens,
                    prompt,
                )
            with READING:
                found = self.tokenizer(
                    prompt,
                    padding="max_length",
                    truncation=True,
                    max_length=TOKENS,
                    return_tensors="pt",
                ).to(self.text.device)
            self._tokens[prompt] = found["input_ids"], found["attention_mask"]
        return self._tokens[prompt]


def configs(vision: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """`BlipVisionConfig` and `BlipTextConfig` of models with these tensors, by transformers' names.

    Raises:
        ConfigError: they are no such models.
    """
    from transformers import BlipTextConfig, BlipVisionConfig

    try:
        patch = vision["embeddings.patch_embedding.weight"]
        width = patch.shape[0]
        grid = math.isqrt(vision["embeddings.position_embedding"].shape[1] - 1)
        words = text["embeddings.word_embeddings.weight"]
        wide = text["encoder.layer.0.intermediate.dense.weight"].shape[0]
        cross = text["encoder.layer.0.crossattention.self.key.weight"].shape[1]
        return BlipVisionConfig(
            hidden_size=width,
            intermediate_size=vision["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=count(vision, "encoder.layers."),
            num_attention_heads=max(width // 64, 1),
            image_size=grid * patch.shape[-1],
            patch_size=patch.shape[-1],
            layer_norm_eps=1e-6,  # BLIP's; transformers' default is another.
        ), BlipTextConfig(
            vocab_size=words.shape[0],
            hidden_size=words.shape[1],
            encoder_hidden_size=cross,
            intermediate_size=wide,
            num_hidden_layers=count(text, "encoder.layer."),
            num_attention_heads=max(words.shape[1] // 64, 1),
            max_position_embeddings=text["embeddings.position_embeddings.weight"].shape[0],
            bos_token_id=0,
            sep_token_id=0,
        )
    except KeyError as error:
        raise ConfigError(f"it has no tensor {error} and so is no ImageReward model") from None


def vision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's tensors under `BlipVisionModel`'s names."""
    named = {}
    for key, value in _under("blip.visual_encoder.", state).items():
        for old, new in _VISION.items():
            if key.startswith(old):
                name = new + key[len(old) :]
                for inner, other in _BLOCK.items():
                    name = name.replace(inner, other)
                named[name] = value
    return named


def text_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's tensors under `BlipTextModel`'s names, which are BLIP's."""
    found = _under("blip.text_encoder.", state)
    found.pop("embeddings.position_ids", None)
    return found


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
