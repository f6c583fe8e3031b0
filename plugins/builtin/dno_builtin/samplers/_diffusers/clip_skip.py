"""Whether a text encoder's last layers can be skipped, told from a model's files or its parts: no
torch.

Pipelines with one CLIP text encoder put the skipped layers' input through its last norm, and look
for that in a part of the encoder which newer versions of transformers do not have.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dno.plugin import ConfigError

from .reading import read_json

OPTION: Final = "clip_skip"
"""The argument of a pipeline's call: how many layers."""
ENCODER: Final = "CLIPTextModel"
"""The class of encoders that have lost the part."""
_PART: Final = "text_model"
"""The part's name."""
_SKIPPING: Final = ("diffusers", "transformers")
"""Who skips the layers, and whose encoder it is."""


def check_clip_skip_of_folder(
    folder: Path, index: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Raise `ConfigError` where a model's files say that `clip_skip` cannot work.

    Args:
        folder: the model's.
        index: what its `model_index.json` holds.
        options: arguments of the pipeline's call.
    """
    encoders = {name: part for name, part in index.items() if name.startswith("text_encoder")}
    # With two of them pipelines take the skipped layers' input as it is.
    if encoders != {"text_encoder": ["transformers", ENCODER]}:
        return
    layers = read_json(folder / "text_encoder" / "config.json").get("num_hidden_layers")
    if options.get(OPTION) is not None and isinstance(layers, int):
        raise _failing(str(index.get("_class_name")), options[OPTION], layers)


def check_clip_skip(pipe: Any, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where `clip_skip` cannot work in a pipeline that is loaded.

    Args:
        pipe: the pipeline.
        options: arguments of its call.
    """
    skipped = options.get(OPTION)
    encode = getattr(type(pipe), "encode_prompt", None)
    encoder = getattr(pipe, "text_encoder", None)
    if skipped is None or encode is None or encoder is None or hasattr(encoder, _PART):
        return
    if reads_the_part(encode):
        raise _failing(type(pipe).__name__, skipped, encoder.config.num_hidden_layers)


def reads_the_part(encode: Any) -> bool:
    """Whether a pipeline's `encode_prompt` looks for what encoders no longer have."""
    return _PART in inspect.unwrap(encode).__code__.co_names


def _failing(name: str, skipped: object, layers: int) -> ConfigError:
    """What is said of a pipeline of that class with so many layers, and what does the same."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _SKIPPING]
    message = f"{OPTION} fails in a {name} of {' with '.join(versions)}"
    if not isinstance(skipped, int) or not 0 < skipped < layers:
        return ConfigError(f"{message}; leave it out", at="options")
    kept = f"num_hidden_layers={layers - skipped}"
    return ConfigError(
        f"{message}; leave it out and use {layers - skipped} of the text encoder's {layers} "
        f"layers, which is the same: {kept} in the model's text_encoder/config.json, or in Python "
        f"{ENCODER}.from_pretrained(..., {kept})",
        at="options",
    )
