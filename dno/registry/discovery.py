"""What installed distributions say of their plugins. Imports neither these nor pydantic, so that
listing is quick.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoints
from typing import Any, Final

from dno.wording import said

CONTRACT: Final = "v1"
"""Version of the plugin contract; part of every entry-point group's name."""
KINDS: Final = (
    "samplers",
    "rewards",
    "regularizers",
    "constraints",
    "optimizers",
    "observers",
    "models",
    "commands",
)
"""Last part of every entry-point group's name."""
_GROUP: Final = re.compile(r"dno\.(?P<contract>v\d+)\.(?P<kind>[a-z]+)")
NAME: Final = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
"""What a plugin may be called."""


@dataclass(frozen=True)
class PluginInfo:
    """What an installed distribution says of one plugin; nothing of it has been imported."""

    kind: str
    """Last part of its entry-point group; the whole group where that is not of the form
    `dno.v1.rewards`."""
    name: str
    target: str
    """Where the config class is: `module:Class`."""
    distribution: str
    version: str
    contract: str = CONTRACT
    """Version in its entry-point group; empty where that is not of the form `dno.v1.rewards`."""

    @property
    def qualified(self) -> str:
        """The name that picks this plugin even where two distributions claim the short one."""
        return f"{self.distribution}:{self.name}"


@dataclass(frozen=True)
class Damaged:
    """An installed distribution whose metadata cannot be read, so that its plugins are unknown."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"the metadata of {self.name} cannot be read ({self.reason}); reinstall it"


def published() -> tuple[PluginInfo, ...]:
    """Every plugin of every distribution, whatever it was made for, from metadata alone."""
    return _found()[0]


def damaged() -> tuple[Damaged, ...]:
    """The distributions that may publish plugins, but whose metadata cannot be read, by name."""
    return _found()[1]


def look_again() -> None:
    """Forget what was found, after a distribution was installed or removed."""
    _found.cache_clear()


def pass_over_damaged() -> None:
    """Have no library in this process break by what cannot be read of a distribution.

    pydantic, torch and fsspec ask all distributions for entry points when they are imported, and
    fail where one of these is damaged.
    """
    Distribution.entry_points = property(_as_far_as_readable)  # type: ignore[assignment]


_entry_points: Final[Any] = Distribution.entry_points


def _as_far_as_readable(distribution: Distribution) -> EntryPoints:
    """The entry points of a distribution; none where they cannot be read."""
    try:
        return _entry_points.fget(distribution)  # type: ignore[no-any-return]
    except Exception:
        return EntryPoints(())


@functools.cache
def _found() -> tuple[tuple[PluginInfo, ...], tuple[Damaged, ...]]:
    # One by one, and not all at once as importlib.metadata would: one that is damaged hides no
    # other.
    found: set[PluginInfo] = set()
    broken: set[Damaged] = set()
    for distribution in importlib.metadata.distributions():
        try:
            found.update(_published_by(distribution))
        except Exception as error:
            broken.add(_damaged(distribution, error))

    def order(info: PluginInfo) -> tuple[str, ...]:
        return info.kind, info.name, info.distribution, info.contract, info.target

    return tuple(sorted(found, key=order)), tuple(sorted(broken, key=str))


def _published_by(distribution: Distribution) -> Iterator[PluginInfo]:
    """The plugins of one distribution."""
    text = distribution.read_text("entry_points.txt")
    # Most have none, and need not be taken apart.
    if not text or "dno." not in text.lower() or not _is_first(distribution, text):
        return
    for entry in _entry_points.fget(distribution):
        if not entry.group.lower().startswith("dno."):
            continue
        match = _GROUP.fullmatch(entry.group)
        contract = match["contract"] if match else ""
        kind = match["kind"] if match else entry.group
        owner = str(distribution.metadata["Name"] or "unknown")
        version = str(distribution.metadata["Version"] or "unknown")
        yield PluginInfo(kind, entry.name, entry.value, owner, version, contract)


def _is_first(distribution: Distribution, text: str) -> bool:
    """Whether this is the one that is imported, of several of its name on the path."""
    name = distribution.metadata["Name"]
    if not name:
        return True
    first = importlib.metadata.distribution(name)
    return first.read_text("entry_points.txt") == text


def _damaged(distribution: Distribution, error: Exception) -> Damaged:
    reason = f"{type(error).__name__}: {said(error)}"
    try:
        name = distribution.metadata["Name"]
    except Exception:
        name = None
    folder = getattr(distribution, "_path", None)
    # Without a name of its own, its folder is what people can look for.
    return Damaged(str(name or folder or "a distribution"), reason)


def usable() -> tuple[PluginInfo, ...]:
    """Those that this `dno` can load, by kind and name."""
    ours = [info for info in published() if info.contract == CONTRACT]
    return tuple(info for kind in KINDS for info in ours if info.kind == kind)


def unsupported() -> tuple[PluginInfo, ...]:
    """Those published for a contract version, a kind or a group that this `dno` does not know."""
    return tuple(info for info in published() if info not in usable())
