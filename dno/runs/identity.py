"""What tells a configuration from others: what it sets otherwise than the options' defaults do.

An option that a later release adds is at its default in every earlier run, and so changes nothing
of who an item is. A default that a later release changes does not either; `differences` finds it,
since a run folder holds its configuration whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from dno.errors import ConfigError
from dno.registry.configs import PluginConfig
from dno.registry.registry import Registry
from dno.runs.ended import flat
from dno.runs.run_config import OBJECT, PART_REGISTRIES, RunConfig, dump_part, dumped_option

FREE: Final = ("observers", "device", "metadata")
"""What may differ between two runs of one item."""
_OF_ITEMS: Final = ("prompts", "seeds")
_EXACT: Final = 2**53
"""Below it, every whole number is a float."""
_MISSING: Final = object()


@dataclass(frozen=True)
class Difference:
    """A place at which two configurations hold other values; None: none."""

    place: str
    saved: Any
    ours: Any
    is_set: bool
    """Whether ours is set, and not a default."""
    is_noted: bool
    """Whether ours is what a plugin found when it was configured, see `_noted`."""


def digest_of(config: RunConfig) -> str:
    """Eight hexadecimal digits of what a configuration sets, but for its seeds.

    What plugins noted of a file is left out: whoever goes on with a study when the file has grown
    asks for the same items, and is told how they differ.
    """
    return _digest(set_by(_without_noted(config), "seeds"))


def digests_of(values: Mapping[str, Any]) -> tuple[str, str]:
    """The digest of a configuration that sets just what a run folder holds: as names have it now,
    and as they had it before, when defaults were a part of it."""
    whole = {name: value for name, value in values.items() if name not in ("seeds", *FREE)}
    return _digest(set_by(values, "seeds")), _digest(whole)


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def set_by(values: Mapping[str, Any], *apart: str) -> dict[str, Any]:
    """What of a dumped configuration differs from the defaults, but for some fields.

    Args:
        values: as `RunConfig.dump` gives them, or as a `run.toml` holds them.
        apart: fields to leave out, besides those that may differ between two runs of one item.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        default = _default(name)
        if name in FREE or name in apart or value == default:
            continue
        if name in PART_REGISTRIES:
            found[name] = _each_part(name, value, _without_defaults)
        elif isinstance(value, Mapping) and isinstance(default, Mapping):
            found[name] = {key: one for key, one in value.items() if one != default.get(key)}
        else:
            found[name] = value
    return found


def _noted(part: PluginConfig, dumped: Mapping[str, Any]) -> list[str]:
    """Options that nobody set, and that are not at their defaults: what a plugin found when it was
    configured, and keeps so that the run is repeated with the same."""
    defaults = _options(type(part))
    return [
        name
        for name in type(part).model_fields
        if name not in part.model_fields_set and dumped.get(name) != defaults.get(name)
    ]


def _without_noted(config: RunConfig) -> dict[str, Any]:
    """A configuration as it is dumped, but for what its plugins noted."""
    values = config.dump()
    for field in PART_REGISTRIES:
        parts = getattr(config, field)
        if isinstance(parts, PluginConfig):
            values[field] = _set_in(parts, values[field])
        elif isinstance(parts, tuple):
            pairs = zip(parts, values[field], strict=True)
            values[field] = [_set_in(part, dumped) for part, dumped in pairs]
    return values


def _set_in(part: Any, dumped: Any) -> Any:
    if not isinstance(part, PluginConfig) or not isinstance(dumped, Mapping):
        return dumped
    noted = _noted(part, dumped)
    return {name: value for name, value in dumped.items() if name not in noted}


def _without_defaults(registry: Registry[Any], part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    defaults = _part_defaults(registry, part)
    kept = {key: one for key, one in part.items() if one != defaults.get(key, _MISSING)}
    # None is left out of what is dumped, and where it is not the default, it was set.
    return kept | dict.fromkeys(defaults.keys() - part.keys())


def differences(saved: Mapping[str, Any], config: RunConfig) -> list[Difference]:
    """Where the values of a run folder differ from a configuration, but for prompts and seeds.

    What the folder does not hold is an option that it was made without, and at its default.

    Args:
        saved: what a `run.toml` holds.
        config: with its paths written from the root, as they are there.
    """
    ours = config.dump()
    unknown = {*_OF_ITEMS, *FREE}
    # It was found when the run began.
    if config.coarse == "auto":
        unknown.add("coarse")

    theirs = _flat_without(filled(saved), unknown)
    mine = _flat_without(filled(ours), unknown)
    told = _without_noted(config)
    given = _flat_without(filled(told), unknown)
    chosen = _flat_without(set_by(told), unknown)
    return [
        Difference(
            place,
            theirs.get(place),
            mine.get(place),
            is_set=_leads_to(place, chosen),
            is_noted=place in mine and place not in given,
        )
        for place in {**theirs, **mine}
        if theirs.get(place) != mine.get(place)
    ]


def fingerprint(values: Mapping[str, Any]) -> str:
    """The same for all configurations between which there is no difference, and for few others.

    Args:
        values: of a run folder, or of a configuration with its paths written from the root.
    """
    whole = _flat_without(filled(values), {*_OF_ITEMS, "coarse", *FREE})
    told = {place: _as_one(value) for place, value in whole.items() if value is not None}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _as_one(value: Any) -> Any:
    """Numbers that are equal, written in one way."""
    return float(value) if isinstance(value, (bool, int)) and abs(value) < _EXACT else value


def _leads_to(place: str, chosen: Iterable[str]) -> bool:
    """Whether a place is one of these, within one, or above one."""
    return any(
        place == one or one.startswith(f"{place}.") or place.startswith(f"{one}.") for one in chosen
    )


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dumped values with all defaults among them."""
    whole: dict[str, Any] = {}
    for name in RunConfig.model_fields:
        default = _default(name)
        value = values.get(name, default)
        if value is None:
            continue
        if name in PART_REGISTRIES:
            whole[name] = _each_part(name, value, _with_defaults)
        elif isinstance(value, Mapping) and isinstance(default, Mapping):
            whole[name] = {**default, **value}
        else:
            whole[name] = value
    # What this release does not know any more.
    return whole | {name: value for name, value in values.items() if name not in whole}


def _with_defaults(registry: Registry[Any], part: Any) -> Any:
    return {**_part_defaults(registry, part), **part} if isinstance(part, Mapping) else part


def _flat_without(values: Mapping[str, Any], fields: Set[str]) -> dict[str, Any]:
    return dict(flat({name: value for name, value in values.items() if name not in fields}))


def _each_part(name: str, value: Any, change: Callable[[Registry[Any], Any], Any]) -> Any:
    """The tables of a field, each changed."""
    registry = PART_REGISTRIES[name]
    if isinstance(value, (list, tuple)):
        return [change(registry, part) for part in value]
    return change(registry, value)


@functools.cache
def _default(name: str) -> Any:
    """The default of a field as it is dumped; None where it has none, or has None."""
    field = RunConfig.model_fields.get(name)
    if field is None or field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if name in PART_REGISTRIES:
        return _each_part(name, default, dump_part)
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json", exclude_none=True)
    return list(default) if isinstance(default, tuple) else default


def _part_defaults(registry: Registry[Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The defaults of a plugin's options as they are dumped; none of what is not installed."""
    use = str(part.get("use"))
    if use.startswith(OBJECT):
        return {}
    try:
        cls: Any = registry.load(use)
    except ConfigError:
        return {}
    return _options(cls)


@functools.cache
def _options(cls: type[PluginConfig]) -> Mapping[str, Any]:
    given = [name for name, field in cls.model_fields.items() if not field.is_required()]
    blank = cls.model_construct()
    found: dict[str, Any] = {}
    for name in given:
        found |= dumped_option(blank, name)
    return found
