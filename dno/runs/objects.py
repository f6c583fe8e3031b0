"""Which Python objects a run was made with, as far as that can be told again in another process.

A configuration only names a Python object, and two functions may have one name. So a run folder
holds, in `objects.json`, digests of each: of its code, and of the values that it works on. Where
the code is another, the object is. Values may change while it works, and so only raise a doubt.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import json
import logging
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeAlias

from dno.files import read_file
from dno.registry.configs import PluginConfig
from dno.registry.objects import Live
from dno.runs.run_config import OBJECT, PART_REGISTRIES, RunConfig, dumped_option, is_live

OBJECTS: Final = "objects.json"
"""The file of a run folder."""
_LARGEST: Final = 2**20
"""Bytes of such a file."""
_MOST: Final = 2000
"""Values that are looked at; whatever has more inside cannot be told."""
_ENTRIES: Final = 2**16
"""Of the largest tensor that is looked at."""
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None), type(...))
_RUNNING: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python; each has instructions of its own."""

Prints: TypeAlias = "Callable[[RunConfig], Mapping[str, Print]]"


class Likeness(StrEnum):
    """Whether an object is the one that a run was made with."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Print:
    """What is kept of an object."""

    code: str
    """Digest of what it does; empty where that cannot be told."""
    values: str
    """Digest of the values that it works on; empty where these cannot be told."""
    python: str = _RUNNING

    def like(self, saved: Print) -> Likeness:
        """Whether an object is the one of which this was kept."""
        if self.python != saved.python or not (self.code and saved.code):
            return Likeness.UNKNOWN
        if self.code != saved.code:
            return Likeness.OTHER
        known = self.values and self.values == saved.values
        return Likeness.SAME if known else Likeness.UNKNOWN


def objects_of(config: RunConfig) -> dict[str, Any]:
    """The Python objects that decide what a run computes, by their places in its configuration."""
    found: dict[str, Any] = {}
    for name in PART_REGISTRIES:
        if name == "observers":
            continue
        value = getattr(config, name)
        if isinstance(value, tuple):
            for i, part in enumerate(value):
                found |= _within(part, f"{name}.{i}")
        else:
            found |= _within(value, name)
    if config.warm_start is not None:
        found |= _within(config.warm_start.optimizer, "warm_start.optimizer")
    return found


def _within(part: PluginConfig, place: str) -> Iterator[tuple[str, Any]]:
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


def prints_of(config: RunConfig) -> dict[str, Print]:
    """Digests of these objects, by their places."""
    return {place: print_of(value) for place, value in objects_of(config).items()}


def remembered_prints() -> Prints:
    """`prints_of` that looks at each object once, however many configurations have it."""
    known: dict[int, tuple[Any, Print]] = {}

    def of(config: RunConfig) -> Mapping[str, Print]:
        found: dict[str, Print] = {}
        for place, value in objects_of(config).items():
            if id(value) not in known:
                known[id(value)] = (value, print_of(value))
            found[place] = known[id(value)][1]
        return found

    return of


def dumped(prints: Mapping[str, Print]) -> bytes:
    """What `objects.json` holds."""
    return json.dumps({place: vars(one) for place, one in prints.items()}, indent=2).encode()


def likenesses(folder: Path, prints: Mapping[str, Print]) -> dict[str, Likeness]:
    """Whether objects are those that a run was made with.

    Args:
        folder: the run's.
        prints: by the objects' places, see `prints_of`.
    """
    if not prints:
        return {}
    try:
        content = json.loads(read_file(folder / OBJECTS, _LARGEST))
        saved = {str(place): Print(**one) for place, one in content.items()}
    # Runs of earlier releases have none.
    except (AttributeError, OSError, RecursionError, TypeError, ValueError):
        saved = {}
    return {
        place: one.like(saved[place]) if place in saved else Likeness.UNKNOWN
        for place, one in prints.items()
    }


def print_of(value: object) -> Print:
    """Digests of one object, the same in every process of one Python."""
    looked = _Look()
    try:
        looked.at(value)
        code = _digest(looked.parts)
        looked.go_on_with_values()
    # An object may answer whatever it likes to who looks into it, and no run fails for that.
    except Exception:
        return Print("", "")
    return Print(code, _digest(looked.parts) if looked.told else "")


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:16]


class _Look:
    """Writes down what an object is made of: first its code, then the values that may change."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.told = True
        self._later: list[Any] | None = []
        # Kept, so that no two of them have one id.
        self._seen: dict[int, Any] = {}

    def go_on_with_values(self) -> None:
        """Write down what was put off."""
        later = self._later or []
        self._later = None
        for value in later:
            self.at(value)

    def at(self, value: Any) -> None:
        """Write down a value and what is in it."""
        if isinstance(value, (*_PLAIN, PurePath, Enum)):
            self.parts.append(repr(value))
        elif isinstance(value, tuple):
            self.parts.append(f"{len(value)} values")
            for one in value:
                self.at(one)
        elif isinstance(value, frozenset):
            self._set(value)
        elif isinstance(value, CodeType):
            self._code(value)
        elif id(value) in self._seen:
            self.parts.append("again")
        elif len(self._seen) >= _MOST:
            self.told = False
        else:
            self._inside(value)

    def _inside(self, value: Any) -> None:
        if self._later is not None and not _is_fixed(value):
            self._later.append(value)
            return
        self._seen[id(value)] = value
        self.parts.append(type(value).__qualname__)
        match value:
            case FunctionType():
                self._function(value)
            case MethodType():
                self.at(value.__func__)
                self.at(value.__self__)
            case functools.partial():
                for part in (value.func, value.args, tuple(value.keywords.items())):
                    self.at(part)
            case BuiltinFunctionType() | ModuleType():
                self.parts.append(str(value.__name__))
            case type():
                self._class(value)
            case list():
                self.at(tuple(value))
            case set():
                self._set(value)
            case dict():
                self.at(tuple(value.items()))
            case logging.Logger():
                self.parts.append(value.name)
            case _:
                self._object(value)

    def _set(self, values: Iterable[Any]) -> None:
        """In an order that is no matter of hashes."""
        if all(isinstance(one, _PLAIN) for one in values):
            self.parts += sorted(map(repr, values))
        else:
            self.told = False

    def _code(self, code: CodeType) -> None:
        self.parts += [code.co_code.hex(), *code.co_names]
        for constant in code.co_consts:
            self.at(constant)

    def _function(self, function: FunctionType) -> None:
        if _is_of_a_library(function.__module__):
            self.parts.append(f"{function.__module__}.{function.__qualname__}")
            return
        code = function.__code__
        self._code(code)
        self.at(function.__defaults__)
        self.at(tuple(sorted((function.__kwdefaults__ or {}).items())))

        # What it counts with is no part of what it does.
        counted = set(_named(code, "STORE_DEREF"))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self.parts.append(name)
            if name not in counted:
                with contextlib.suppress(ValueError):
                    self._global(cell.cell_contents)

        counted = set(_all_named(code, "STORE_GLOBAL"))
        for name in sorted(_all_named(code, "LOAD_GLOBAL", "LOAD_NAME") - counted):
            if name in function.__globals__:
                self.parts.append(name)
                self._global(function.__globals__[name])

    def _global(self, value: Any) -> None:
        """What a function does stays; a plain value may be set anew at any time."""
        if self._later is None or (_is_fixed(value) and not isinstance(value, _PLAIN)):
            self.at(value)
        else:
            self._later.append(value)

    def _class(self, cls: type) -> None:
        if _is_of_a_library(cls.__module__):
            self.parts.append(f"{cls.__module__}.{cls.__qualname__}")
            return
        self.at(cls.__bases__)
        for name, value in vars(cls).items():
            inner = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if isinstance(value, property):
                inner = value.fget
            if isinstance(inner, FunctionType):
                self.parts.append(name)
                self.at(inner)
            elif isinstance(inner, _PLAIN) and not name.startswith("__"):
                self.parts.append(name)
                self._global(inner)

    def _object(self, value: Any) -> None:
        if _is_tensor(value):
            self._tensor(value)
            return
        self.at(type(value))
        inside = getattr(value, "__dict__", None)
        if inside is not None:
            self._later_or_now(tuple(sorted(inside.items())), fixed=_is_frozen(value))
        elif type(value).__name__ in ("dtype", "device"):
            self.parts.append(repr(value))
        elif callable(value) and hasattr(value, "__name__"):
            self.parts.append(str(value.__name__))
        else:
            self.told = False

    def _later_or_now(self, values: tuple[Any, ...], *, fixed: bool) -> None:
        if fixed or self._later is None:
            self.at(values)
        else:
            self._later.append(values)

    def _tensor(self, tensor: Any) -> None:
        if tensor.numel() > _ENTRIES:
            self.told = False
            return
        self.parts += [f"{tensor.dtype} {tuple(tensor.shape)}", repr(tensor.detach().tolist())]


def _is_fixed(value: object) -> bool:
    """Whether a value is what it is for as long as it is there, but for what is in it."""
    return not isinstance(value, (list, set, dict, bytearray)) and not _is_tensor(value)


def _is_frozen(value: Any) -> bool:
    cls: Any = type(value)
    return is_dataclass(value) and bool(cls.__dataclass_params__.frozen)


def _all_named(code: CodeType, *instructions: str) -> set[str]:
    """What a function, and functions in it, name in such instructions."""
    names = set(_named(code, *instructions))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _all_named(constant, *instructions)
    return names


def _named(code: CodeType, *instructions: str) -> Iterator[str]:
    for one in dis.get_instructions(code):
        if one.opname in instructions:
            yield str(one.argval)


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


@functools.cache
def _library_folders() -> Set[str]:
    return {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def _is_of_a_library(name: str | None) -> bool:
    """Whether a module is installed, and so no part of what somebody is trying out."""
    if name in (None, "__main__"):
        return False
    assert name is not None
    if name.partition(".")[0] in ("dno", "dno_builtin", *sys.builtin_module_names):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and any(file.startswith(f"{place}/") for place in _library_folders())
