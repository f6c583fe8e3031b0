"""Files of weights of a pipeline's parts: which there are, of which variant, and whether whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from dno.plugin import ConfigError
from dno_builtin._sniff import read_header

from .reading import read_json

_FILE: Final = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)"
    r"(?:\.(?P<variant>[\w-]+?))?"
    r"(?:-(?P<shard>\d{5})-of-\d{5})?"
    r"\.safetensors"
)
_INDEX: Final = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json"
)


def variants(names: Iterable[str]) -> set[str]:
    """Variants of a part's weights among its files; "" stands for weights of no variant."""
    found = set()
    for name in names:
        match = _FILE.fullmatch(name) or _INDEX.fullmatch(name)
        if match is not None:
            found.add(match["variant"] or "")
    return found


def choose(parts: Mapping[str, set[str]], asked: str | None, where: str) -> str | None:
    """The variant to load: the one asked for, or the only one that there is.

    Args:
        parts: variants of each part's weights, see `variants`.
        asked: the option; None: weights of no variant, where all parts have them.
        where: the folder or hub id, for messages.

    Raises:
        ConfigError: no part has the one asked for, or several could be taken.
    """
    known = sorted({name for found in parts.values() for name in found if name})
    if asked is not None:
        lacks = [part for part, found in parts.items() if not found & {asked, ""}]
        if asked not in known or lacks:
            there = ", ".join(known) or "none"
            raise ConfigError(
                f'{where} has no weights of the variant "{asked}"; there are: {there}',
                at="variant",
            )
        return asked

    without = [found for found in parts.values() if found and "" not in found]
    if not without:
        return None
    common = set.intersection(*without)
    if len(common) == 1:
        return common.pop()
    raise ConfigError(
        f"{where} has its weights as variants alone; name one by sampler.variant: "
        f"{', '.join(known)}",
        at="variant",
    )


def check_part(folder: Path, variant: str | None) -> None:
    """Raise `ConfigError` unless a part's weights are there and whole.

    Args:
        folder: the part's.
        variant: what is loaded; a part that has none of it is loaded without.
    """
    names = [path.name for path in folder.iterdir()]
    found = variants(names)
    if not found:
        others = [name for name in names if name.endswith(".safetensors")]
        if not others:
            _raise_none(folder, names)
        for name in others:
            read_header(folder / name)
        return

    taken = variant if variant in found else ""
    for name in _files(folder, names, taken or ""):
        path = folder / name
        if not path.is_file():
            raise ConfigError(
                f"{folder} lacks {name}, which its index names; a download may have been "
                "interrupted: fetch it again",
                at="model",
            )
        read_header(path)


def _files(folder: Path, names: Sequence[str], variant: str) -> list[str]:
    """The files that make up one variant of a part's weights."""
    for name in names:
        match = _INDEX.fullmatch(name)
        if match is not None and (match["variant"] or "") == variant:
            return _shards(folder / name)

    found = []
    for name in names:
        match = _FILE.fullmatch(name)
        if match is not None and (match["variant"] or "") == variant:
            found.append(name)
    return found


def _shards(index: Path) -> list[str]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ConfigError(f"{index} names no files of weights", at="model")
    return sorted(set(named.values()))


def _raise_none(folder: Path, names: Sequence[str]) -> None:
    if any(name.endswith((".bin", ".ckpt", ".pt", ".msgpack", ".h5")) for name in names):
        raise ConfigError(
            f"{folder} holds no .safetensors weights, the only kind that is loaded; "
            "save the pipeline again with safe_serialization=True",
            at="model",
        )
    raise ConfigError(
        f"{folder} holds no .safetensors weights; a download may have been interrupted: fetch "
        "it again",
        at="model",
    )
