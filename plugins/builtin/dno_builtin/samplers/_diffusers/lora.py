"""LoRA weights, merged into a pipeline's networks when it is loaded."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dno.plugin import ConfigError

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def parse(lora: str) -> tuple[str, float]:
    """Where it is, and its strength: `PATH` or `PATH=STRENGTH`.

    Raises:
        ConfigError: the strength is no number.
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
            place = Path(parse(lora)[0]).expanduser()
        except ConfigError as error:
            raise error.inside(f"loras.{i}") from None
        folder = place.is_dir() and any(place.glob("*.safetensors"))
        hub = not place.exists() and HUB_ID.fullmatch(str(place)) and place.suffix != ".safetensors"
        if not (folder or hub or (place.is_file() and place.suffix == ".safetensors")):
            raise ConfigError(
                f"{place} holds no LoRA weights; name a .safetensors file, a folder with one, or "
                "a hub id",
                at=f"loras.{i}",
            )


def merge(pipe: Any, loras: Sequence[str]) -> None:
    """Add LoRA weights to the pipeline's own, in place: from then on they cost nothing.

    Raises:
        ConfigError: the pipeline takes none, or they do not fit it.
    """
    if loras and not hasattr(pipe, "load_lora_weights"):
        raise ConfigError(f"a {type(pipe).__name__} takes no LoRA weights", at="loras")
    for i, lora in enumerate(loras):
        place, strength = parse(lora)
        path = Path(place).expanduser()
        source = str(path.parent if path.is_file() else path if path.is_dir() else place)
        file = {"weight_name": path.name} if path.is_file() else {}
        try:
            pipe.load_lora_weights(source, adapter_name="dno", use_safetensors=True, **file)
            pipe.fuse_lora(lora_scale=strength, adapter_names=["dno"])
            pipe.unload_lora_weights()
        # Loading reaches three libraries, each with errors of its own.
        except Exception as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(
                f"{place} does not fit a {type(pipe).__name__}: {reason}", at=f"loras.{i}"
            ) from error
