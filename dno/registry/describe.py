"""What a plugin says of itself and of its options, for people to read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from dno.registry.configs import PluginConfig

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Option(NamedTuple):
    """One option of a plugin."""

    name: str
    type: str
    default: str | None
    """None where it has to be given."""
    meaning: str


def about(cls: type[PluginConfig]) -> str:
    """The plugin's own docstring; empty if it has none, for its base's tells nothing of it."""
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def options(cls: type[PluginConfig]) -> Iterator[Option]:
    """Every option of a plugin, in order."""
    for name, field in cls.model_fields.items():
        default = (
            None if field.is_required() else repr(field.get_default(call_default_factory=True))
        )
        shown = readable(field.annotation, _limits(field.metadata))
        yield Option(name, shown, default, " ".join((field.description or "").split()))


def readable(annotation: Any, limits: tuple[str, ...] = ()) -> str:
    """A type as one would say it: `float >= 0 or 'auto'`.

    Args:
        annotation: the type.
        limits: what else holds of its numbers, such as `>= 0`.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return readable(args[0], (*limits, *_limits(args[1:])))
    if origin in (Union, UnionType):
        return " or ".join(readable(arg, limits) for arg in args)
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is not None:
        return f"{readable(origin)}[{', '.join(map(readable, args))}]"
    if annotation is NoneType:
        return "None"
    name = "..." if annotation is ... else getattr(annotation, "__name__", str(annotation))
    return f"{name} {' and '.join(limits)}".rstrip()


def _limits(marks: Iterable[Any]) -> tuple[str, ...]:
    # A `Field` inside of a type holds its marks; the others stand for themselves.
    flat = [mark for outer in marks for mark in getattr(outer, "metadata", (outer,))]
    pairs = [(sign, getattr(mark, key, None)) for mark in flat for key, sign in _SIGNS.items()]
    return tuple(f"{sign} {value}" for sign, value in pairs if value is not None)
