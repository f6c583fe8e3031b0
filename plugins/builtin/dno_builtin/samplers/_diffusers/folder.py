"""What a pipeline folder holds, read from its small files: no torch, no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dno.plugin import ConfigError

from .reading import read_json
from .variants import check_part, choose, variants

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Pipeline classes that `ddim` samples."""

INDEX = "model_index.json"
"""The file of a pipeline folder that names its class and its parts."""

MODULAR = "modular_model_index.json"
"""The same of a modular pipeline."""

_WITHOUT_WEIGHTS = re.compile("Scheduler|Tokenizer|Processor|Extractor")
"""What the classes of parts without weights have in their names."""

_USUAL_BLOCKS = (128, 256, 512, 512)
"""Widths of Stable Diffusion's decoder, which enlarges 8 times."""


def check_folder(
    folder: Path, classes: Sequence[str] | None = None, variant: str | None = None
) -> str | None:
    """The variant of the weights to load from a folder that holds a pipeline, weights included.

    Args:
        folder: as `save_pretrained` of a pipeline writes it.
        classes: names of the pipeline classes that will do; None: any.
        variant: the variant that was asked for; None: none in particular.

    Raises:
        ConfigError: it holds something else, or not all of it.
    """
    if not (folder / INDEX).is_file():
        raise ConfigError(
            f"{folder} holds {_what_it_is(folder)}, not a diffusers pipeline; "
            f"name a folder with a {INDEX}, as `save_pretrained` of a pipeline writes it",
            at="model",
        )

    index = read_json(folder / INDEX)
    check_index(index, str(folder), classes)
    parts = weighty_parts(index)
    for part in parts:
        if not (folder / part).is_dir():
            raise ConfigError(
                f"{folder} lacks its part {part}; a download may have been interrupted: fetch it "
                "again",
                at="model",
            )

    listed = {part: [path.name for path in (folder / part).iterdir()] for part in parts}
    found = {part: variants(names) for part, names in listed.items()}
    taken = choose(found, variant, str(folder))
    for part in parts:
        check_part(folder / part, taken)
    check_channels(index, folder)
    return taken


def weighty_parts(index: Mapping[str, Any]) -> list[str]:
    """Names of the parts of a pipeline that have weights and are loaded."""
    # Safety checkers are not loaded.
    return [name for name, part in index.items() if name != "safety_checker" and _has_weights(part)]


def check_channels(index: Mapping[str, Any], folder: Path) -> None:
    """Raise `ConfigError` where a text-to-image pipeline's network takes in more than a latent."""
    if index.get("_class_name") not in PIPELINES:
        return
    takes = read_json(folder / "unet" / "config.json").get("in_channels")
    latent = read_json(folder / "vae" / "config.json").get("latent_channels")
    if not isinstance(takes, int) or not isinstance(latent, int) or takes == latent:
        return

    kind = "no text-to-image model"
    if takes == 2 * latent + 1:
        kind = "a model for inpainting"
    elif takes == 2 * latent:
        kind = "a model that edits images"
    raise ConfigError(
        f"{folder} is {kind}: its UNet takes {takes} channels where a latent has {latent}, but its "
        f"{INDEX} names a {index['_class_name']}",
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
    return int(read_scheduler(folder).get("num_train_timesteps", 1000))


def read_scheduler(folder: Path) -> dict[str, Any]:
    """The options of a pipeline folder's scheduler, with the name of its class."""
    return read_json(folder / "scheduler" / "scheduler_config.json")


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
    if (folder / MODULAR).is_file():
        return "a modular pipeline"
    if (folder / "adapter_config.json").is_file():
        return "an adapter"
    if "_class_name" in config:
        return f"one part of a pipeline ({config['_class_name']})"
    if "model_type" in config:
        return f"a transformers model ({config['model_type']})"
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.ckpt")):
        return "bare weights"

    if (folder / "snapshots").is_dir():
        return "the hub's cache of a model"
    if any(folder.iterdir()):
        return "other files"
    return "nothing"
