"""What installed distributions say of their plugins. Imports neither these nor pydantic, so that
listing is quick.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from dataclasses import dataclass
from typing import Final

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


@functools.cache
def published() -> tuple[PluginInfo, ...]:
    """Every plugin of every distribution, whatever it was made for, from metadata alone."""
    entries = importlib.metadata.entry_points()
    found = set()
    for group in entries.groups:
        if not group.lower().startswith("dno."):
            continue
        match = _GROUP.fullmatch(group)
        contract = match["contract"] if match else ""
        kind = match["kind"] if match else group
        for entry in entries.select(group=group):
            owner = entry.dist.name if entry.dist else "unknown"
            version = entry.dist.version if entry.dist else "unknown"
            found.add(PluginInfo(kind, entry.name, entry.value, owner, version, contract))

    def order(info: PluginInfo) -> tuple[str, ...]:
        return info.kind, info.name, info.distribution, info.contract, info.target

    return tuple(sorted(found, key=order))


def usable() -> tuple[PluginInfo, ...]:
    """Those that this `dno` can load, by kind and name."""
    ours = [info for info in published() if info.contract == CONTRACT]
    return tuple(info for kind in KINDS for info in ours if info.kind == kind)


def unsupported() -> tuple[PluginInfo, ...]:
    """Those published for a contract version, a kind or a group that this `dno` does not know."""
    return tuple(info for info in published() if info not in usable())
