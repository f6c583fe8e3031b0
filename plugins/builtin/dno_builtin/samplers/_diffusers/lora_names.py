"""Names of a LoRA's tensors, in the many styles that tools write, as diffusers knows them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_PEFT = "base_model.model."
"""What peft puts before the names of the model that it wraps."""

_ADAPTER = re.compile(r"\.(lora_|lora\.|lokr_|hada_|processor\.|alpha$|dora_scale)")
"""Where the name of a module ends, and that of a part of its adapter begins."""


def known_names(
    tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module]
) -> dict[str, tuple[str, Tensor]]:
    """Each tensor with the name that a pipeline's loader knows it by.

    Those of peft lose its prefix; those that are named after modules of one part alone, as peft,
    `save_lora_adapter` and files of attention processors name them, get the part's name before.

    Args:
        tensors: those of a file.
        parts: the pipeline's parts that LoRA weights can be merged into, by name.
    """
    found = {}
    for name, tensor in tensors.items():
        known = name.removeprefix(_PEFT)
        part = _part_of(known, parts)
        if part is not None:
            known = f"{part}.{known}"
        found[name] = (known, tensor)
    return found


def _part_of(name: str, parts: Mapping[str, nn.Module]) -> str | None:
    """The part that has a module of this name; None where it is named already, or none has."""
    if name.startswith(tuple(f"{part}." for part in parts)):
        return None
    module = _ADAPTER.split(name, maxsplit=1)[0]
    for part, network in parts.items():
        try:
            network.get_submodule(module)
        except AttributeError:
            continue
        return part
    return None


def settings(
    known: Collection[str], own: Mapping[str, Any] | None, peft: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What the file tells of rank and scale, by part, as diffusers writes it into its files.

    Args:
        known: the tensors' names, see `known_names`.
        own: what diffusers wrote into the file; None: nothing.
        peft: what peft wrote into a file of its own beside it.
    """
    told = dict(own or {})
    if not told:
        told = {name: peft[name] for name in _SETTINGS if peft.get(name) is not None}
    if not told:
        return None

    # A file of one part alone tells of it without its name.
    if any("." not in name for name in told):
        part = next(iter(known)).partition(".")[0]
        told = {f"{part}.{name}": value for name, value in told.items()}

    for part in {name.partition(".")[0] for name in told}:
        told.setdefault(f"{part}.target_modules", _modules(part, known))
    return told


_SETTINGS = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "target_modules",
)
"""Settings of peft's that change what a file's tensors mean."""


def _modules(part: str, known: Iterable[str]) -> list[str]:
    """The modules of a part that tensors are for."""
    found = set()
    for name in known:
        if name.startswith(f"{part}."):
            found.add(_ADAPTER.split(name.removeprefix(f"{part}."), maxsplit=1)[0])
    return sorted(found)


def style(names: Iterable[str]) -> str:
    """In whose style tensors are named, and what that says of them; a clause for a message."""
    every = list(names)
    if any("hada_" in name for name in every):
        return "a LoHa (LyCORIS), which is not taken: merge it with the tool that it came from"
    if any("lokr_" in name for name in every):
        return "a LoKr (LyCORIS), which this model does not take: merge it with its own tool"
    if any("dora_scale" in name for name in every):
        return "magnitudes of a DoRA, which would be left out: save it in peft's form"
    if any(name.startswith(("lora_unet_", "lora_te")) for name in every):
        return "kohya's style of names; it may be for another family of models"
    if any(name.startswith(_PEFT) for name in every):
        return "peft's style of names; it may be for another family of models"
    return "it may be for another family of models"
