"""LoRA weights as options name them: where they are, their strength, what can be told unloaded."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dno.plugin import ConfigError
from dno_builtin._sniff import Header, check_suffix, read_header

from .hub import HubFile, check_here, hub_file
from .reading import read_json

KNOWN_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and peft call the file that is the folder's, whatever lies beside it."""

_MARKS = re.compile(r"[._]lora[._]|^lora_|\.lora$|lokr_|hada_|dora_scale|oft_|\.diff(_b)?$")
"""What the names of an adapter's tensors have in them."""

_CONTEXT = re.compile(
    r"attn2[._](?:processor[._])?to_[kv](?:_lora)?\.(?:lora_down|lora_A|lora\.down|down)\."
)
"""Tensors that take in the text: a LoRA's name of a cross attention's keys and values."""

_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Families by how wide the text is that their cross attention takes in."""

_TRANSFORMERS = re.compile(
    r"double_blocks|single_blocks|single_transformer_blocks|joint_blocks|^transformer\."
)
"""What the names of a transformer's LoRA have in them, and a UNet's has not."""


@dataclass(frozen=True)
class Lora:
    """One entry of `loras`."""

    place: str
    """A file, a folder, a hub id, or a file on the hub."""
    strength: float = 1.0


def parse(lora: str) -> Lora:
    """An entry of `loras`: `PATH`, `PATH=STRENGTH` or `PATH:STRENGTH`.

    What exists under the whole name is always a path.

    Raises:
        ConfigError: the strength is not a number.
    """
    if not lora.strip():
        raise ConfigError("is empty; name a .safetensors file, a folder with one, or a hub id")
    if _exists(lora):
        return Lora(lora)

    for sign in ("=", ":"):
        place, found, strength = lora.rpartition(sign)
        if found and place and _is_number(strength):
            return Lora(place, float(strength))

    if "=" in lora and not lora.startswith(("http:", "https:")):
        raise ConfigError(f"needs the form PATH or PATH=STRENGTH, got {lora!r}")
    return Lora(lora)


def _exists(place: str) -> bool:
    try:
        return Path(place).expanduser().exists()
    # Names too long, unknown users.
    except (OSError, RuntimeError, ValueError):
        return False


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check(loras: Sequence[str], folder: Path | None = None) -> None:
    """Raise `ConfigError` where LoRA weights are missing, or cannot be merged here.

    Args:
        loras: the option.
        folder: the model's, where there is one already.
    """
    if loras and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            'LoRA weights need the package peft; try: pip install "dno[lora]"', at="loras"
        )

    for i, lora in enumerate(loras):
        at = f"loras.{i}"
        try:
            file = find(parse(lora).place)
            check_here(file)
        except ConfigError as error:
            raise error.inside(at) from None
        # What is yet to be downloaded is looked at then.
        if isinstance(file, Path):
            header = read_header(file, at)
            check_kind(header, file, at)
            if folder is not None:
                _check_width(header, file, folder, at)


def find(place: str) -> Path | HubFile:
    """The file that a `Lora.place` names, or where on the hub it is.

    Raises:
        ConfigError: there is none, or more than one that could be meant.
    """
    path = Path(place).expanduser()
    if path.is_file():
        check_suffix(path, "")
        if path.suffix != ".safetensors":
            raise ConfigError(_holds_none(path))
        return path
    if path.is_dir():
        return path / only_one(place, [file.name for file in path.glob("*.safetensors")])

    on_hub = hub_file(place)
    if on_hub is not None:
        return on_hub
    if path.suffix == ".safetensors":
        raise ConfigError(f"there is no file {path}")
    check_suffix(path, "")
    raise ConfigError(_holds_none(path))


def _holds_none(path: Path) -> str:
    return f"{path} holds no LoRA weights; name a .safetensors file, a folder with one, or a hub id"


def only_one(place: str, names: Iterable[str]) -> str:
    """The file of a folder or repository that holds its LoRA weights.

    Raises:
        ConfigError: there is none, or more than one that could be meant.
    """
    found = sorted(names)
    for name in KNOWN_NAMES:
        if name in found:
            return name
    if not found:
        raise ConfigError(_holds_none(Path(place)))
    if len(found) > 1:
        some = ", ".join(found[:4])
        if len(found) > 4:
            some += ", ..."
        raise ConfigError(
            f"{place} holds {len(found)} .safetensors files ({some}); name one, as in "
            f"{place.rstrip('/')}/{found[0]}"
        )
    return found[0]


def is_lora(header: Header) -> bool:
    """Whether a file holds an adapter's tensors, and no model's."""
    return any(_MARKS.search(name) for name in header.shapes)


def check_kind(header: Header, file: Path, at: str) -> None:
    """Raise `ConfigError` unless a file holds an adapter's tensors."""
    if is_lora(header):
        return
    first = next(iter(header.shapes))
    raise ConfigError(
        f"{file} holds no LoRA weights: its tensors are called such as {first!r}; a whole model is "
        "named by --model, an embedding by --embedding",
        at=at,
    )


def _check_width(header: Header, file: Path, folder: Path, at: str) -> None:
    """Raise `ConfigError` where weights are sure to be another family's, told by their shapes."""
    config = read_json(folder / "unet" / "config.json")
    width = config.get("cross_attention_dim")
    if not isinstance(width, int):
        return

    for name, shape in header.shapes.items():
        if _TRANSFORMERS.search(name) and not name.startswith("lora_unet"):
            raise ConfigError(
                f"{file} is for a model with a transformer (Flux, SD3 or the like), told by "
                f"{name!r}; this model has a UNet",
                at=at,
            )
        if _CONTEXT.search(name) and len(shape) > 1 and shape[1] != width:
            kind = _WIDTHS.get(shape[1], "another model")
            raise ConfigError(
                f"{file} is for {kind}: its cross attention takes in text of width {shape[1]}, "
                f"this model's {width}",
                at=at,
            )
