"""LoRA weights merged into a pipeline's networks, and the proof that all of them were."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dno.plugin import ConfigError, first_line, hearing
from dno_builtin._sniff import read_header

from .hub import HubFile, fetch, list_files
from .lora import Lora, check_kind, find, only_one, parse
from .lora_names import known_names, settings, style
from .provenance import Provenance
from .reading import read_json

_ADAPTER = "dno"
"""What the pipeline calls the weights while they are merged."""

_SETTINGS = "lora_adapter_metadata"
"""Where in a file's header diffusers writes rank and scale."""

_log = logging.getLogger("dno")


def merge(pipe: Any, loras: Sequence[str]) -> None:
    """Add LoRA weights to the pipeline's own, in place: from then on they cost nothing.

    Raises:
        ConfigError: the pipeline takes none, they do not fit it, or some of them would be left out.
    """
    if not loras:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise ConfigError(f"a {type(pipe).__name__} takes no LoRA weights", at="loras")

    names: list[str] = []
    for i, entry in enumerate(loras):
        at = f"loras.{i}"
        try:
            lora = parse(entry)
            file = _local(lora.place)
            header = read_header(file, "")
            names = list(header.shapes)
            check_kind(header, file, "")
            _merge_one(pipe, file, lora)
        except ConfigError as error:
            raise ConfigError(error.problem, at=at) from None
        # Loading reaches three libraries, each with errors of its own.
        except Exception as error:
            raise ConfigError(
                f"{entry} does not fit a {type(pipe).__name__}: {first_line(error)} (its tensors "
                f"are called such as {next(iter(names), None)!r}: {style(names)})",
                at=at,
            ) from error


def _local(place: str) -> Path:
    """The file on this machine, downloaded if need be."""
    found = find(place)
    if isinstance(found, Path):
        return found
    if found.name is None:
        names = [name for name in list_files(found) if name.endswith(".safetensors")]
        found = HubFile(found.repo, only_one(place, names), found.revision)
    return fetch(found)


def _merge_one(pipe: Any, file: Path, lora: Lora) -> None:
    parts = _parts(pipe)
    tensors, header = _read(file)
    named = known_names(tensors, parts)
    told = settings([known for known, _ in named.values()], header, _of_peft(file))

    with hearing() as heard, _takes(pipe, parts, told):
        followed = Provenance(tensors)
        with followed:
            pipe.load_lora_weights(dict(named.values()), adapter_name=_ADAPTER)
        _check_all_used(pipe, tensors, followed.used(parts.values()), lora)
        _fuse(pipe, parts, lora)
    for line in heard:
        _log.warning("%s: %s", lora.place, line)


def _parts(pipe: Any) -> dict[str, nn.Module]:
    """The pipeline's parts that LoRA weights can be merged into, by name."""
    found = {}
    for name in pipe._lora_loadable_modules:
        part = getattr(pipe, name, None)
        if isinstance(part, nn.Module):
            found[name] = part
    return found


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A file's tensors, and what diffusers wrote into it of rank and scale."""
    with safe_open(file, framework="pt", device="cpu") as opened:
        names = opened.keys()
        # Each in memory of its own, by which it is followed.
        tensors = {name: opened.get_tensor(name).clone() for name in names}
        told = (opened.metadata() or {}).get(_SETTINGS)
    return tensors, json.loads(told) if told else None


def _of_peft(file: Path) -> Mapping[str, Any]:
    """What peft wrote beside its own file; empty for other files."""
    if file.name != "adapter_model.safetensors":
        return {}
    return read_json(file.parent / "adapter_config.json")


@contextlib.contextmanager
def _takes(pipe: Any, parts: Mapping[str, nn.Module], told: Any) -> Iterator[None]:
    """The pipeline, taking tensors as it takes files: with what they tell of rank and scale.

    Its text encoders load by peft itself: transformers refuses versions of peft that do as well.
    """
    convert = pipe.lora_state_dict

    def converted(*args: Any, **kwargs: Any) -> Any:
        found = convert(*args, **kwargs)
        if told is None or not kwargs.get("return_lora_metadata"):
            return found
        *others, metadata = found
        return *others, told if metadata is None else metadata

    encoders = [part for part in parts.values() if hasattr(part, "load_adapter")]
    vars(pipe)["lora_state_dict"] = converted
    for encoder in encoders:
        vars(encoder)["load_adapter"] = _load_by_peft(encoder)
    try:
        yield
    finally:
        del vars(pipe)["lora_state_dict"]
        for encoder in encoders:
            del vars(encoder)["load_adapter"]


def _load_by_peft(encoder: nn.Module) -> Any:
    def load_adapter(
        *, adapter_name: str, adapter_state_dict: Any, peft_config: Any, **_: Any
    ) -> None:
        from peft import inject_adapter_in_model, set_peft_model_state_dict

        inject_adapter_in_model(peft_config, encoder, adapter_name, state_dict=adapter_state_dict)
        set_peft_model_state_dict(encoder, adapter_state_dict, adapter_name)

    return load_adapter


def _check_all_used(pipe: Any, tensors: Mapping[str, Tensor], used: set[str], lora: Lora) -> None:
    """Raise `ConfigError` unless each tensor of a file reached a weight, or was read."""
    left = [name for name in tensors if name not in used]
    if left:
        raise ConfigError(
            f"{len(left)} of the {len(tensors)} tensors of {lora.place} fit no weight of this "
            f"{type(pipe).__name__}, such as {left[0]!r}: {style(left)}"
        )


def _fuse(pipe: Any, parts: Mapping[str, nn.Module], lora: Lora) -> None:
    """Merge what was loaded into every part that has something of it.

    Raises:
        ConfigError: no weight changed, or those of a part that should have did not.
    """
    before = {name: _print(part) for name, part in parts.items()}
    expected = [name for name, part in parts.items() if lora.strength and _moves(part)]
    with_layers = [name for name, part in parts.items() if any(_layers(part))]
    if with_layers:
        pipe.fuse_lora(components=with_layers, lora_scale=lora.strength, adapter_names=[_ADAPTER])
    # Weights that came whole, as Flux's norms do, would be put back to what they were.
    for part in parts.values():
        if getattr(part, "_transformer_norm_layers", None) is not None:
            vars(part)["_transformer_norm_layers"] = None
    pipe.unload_lora_weights()

    changed = [name for name, part in parts.items() if _print(part) != before[name]]
    for name in expected:
        if name not in changed:
            raise ConfigError(f"{lora.place} was merged and left the {name} as it was")
    if lora.strength and not changed:
        raise ConfigError(
            f"{lora.place} changes nothing: its weights are zero, as an untrained LoRA's are, or "
            "too small for the model's dtype"
        )


def _layers(part: nn.Module) -> Iterator[Any]:
    """The layers of a part that peft has put LoRA weights into."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in part.modules():
        if isinstance(module, BaseTunerLayer):
            yield module


def _moves(part: nn.Module) -> bool:
    """Whether some layer's update is large enough to show in its weights."""
    for layer in _layers(part):
        with torch.no_grad():
            weight = layer.get_base_layer().weight
            delta = layer.get_delta_weight(_ADAPTER).to(weight)
            if not torch.equal(weight + delta, weight):
                return True
    return False


def _print(part: nn.Module) -> int:
    """A number that changes with the bits of a part's own weights, and with their number."""
    total = 0
    for name, weight in part.named_parameters():
        if _is_adapters(name):
            continue
        bits = weight.detach().contiguous().view(_INTEGERS[weight.element_size()])
        total += int(bits.sum(dtype=torch.int64))
    return total


def _is_adapters(name: str) -> bool:
    """Whether a parameter belongs to an adapter, not to the network."""
    return f".{_ADAPTER}." in f".{name}."


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their bytes."""
