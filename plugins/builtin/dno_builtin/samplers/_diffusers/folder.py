"""What a pipeline folder holds, read from its small files: no torch, no weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dno.plugin import ConfigError

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Pipeline classes that `ddim` samples."""

INDEX = "model_index.json"
"""The file of a pipeline folder that names its class and its parts."""

_WITHOUT_WEIGHTS = re.compile("Scheduler|Tokenizer|Processor|Extractor")
"""What the classes of parts without weights have in their names."""

_USUAL_BLOCKS = (128, 256, 512, 512)
"""Widths of Stable Diffusion's decoder, which enlarges 8 times."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where the file is missing.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", at="model") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object", at="model")
    return value


def check_folder(folder: Path, classes: Sequence[str] | None = None) -> None:
    """Raise `ConfigError` unless the folder holds a pipeline, weights included.

    Args:
        folder: as `save_pretrained` of a pipeline writes it.
        classes: names of the pipeline classes that will do; None: any.
    """
    if not (folder / INDEX).is_file():
        raise ConfigError(
            f"{folder} holds {_what_it_is(folder)}, not a diffusers pipeline; "
            f"name a folder with a {INDEX}, as `save_pretrained` of a pipeline writes it",
            at="model",
        )

    index = read_json(folder / INDEX)
    check_index(index, str(folder), classes)
    for name, part in index.items():
        # Safety checkers are not loaded.
        if name == "safety_checker" or not _has_weights(part):
            continue
        if not any((folder / name).glob("*.safetensors")):
            raise ConfigError(
                f"{folder / name} holds no .safetensors weights, the only kind that is loaded; "
                "save the pipeline again with safe_serialization=True",
                at="model",
            )


def _has_weights(part: object) -> bool:
    """Whether an entry of `model_index.json` names a part with weights.

    A part is a pair of library and class, `null` twice where the pipeline comes without it.
    """
    if not isinstance(part, list) or [type(name) for name in part] != [str, str]:
        return False
    return _WITHOUT_WEIGHTS.search(part[1]) is None


def check_index(index: Mapping[str, Any], where: str, classes: Sequence[str] | None = None) -> None:
    """Raise `ConfigError` unless a pipeline's index names its class, and one that will do.

    Args:
        index: what `model_index.json` holds.
        where: the folder or hub id that it is of, for messages.
        classes: names of the pipeline classes that will do; None: any.
    """
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(
            f"{where} names no pipeline class of diffusers, and code of its own is not run",
            at="model",
        )
    if classes is not None and name not in classes:
        raise ConfigError(
            f"{where} is a {name}; ddim samples {' and '.join(PIPELINES)}, and the sampler "
            "`pipeline` others",
            at="model",
        )


def check_size(at: str, size: int | None, scale: int) -> None:
    """Raise `ConfigError` where an image's side does not suit a decoder.

    Args:
        at: the option that the size was given with.
        size: the side in pixels; None: the model's own.
        scale: how many times the decoder enlarges its latents.
    """
    # The pipelines themselves ask for multiples of 8.
    unit = math.lcm(8, scale)
    if size is None or size % unit == 0:
        return

    near = max(unit, round(size / unit) * unit)
    raise ConfigError(
        f"must be a multiple of {unit} for this model, such as {near}, got {size}", at=at
    )


def read_levels(folder: Path) -> int:
    """How many noise levels the model of a pipeline folder has."""
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    return int(config.get("num_train_timesteps", 1000))


def read_scale(folder: Path) -> int:
    """How many times the decoder of a pipeline folder enlarges its latents."""
    config = read_json(folder / "vae" / "config.json")
    blocks: Sequence[int] = config.get("block_out_channels", _USUAL_BLOCKS)
    scale: int = 2 ** (len(blocks) - 1)
    return scale


def check_steps(steps: int, levels: int) -> None:
    """Raise `ConfigError` where there are more steps than the model has noise levels."""
    if steps > levels:
        raise ConfigError(
            f"must be at most {levels}, the number of the model's noise levels, got {steps}",
            at="steps",
        )


def _what_it_is(folder: Path) -> str:
    """What a folder without a pipeline's index holds, in words."""
    config = read_json(folder / "config.json")

    # The telling files first: a folder may hold several.
    if (folder / "modular_model_index.json").is_file():
        return "a modular pipeline"
    if (folder / "adapter_config.json").is_file():
        return "an adapter"
    if "_class_name" in config:
        return f"one part of a pipeline ({config['_class_name']})"
    if "model_type" in config:
        return f"a transformers model ({config['model_type']})"
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.ckpt")):
        return "bare weights"

    if any(folder.iterdir()):
        return "other files"
    return "nothing"
