"""Which Python objects a run was made with, as far as that can be told again in another process.

A configuration only names a Python object, and two functions may have one name. So a run folder
holds, in `objects.json`, two digests of each: of its own code, and of what that works on. With
other code an object is another one; the rest may change while it works, and only raises a doubt.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

from dno.files import read_file
from dno.registry.configs import PluginConfig
from dno.registry.objects import Live
from dno.runs.run_config import OBJECT, PART_REGISTRIES, RunConfig, dumped_option, is_live

OBJECTS: Final = "objects.json"
"""The file of a run folder."""
_LARGEST: Final = 2**20
"""Bytes of such a file."""
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Each has instructions of its own."""


class Likeness(StrEnum):
    """Whether an object is the one that a run was made with."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Print:
    """What is kept of an object."""

    code: str
    """Digest of its own code; empty where that cannot be told."""
    values: str
    """Digest of what it works on: plain values, and the code of other objects."""
    python: str = _PYTHON

    def like(self, saved: Print) -> Likeness:
        """Whether an object is the one of which this was kept."""
        if self.python != saved.python or not (self.code and saved.code):
            return Likeness.UNKNOWN
        if self.code != saved.code:
            return Likeness.OTHER
        return Likeness.SAME if self.values == saved.values else Likeness.UNKNOWN


def prints_of(config: RunConfig) -> dict[str, Print]:
    """Digests of the Python objects that decide what a run computes, by their places in its
    configuration."""
    return {
        at: print_of(value)
        for place, part in _parts(config)
        for at, value in _objects_in(part, place)
    }


def _parts(config: RunConfig) -> Iterator[tuple[str, PluginConfig]]:
    """What decides what a run computes, by its place."""
    for name in PART_REGISTRIES:
        value = getattr(config, name)
        if name == "observers":
            continue
        if isinstance(value, tuple):
            yield from ((f"{name}.{i}", part) for i, part in enumerate(value))
        else:
            yield name, value
    if config.warm_start is not None:
        yield "warm_start.optimizer", config.warm_start.optimizer


def _objects_in(part: PluginConfig, place: str) -> Iterator[tuple[str, Any]]:
    """The objects of one part: itself, or those among its options."""
    if isinstance(part, Live):
        yield place, part.part
        return
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, _PLAIN):
            continue
        dumped = dumped_option(part, name).get(name)
        if is_live(dumped) or (isinstance(dumped, str) and dumped.startswith(OBJECT)):
            yield f"{place}.{name}", value


def dumped(prints: Mapping[str, Print]) -> bytes:
    """What `objects.json` holds."""
    return json.dumps({place: asdict(one) for place, one in prints.items()}, indent=2).encode()


def likenesses(folder: Path, prints: Mapping[str, Print]) -> dict[str, Likeness]:
    """Whether objects are those that a run was made with.

    Args:
        folder: the run's.
        prints: by the objects' places, see `prints_of`.
    """
    if not prints:
        return {}
    saved: dict[str, Print] = {}
    # Runs of earlier releases have none, and people may remove it.
    try:
        content = json.loads(read_file(folder / OBJECTS, _LARGEST))
        saved = {str(place): Print(**one) for place, one in content.items()}
    except (AttributeError, OSError, RecursionError, TypeError, ValueError):
        pass
    return {
        place: one.like(saved[place]) if place in saved else Likeness.UNKNOWN
        for place, one in prints.items()
    }


def print_of(value: object) -> Print:
    """Digests of one object, the same in every process of one Python."""
    try:
        own = list(_own_code(value))
        inside = list(_works_on(value, {}))
    # An object may answer whatever it likes to who looks into it, and no run fails for that.
    except Exception:
        return Print("", "")
    return Print(_digest(own), _digest(inside))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:16]


def _own_code(value: Any) -> Iterator[str]:
    """The code of an object itself; what is of a library, by its name."""
    yield str(getattr(value, "__qualname__", type(value).__qualname__))
    if isinstance(value, FunctionType):
        if not _is_of_a_library(value.__module__):
            yield from _instructions(value.__code__)
        return
    for cls in type(value).__mro__:
        if not _is_of_a_library(cls.__module__):
            for member in vars(cls).values():
                if isinstance(member, FunctionType):
                    yield from _instructions(member.__code__)


def _works_on(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """The plain values that an object works on, and the code of the objects that it does.

    Args:
        seen: what was looked at, by id; kept, so that no two of them have one.
    """
    seen[id(value)] = value
    for name, one in _within(value):
        if isinstance(one, _PLAIN):
            yield f"{name} {one!r}"
        elif callable(one) and not isinstance(one, type) and id(one) not in seen:
            yield name
            yield from _own_code(one)
            yield from _works_on(one, seen)


def _within(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by name."""
    if isinstance(value, FunctionType):
        if not _is_of_a_library(value.__module__):
            yield from _within_function(value)
    elif isinstance(value, MethodType):
        yield "function", value.__func__
        yield "self", value.__self__
    elif isinstance(value, functools.partial):
        yield "function", value.func
        yield from _numbered(value.args)
        yield from value.keywords.items()
    else:
        yield from sorted(getattr(value, "__dict__", {}).items())


def _numbered(args: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for i, value in enumerate(args):
        yield str(i), value


def _instructions(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
        elif isinstance(constant, frozenset):
            # Its order is another one in each process.
            yield from sorted(map(repr, constant))
        else:
            yield repr(constant)


def _within_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function works on besides its arguments, by name."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        # Nothing is in it yet.
        except ValueError:
            continue
    yield from _numbered(function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]


@functools.cache
def _library_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(f"{sysconfig.get_path(name)}/" for name in names)


def _is_of_a_library(module: str | None) -> bool:
    """Whether a module is installed, and so no part of what somebody is trying out."""
    if module is None or module == "__main__":
        return False
    if module.partition(".")[0] in ("dno", "dno_builtin", *sys.builtin_module_names):
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and file.startswith(_library_folders())
