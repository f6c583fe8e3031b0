"""A configuration in the making: plain values that options and settings are put over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from dno.errors import ConfigError
from dno.registry.registry import REGISTRIES
from dno.runs.run_config import BLACK_BOX, RunConfig, are_black_boxes, put

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PARTS: Final = {
    "sampler": "samplers",
    "rewards": "rewards",
    "monitors": "rewards",
    "regularizers": "regularizers",
    "reports": "regularizers",
    "constraints": "constraints",
    "optimizer": "optimizers",
    "observers": "observers",
}
"""Fields of a configuration that hold plugins, and the kind of each."""

LISTS: Final = frozenset(PARTS) - {"sampler", "optimizer"}
"""Those of them that hold any number of plugins."""


class Draft:
    """Values of a configuration that are not validated yet, and where each came from.

    Every part is a table here, however it was given, so that options can be put in it.

    Args:
        values: a configuration's fields; components may be config objects.
        source: where these came from, for messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str = "") -> None:
        self.values = {name: _own(value) for name, value in values.items()}
        self.sources = {"": source}
        self._given = frozenset(values)

        for field in PARTS:
            parts = self.values.get(field)
            if parts is None:
                parts = _default(field)
            if parts is not None:
                self.values[field] = as_part(field, parts)

    def at(self, place: str) -> Any:
        """What is at a dotted place, or what a configuration has there by itself; else None."""
        found = _follow(self.values, place)
        # What a plugin has by itself is for the plugin to tell.
        if found is None and place.partition(".")[0] not in PARTS:
            found = _default(place)
        return found

    def put(self, place: str, value: Any, source: str) -> None:
        """Set the value at a dotted place.

        Raises:
            ConfigError: the place leads nowhere.
        """
        try:
            put(self.values, place, as_part(place, value))
        except ConfigError as error:
            raise error.inside("", source) from None
        self.sources[place] = source

    def add(self, field: str, parts: Any, source: str) -> None:
        """Put plugins behind those of a list, whose own sources stay what they are."""
        for part in as_part(field, parts):
            self.sources[f"{field}.{len(self.values[field])}"] = source
            self.values[field].append(part)

    def each(self, place: str) -> Iterator[str]:
        """A place, or, where it has a `*`, that of each plugin of the list."""
        field, star, rest = place.partition(".*")
        if not star:
            yield place
            return
        for index in range(len(self.values[field])):
            yield f"{field}.{index}{rest}"

    def fields(self, part: str) -> Mapping[str, FieldInfo] | None:
        """The options of the plugin at a place such as `optimizer`, by name.

        None where it is no name.

        Raises:
            DNOError: no such plugin can be loaded.
        """
        name = self.at(part).get("use")
        if not isinstance(name, str):
            return None
        kind = PARTS[part.partition(".")[0]]
        (registry,) = (registry for registry in REGISTRIES if registry.kind == kind)
        return registry.load(name).model_fields

    def was_put(self, place: str) -> bool:
        """Whether what is at a place was put over the values, itself or within what it is in."""
        return any(given and f"{place}.".startswith(f"{given}.") for given in self.sources)

    def parse(self) -> RunConfig:
        """The configuration.

        Raises:
            ConfigError: one sentence with the source and place of the first thing wrong.
        """
        values = self.values
        if self.needs_another_optimizer():
            given = {name: value for name, value in values["optimizer"].items() if name != "use"}
            values = {**values, "optimizer": {**BLACK_BOX, **given}}
        return RunConfig.parse(values, self.sources)

    def needs_another_optimizer(self) -> bool:
        """Whether the optimizer is left open, and the rewards have none of the gradient that the
        usual one needs.
        """
        return self._leaves_optimizer_open() and are_black_boxes(self.values.get("rewards"))

    def _leaves_optimizer_open(self) -> bool:
        """Whether no optimizer was named, nor how rewards without a gradient are estimated."""
        places = {*self._given, *self.sources}
        estimates = any(place.partition(".")[0] == "gradient" for place in places)
        return not estimates and not places & {"optimizer", "optimizer.use"}


def _default(place: str) -> Any:
    """What a configuration has at a dotted place by itself; None where it has to be given."""
    name, _, rest = place.partition(".")
    field = RunConfig.model_fields[name]
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    return _follow(default, rest) if rest else default


def place_of_kind(kind: str) -> str | None:
    """Where the first plugin of a kind is, such as `rewards.0`; None where a run has no place."""
    for field, held in PARTS.items():
        if held == kind:
            return f"{field}.0" if field in LISTS else field
    return None


def as_part(place: str, value: Any) -> Any:
    """Plugins as tables, in a list where there may be several; at other places the value itself."""
    if place not in PARTS:
        return value
    if place not in LISTS:
        return _table(value)
    parts = value if isinstance(value, (list, tuple)) else [value]
    return [_table(part) for part in parts]


def _table(part: object) -> dict[str, Any]:
    return dict(part) if isinstance(part, Mapping) else {"use": part}


def _own(value: Any) -> Any:
    """A table that may be changed without changing the caller's."""
    return dict(value) if isinstance(value, Mapping) else value


def _follow(value: Any, place: str) -> Any:
    """What a dotted place in tables, lists and models leads to; None where it leads nowhere."""
    for key in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, (list, tuple)):
            value = value[int(key)]
        else:
            value = getattr(value, key, None)
    return value
