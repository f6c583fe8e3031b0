"""A configuration without what belongs to one machine or person, as a picture carries it.

What leaves a machine must not tell its folders, and what comes from another must not name any here:
both ways go through `portable`.
"""

from __future__ import annotations

import contextlib
import mimetypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, get_args, get_origin

from dno.errors import ConfigError, DNOError
from dno.paths import current_folder, user_path
from dno.registry.configs import Origin, PluginConfig
from dno.registry.registry import OPTIMIZERS, Registry
from dno.runs.run_config import PART_REGISTRIES

_LEFT_OUT: Final = ("observers", "metadata")
"""What decides no picture: who looks on may write files and talk to servers."""
_SEPARATED: Final = re.compile(r"""[\s,;=|<>()\[\]{}"'`]+""")
"""What parts a path from what stands around it."""
_DRIVE: Final = re.compile(r"[A-Za-z]:/")
_OF_MODELS: Final = (
    ".bin",
    ".ckpt",
    ".gguf",
    ".npy",
    ".npz",
    ".onnx",
    ".parquet",
    ".pt",
    ".pth",
    ".safetensors",
    ".toml",
    ".yaml",
    ".yml",
)
_ENDINGS: Final = {
    # Not those of one letter, which abbreviations end in.
    ending
    for ending in (*mimetypes.MimeTypes(()).types_map[True], *_OF_MODELS)
    if len(ending) > 2
}
"""What names of files end in."""
_HUB: Final = ("https://huggingface.co/", "https://hf.co/")


@dataclass(frozen=True)
class Portable:
    """Plain values that mean the same on any machine, and what was taken out of them."""

    values: dict[str, Any]
    local: dict[str, str]
    """What each option was called that names a file, a folder or a server, by dotted place: the
    last part of a path; empty where even that is nobody else's business."""


def portable(values: Mapping[str, Any]) -> Portable:
    """What of a configuration may travel.

    Args:
        values: plain values as a file holds them, valid or not: what is wrong with them is told by
            whoever parses them.
    """
    kept = {name: value for name, value in values.items() if name not in _LEFT_OUT}
    local: dict[str, str] = {}
    # A GPU's number means nothing elsewhere; a CPU is everywhere, and decides the bits.
    if kept.get("device") != "cpu":
        kept.pop("device", None)
    if "start" in kept:
        local["start"] = _last_part(kept.pop("start"))

    for name, registry in PART_REGISTRIES.items():
        part = kept.get(name)
        if isinstance(part, (list, tuple)):
            kept[name] = [
                _without_local(registry, one, f"{name}.{i}", local) for i, one in enumerate(part)
            ]
        else:
            _replace(kept, name, registry, name, local)

    warm_start = kept.get("warm_start")
    if isinstance(warm_start, Mapping):
        first = dict(warm_start)
        _replace(first, "optimizer", OPTIMIZERS, "warm_start.optimizer", local)
        kept["warm_start"] = first
    return Portable(kept, local)


def _replace(
    values: dict[str, Any],
    name: str,
    registry: Registry[Any],
    place: str,
    local: dict[str, str],
) -> None:
    if name in values:
        values[name] = _without_local(registry, values[name], place, local)


def _without_local(registry: Registry[Any], part: Any, place: str, local: dict[str, str]) -> Any:
    """A plugin's table without the options that belong here, which go to `local`."""
    if not isinstance(part, Mapping):
        return part
    try:
        cls: type[PluginConfig] | None = registry.load(str(part.get("use")))
    except DNOError:
        # Told by whoever parses the values.
        cls = None

    kept = dict(part)
    for name, value in part.items():
        if name == "use":
            continue
        if cls is not None and name in cls.personal:
            del kept[name]
            default = cls.model_fields[name].get_default(call_default_factory=True)
            if value != default:
                local[f"{place}.{name}"] = ""
            continue
        paths = [] if cls is None else _declared_paths(cls, name, value)
        if not paths and not (cls is not None and _is_the_plugins_own(cls, name, value)):
            paths = [text for text in _texts(value) if _belongs_here(text)]
        if paths:
            del kept[name]
            local[f"{place}.{name}"] = ", ".join(dict.fromkeys(map(_last_part, paths)))
    return kept


@dataclass(frozen=True)
class _Noticing(Origin):
    """Notes what a plugin says is a path."""

    noticed: list[str] = field(default_factory=list)

    def path(self, given: str | Path) -> Path:
        """See `Origin`."""
        self.noticed.append(str(given))
        return super().path(given)

    def name(self, given: str) -> str:
        """See `Origin`."""
        found = Origin(self.folder).name(given)
        if found != given or user_path(given).is_absolute():
            self.noticed.append(given)
        return found


def _declared_paths(cls: type[PluginConfig], name: str, value: Any) -> list[str]:
    """The paths in an option, as the plugin itself tells what in it is one."""
    origin = _Noticing(current_folder())
    # A path that cannot be one here is one all the same.
    with contextlib.suppress(ConfigError):
        cls.located({name: value}, origin)
        return origin.noticed
    return origin.noticed or list(_texts(value))[:1]


def _is_the_plugins_own(cls: type[PluginConfig], name: str, value: Any) -> bool:
    """Whether an option is as the plugin's author has it, a default or one of a few words."""
    field = cls.model_fields.get(name)
    if field is None:
        return False
    if not field.is_required() and value == field.get_default(call_default_factory=True):
        return True
    return any(value == word for word in _words(field.annotation))


def _words(annotation: Any) -> Iterator[Any]:
    """What a type lists of values, of a choice of types too."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for inner in get_args(annotation):
        yield from _words(inner)


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _belongs_here(text: str) -> bool:
    """Whether an option that no plugin called a path is one or has one in it, tells of the user, or
    is an address.
    """
    if "://" in text:
        return not text.startswith(_HUB)
    try:
        home = str(Path.home())
        if len(home) > 1 and home in text:
            return True
    except RuntimeError:
        # Nobody's home.
        pass
    whole = text.strip()
    return _is_path(whole, or_name=True) or any(map(_is_path, _SEPARATED.split(whole)))


def _is_path(text: str, *, or_name: bool = False) -> bool:
    """Whether a text without words around it is a path, by its form or by what is there.

    A hub id has the form of a relative path, and is one where something is there.

    Args:
        text: it.
        or_name: whether a single name counts where a file or folder has it.
    """
    plain = text.replace("\\", "/")
    names = [name for name in plain.split("/") if name]
    if not names:
        return False
    if plain.startswith(("./", "../", "~")) and "/" in plain:
        return True
    if _DRIVE.match(plain) or (plain.startswith("/") and len(names) > 1):
        return True
    if PurePosixPath(plain).suffix.lower() in _ENDINGS:
        return True
    if len(names) < 2 and not or_name and not plain.startswith("/"):
        return False
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _last_part(path: object) -> str:
    text = str(path)
    return "" if "://" in text else text.replace("\\", "/").rstrip("/").rpartition("/")[2]
