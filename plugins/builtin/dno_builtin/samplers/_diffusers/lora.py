"""LoRA weights, merged into a pipeline's networks when it is loaded."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dno.plugin import ConfigError, first_line

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")

_ADAPTER = "dno"
"""What the pipeline calls the weights while they are merged."""


def parse(lora: str) -> tuple[str, float]:
    """Where it is, and its strength: `PATH` or `PATH=STRENGTH`.

    Raises:
        ConfigError: the strength is not a number.
    """
    place, equals, strength = lora.rpartition("=")
    if not equals:
        return lora, 1.0

    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"needs the form PATH or PATH=STRENGTH, got {lora!r}")
    return place, value


def check(loras: Sequence[str]) -> None:
    """Raise `ConfigError` where LoRA weights are missing, or cannot be loaded here."""
    if loras and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            'LoRA weights need the package peft; try: pip install "dno[lora]"', at="loras"
        )

    for i, lora in enumerate(loras):
        try:
            place, _ = parse(lora)
        except ConfigError as error:
            raise error.inside(f"loras.{i}") from None

        path = Path(place).expanduser()
        if not _holds_weights(path):
            raise ConfigError(
                f"{path} holds no LoRA weights; name a .safetensors file, a folder with one, or "
                "a hub id",
                at=f"loras.{i}",
            )


def _holds_weights(path: Path) -> bool:
    """Whether the path is a file of weights, a folder with one, or may be a hub id."""
    is_weights = path.suffix == ".safetensors"
    if path.is_file():
        return is_weights
    if path.is_dir():
        return any(path.glob("*.safetensors"))
    if path.exists():
        return False

    # Somebody who writes out a file's name means a file.
    return not is_weights and HUB_ID.fullmatch(str(path)) is not None


def merge(pipe: Any, loras: Sequence[str]) -> None:
    """Add LoRA weights to the pipeline's own, in place: from then on they cost nothing.

    Raises:
        ConfigError: the pipeline takes none, or they do not fit it.
    """
    if loras and not hasattr(pipe, "load_lora_weights"):
        raise ConfigError(f"a {type(pipe).__name__} takes no LoRA weights", at="loras")

    for i, lora in enumerate(loras):
        place, strength = parse(lora)
        try:
            _merge_one(pipe, place, strength)
        # Loading reaches three libraries, each with errors of its own.
        except Exception as error:
            raise ConfigError(
                f"{place} does not fit a {type(pipe).__name__}: {first_line(error)}",
                at=f"loras.{i}",
            ) from error


def _merge_one(pipe: Any, place: str, strength: float) -> None:
    path = Path(place).expanduser()
    source = place
    options = {}
    if path.is_file():
        source = str(path.parent)
        options["weight_name"] = path.name
    elif path.is_dir():
        source = str(path)

    pipe.load_lora_weights(source, adapter_name=_ADAPTER, use_safetensors=True, **options)
    pipe.fuse_lora(lora_scale=strength, adapter_names=[_ADAPTER])
    pipe.unload_lora_weights()
