"""A configuration without what belongs to one machine or person, as a picture carries it.

What leaves a machine must not tell its folders, and what comes from another must not name any here:
both ways go through `portable`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dno.errors import ConfigError, DNOError
from dno.paths import current_folder, user_path
from dno.registry.configs import Origin, PluginConfig
from dno.registry.registry import OPTIMIZERS, Registry
from dno.runs.run_config import PART_REGISTRIES

_LEFT_OUT: Final = ("observers", "metadata")
"""What decides no picture: who looks on may write files and talk to servers."""
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
        paths = paths or [text for text in _texts(value) if _belongs_here(text)]
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
    """Whether an option that no plugin called a path is one, tells of the user, or is an
    address.
    """
    if "://" in text:
        return not text.startswith(_HUB)
    try:
        home = str(Path.home())
        if len(home) > 1 and home in text:
            return True
        path = Path(text).expanduser()
        return path.is_absolute() and path.exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _last_part(path: object) -> str:
    text = str(path)
    return "" if "://" in text else text.replace("\\", "/").rstrip("/").rpartition("/")[2]
