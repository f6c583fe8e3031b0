"""A tiny real CLIP model, made offline: what a folder from a hub holds, in 100 kB."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any


def save_tiny_clip(
    folder: Path, *, image_size: int = 32, text_length: int = 24, seed: int = 0
) -> Path:
    """Save an untrained `CLIPModel`, its tokenizer and its image processor, as `CLIPProcessor`
    reads them.

    Args:
        folder: where; made if it is not there.
        image_size: side of the square that the model looks at, in pixels; a multiple of 4.
        text_length: most tokens of a text: one a letter, and two more at its ends.
        seed: decides the weights.

    Returns:
        The folder.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    pieces = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    start, end = (
        vocabulary.setdefault(piece, len(vocabulary))
        for piece in ("<|startoftext|>", "<|endoftext|>")
    )
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": text_length}
    ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision = {"image_size": image_size, "patch_size": image_size // 4}
    config = CLIPConfig(
        text_config={**tower, **text, **ends}, vision_config={**tower, **vision}, projection_dim=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    model.save_pretrained(folder)

    tokens = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    files: dict[str, Any] = {
        "vocab.json": vocabulary,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": text_length,
            "unk_token": "<|endoftext|>",
            **tokens,
        },
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": image_size},
            "crop_size": {"height": image_size, "width": image_size},
            "resample": 3,
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder
