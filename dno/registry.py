"""Plugins by name. Names come from entry-point metadata; code is imported only by `load`."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import re
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from dno.config import (
    ModelConfig,
    ObserverConfig,
    OptimizerConfig,
    PluginConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
)
from dno.errors import PluginLoadError, UnknownPluginError

CONTRACT: Final = "v1"
"""Version of the plugin contract; part of every entry-point group's name."""

C_co = TypeVar("C_co", bound=PluginConfig, covariant=True)

_GROUP = re.compile(r"dno\.(?P<version>v\d+)\.(?P<kind>[a-z]+)")
_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")


@dataclass(frozen=True)
class PluginInfo:
    """What an installed distribution says of one plugin; nothing of it has been imported."""

    kind: str
    name: str
    target: str
    """Where the config class is: `module:Class`."""
    distribution: str
    version: str
    contract: str = CONTRACT

    @property
    def qualified(self) -> str:
        """The name that picks this plugin even where two distributions claim the short one."""
        return f"{self.distribution}:{self.name}"


@functools.cache
def _scan() -> tuple[PluginInfo, ...]:
    entries = importlib.metadata.entry_points()
    found = set()
    for group in entries.groups:
        if (match := _GROUP.fullmatch(group)) is None:
            continue
        for entry in entries.select(group=group):
            found.add(
                PluginInfo(
                    kind=match["kind"],
                    name=entry.name,
                    target=entry.value,
                    distribution=entry.dist.name if entry.dist else "unknown",
                    version=entry.dist.version if entry.dist else "unknown",
                    contract=match["version"],
                )
            )
    return tuple(sorted(found, key=lambda info: (info.kind, info.name, info.distribution)))


class Registry(Generic[C_co]):
    """The plugins of one kind.

    Args:
        kind: last part of the entry-point group, such as `rewards`.
        base: the config class that every plugin of this kind derives from.
    """

    def __init__(self, kind: str, base: type[C_co]) -> None:
        self.kind, self.base = kind, base
        self._loaded: dict[PluginInfo, type[C_co]] = {}

    @property
    def _infos(self) -> tuple[PluginInfo, ...]:
        return tuple(info for info in _scan() if info.kind == self.kind)

    def infos(self) -> tuple[PluginInfo, ...]:
        """Every installed plugin of this kind made for this contract, sorted by name, from metadata alone."""
        return tuple(info for info in self._infos if info.contract == CONTRACT)

    def refresh(self) -> None:
        """Look at the installed distributions again, after one was installed or removed."""
        _scan.cache_clear()
        self._loaded.clear()

    def info(self, use: str) -> PluginInfo:
        """The one plugin that `use` (`name` or `distribution:name`) stands for.

        Raises:
            UnknownPluginError: nothing has that name, two distributions do, or it was made for
                another version of the plugin contract.
        """
        one = self.kind.removesuffix("s")
        dist, _, name = use.rpartition(":")
        if dist == "python":
            raise UnknownPluginError(f'{one} "{name}" was a Python object; run it again from the script that made it')
        claims = [i for i in self._infos if i.name == name and dist in ("", i.distribution)]
        usable = [i for i in claims if i.contract == CONTRACT]
        if len(usable) == 1:
            return usable[0]
        if usable:
            owners = " and ".join(f"{i.distribution} {i.version}" for i in usable)
            choice = " or ".join(f'"{i.qualified}"' for i in usable)
            raise UnknownPluginError(f'{one} "{use}" is claimed by {owners}; say which: {choice}')
        if claims:
            other = claims[0]
            raise UnknownPluginError(
                f'{one} "{use}" of {other.distribution} {other.version} is made for plugin contract '
                f"{other.contract}, this dno has {CONTRACT}; install a release of it made for {CONTRACT}"
            )
        names = sorted({i.name for i in self._infos if i.contract == CONTRACT})
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownPluginError(f'no {one} is called "{use}"; {hint}installed: {", ".join(names) or "none"}')

    def load(self, use: str) -> type[C_co]:
        """Import one plugin's config class.

        Raises:
            UnknownPluginError: see `info`.
            PluginLoadError: the import failed, or the target is no config class of this kind.
        """
        info = self.info(use)
        if info not in self._loaded:
            self._loaded[info] = self._import(info)
        return self._loaded[info]

    def _import(self, info: PluginInfo) -> type[C_co]:
        who = f'{self.kind.removesuffix("s")} "{info.name}" of {info.distribution} {info.version} ({info.target})'
        if not _NAME.fullmatch(info.name):
            raise PluginLoadError(f"{who} has a bad name; use lower case letters, digits, '-', '_' and '.'")
        entry = importlib.metadata.EntryPoint(info.name, info.target, f"dno.{CONTRACT}.{self.kind}")
        try:
            target = entry.load()
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == entry.module.partition(".")[0]:
                raise PluginLoadError(f"{who} names a module that is not there; reinstall it") from error
            raise PluginLoadError(f"{who} needs the module {missing}; try: pip install {missing}") from error
        except Exception as error:
            raise PluginLoadError(
                f"{who} could not be imported: {type(error).__name__}: {error}; update or uninstall it"
            ) from error
        if not (isinstance(target, type) and issubclass(target, self.base)):
            raise PluginLoadError(f"{who} is not a {self.base.__name__}; its author must derive it from one")
        return target

    def name_of(self, config: PluginConfig) -> str | None:
        """What to write under `use` so that `load` gives this config's class again; None if unpublished."""
        cls = type(config)
        for info in self._infos:
            if self._loaded.get(info) is cls or info.target == f"{cls.__module__}:{cls.__qualname__}":
                claims = [i for i in self._infos if (i.name, i.contract) == (info.name, CONTRACT)]
                return info.name if len(claims) == 1 else info.qualified
        return None

    def label(self, config: PluginConfig) -> str:
        """A name for messages and records: the published one, or that of the Python object."""
        return self.name_of(config) or str(getattr(config, "label", type(config).__name__))


SAMPLERS = Registry("samplers", SamplerConfig)
REWARDS = Registry("rewards", RewardConfig)
REGULARIZERS = Registry("regularizers", RegularizerConfig)
OPTIMIZERS = Registry("optimizers", OptimizerConfig)
OBSERVERS = Registry("observers", ObserverConfig)
MODELS = Registry("models", ModelConfig)

REGISTRIES: Final[tuple[Registry[PluginConfig], ...]] = (SAMPLERS, REWARDS, REGULARIZERS, OPTIMIZERS, OBSERVERS, MODELS)


def unsupported() -> tuple[PluginInfo, ...]:
    """Plugins published for a contract version or a kind that this `dno` does not know."""
    kinds = {registry.kind for registry in REGISTRIES}
    return tuple(i for i in _scan() if i.contract != CONTRACT or i.kind not in kinds)
