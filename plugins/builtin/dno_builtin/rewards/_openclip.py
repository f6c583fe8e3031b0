"""CLIP models saved by open_clip, on transformers' `CLIPModel`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dno.plugin import ConfigError
from dno_builtin.rewards._clip import CosineScore, placed
from dno_builtin.rewards._files import commit, fetch
from dno_builtin.rewards._preprocess import Preprocess
from dno_builtin.rewards._weights import build, count, loading, read_weights

_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Attention heads of open_clip's image towers ViT-H, ViT-g and ViT-bigG; all other towers have one
for 64 channels."""

_TOWERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.proj": "visual_projection.weight",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "text_projection": "text_projection.weight",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "logit_scale": "logit_scale",
}
_BLOCK = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}


def load_openclip(
    model: str,
    files: Sequence[str],
    revision: str | None,
    tokenizer: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    antialias: bool,
) -> CosineScore:
    """The cosine by a model that open_clip saved, of whole images; frozen.

    Args:
        model: folder or hub id of the weights.
        files: their names, in order of preference.
        revision: of the hub id.
        tokenizer: folder or hub id of the tokenizer.
        dtype: what the network computes in.
        device: where it looks at images; it reads texts on the CPU.
        antialias: see `Preprocess`.

    Raises:
        ConfigError: something cannot be had or read, or is no such model.
    """
    from transformers import AutoTokenizer, CLIPModel

    with loading(model, "CLIP model of open_clip"):
        state = read_weights(fetch(model, files, revision))
        config = clip_config(state)
        network = build(CLIPModel, config, clip_names(state), dtype)
    with loading(tokenizer, "CLIP tokenizer", "tokenizer"):
        fetch(tokenizer, ["tokenizer_config.json", "tokenizer.json"], at="tokenizer")
        words = AutoTokenizer.from_pretrained(
            tokenizer, revision=commit(tokenizer), trust_remote_code=False
        )
    if len(words) > config.text_config.vocab_size:
        raise ConfigError(
            f'"{tokenizer}" has {len(words)} tokens, the model fewer; name its own', at="tokenizer"
        )
    preprocess = Preprocess.whole(config.vision_config.image_size, antialias=antialias)
    return CosineScore(placed(network, device), words, preprocess)


def clip_config(state: Mapping[str, Tensor]) -> Any:
    """The `CLIPConfig` of a model with these tensors, by open_clip's names.

    Raises:
        ConfigError: they are no CLIP model with transformer towers.
    """
    from transformers import CLIPConfig

    try:
        patch, tokens = state["visual.conv1.weight"], state["token_embedding.weight"]
        grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
        vision = {
            **_tower(state, "visual.transformer.resblocks."),
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
        }
        text = {
            **_tower(state, "transformer.resblocks."),
            "vocab_size": tokens.shape[0],
            "max_position_embeddings": state["positional_embedding"].shape[0],
            # The last two of CLIP's vocabulary; open_clip takes the embedding where the highest
            # token is.
            "bos_token_id": tokens.shape[0] - 2,
            "eos_token_id": tokens.shape[0] - 1,
            "pad_token_id": 0,
        }
        vision["num_attention_heads"] = _HEADS.get(
            vision["hidden_size"], vision["num_attention_heads"]
        )
        return CLIPConfig(
            vision_config=vision, text_config=text, projection_dim=state["text_projection"].shape[1]
        )
    except KeyError as error:
        raise ConfigError(
            f"it has no tensor {error} and so is no CLIP model of open_clip"
        ) from None


def _tower(state: Mapping[str, Tensor], blocks: str) -> dict[str, Any]:
    inner, width = state[f"{blocks}0.mlp.c_fc.weight"].shape
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": count(state, blocks),
        "num_attention_heads": max(width // 64, 1),
        "hidden_act": "gelu",
    }


def clip_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `CLIPModel`'s names; what it has no place for is left out."""
    named = {}
    for key, value in state.items():
        if (new := _renamed(key)) is None:
            continue
        if key in ("visual.proj", "text_projection"):
            value = value.T
        if match := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", new):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                named[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] = piece.contiguous()
        else:
            named[new] = value.contiguous()
    return named


def _renamed(key: str) -> str | None:
    for old, new in _TOWERS.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            name = new + key[len(old) :]
            for inner, other in _BLOCK.items():
                name = name.replace(inner, other)
            return name
    return None
