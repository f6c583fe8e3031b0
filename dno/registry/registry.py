"""Plugins by name. Names come from entry-point metadata; code is imported only by `load`."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
from typing import Final, Generic, TypeVar

from dno.errors import PluginLoadError, UnknownPluginError
from dno.registry import configs as bases
from dno.registry.configs import PluginConfig
from dno.registry.discovery import CONTRACT, NAME, PluginInfo, published

C_co = TypeVar("C_co", bound=PluginConfig, covariant=True)


def _why(error: BaseException, info: PluginInfo, module: str) -> str:
    """What went wrong in an import of `module` for this plugin, and how to mend it."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        told = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
        return f"could not be imported: {told}; update or uninstall it"
    missing = error.name
    top = missing.partition(".")[0]
    if top == module.partition(".")[0]:
        return f"has no module {missing}; reinstall or update it"
    if top == "dno":
        return f"was made for another version of dno, one that has {missing}; update it"
    # Whoever likes may give a distribution the name of a module: only one that the author requires
    # is sure.
    name = re.compile(re.sub(r"[\W_]+", "[-_.]+", missing) + r"(?![\w.-])", re.IGNORECASE)
    for dist in importlib.metadata.distributions(name=info.distribution):
        for required in filter(name.match, dist.requires or ()):
            distribution = required.partition(";")[0].strip()
            return f'needs the module {missing}; try: pip install "{distribution}"'
    return (
        f"needs the module {missing}, which is not installed; install what provides it, or "
        "update the plugin"
    )


class Registry(Generic[C_co]):
    """The plugins of one kind.

    Args:
        kind: last part of the entry-point group, such as `rewards`.
        base: the config class that every plugin of this kind derives from.
    """

    def __init__(self, kind: str, base: type[C_co]) -> None:
        self.kind, self.base = kind, base
        self._loaded: dict[PluginInfo, type[C_co]] = {}

    def infos(self) -> tuple[PluginInfo, ...]:
        """Every installed plugin of this kind made for this contract, sorted by name, from metadata
        alone.
        """
        return tuple(i for i in published() if (i.kind, i.contract) == (self.kind, CONTRACT))

    def refresh(self) -> None:
        """Look at the installed distributions again, after one was installed or removed."""
        published.cache_clear()
        self._loaded.clear()

    def info(self, use: str) -> PluginInfo:
        """The one plugin that `use` (`name` or `distribution:name`) stands for.

        Raises:
            UnknownPluginError: nothing has that name, more than one plugin does, or it was made for
                another version of the plugin contract.
        """
        one = self.kind.removesuffix("s")
        dist, _, name = use.rpartition(":")
        if dist == "python":
            raise UnknownPluginError(
                f'{one} "{name}" was a Python object; run it again from the script that made it'
            )
        claims = [
            i
            for i in published()
            if (i.kind, i.name) == (self.kind, name) and dist in ("", i.distribution)
        ]
        usable = [i for i in claims if i.contract == CONTRACT]
        if len(usable) == 1:
            return usable[0]
        if usable:
            owners = " and ".join(f"{i.distribution} {i.version} ({i.target})" for i in usable)
            names = [i.qualified for i in usable]
            choice = " or ".join(f'"{name}"' for name in names if names.count(name) == 1)
            mend = (
                f"say which: {choice}" if choice else "its author must give each a name of its own"
            )
            raise UnknownPluginError(f'{one} "{use}" is claimed by {owners}; {mend}')
        if claims:
            other = claims[0]
            raise UnknownPluginError(
                f'{one} "{use}" of {other.distribution} {other.version} is made for plugin '
                "contract "
                f"{other.contract}, this dno has {CONTRACT}; install a release of it made for "
                f"{CONTRACT}"
            )
        names = sorted({i.name for i in self.infos()})
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownPluginError(
            f'no {one} is called "{use}"; {hint}installed: {", ".join(names) or "none"}'
        )

    def load(self, use: str) -> type[C_co]:
        """Import one plugin's config class.

        Raises: UnknownPluginError: see `info`. PluginLoadError: the import failed, or the target is
            no config class of this kind or lacks a method.
        """
        info = self.info(use)
        if info not in self._loaded:
            self._loaded[info] = self._import(info)
        return self._loaded[info]

    def _import(self, info: PluginInfo) -> type[C_co]:
        one = self.kind.removesuffix("s")
        owner = f"{info.distribution} {info.version} ({info.target})"
        who = f'{one} "{info.name}" of {owner}'
        if not NAME.fullmatch(info.name):
            raise PluginLoadError(
                f"{who} has a bad name; use lower case letters, digits, '-', '_' and '.'"
            )
        entry = importlib.metadata.EntryPoint(info.name, info.target, f"dno.{CONTRACT}.{self.kind}")
        if not entry.pattern.match(entry.value):
            raise PluginLoadError(
                f"{who} does not say where its class is; its author must write module:Class"
            )
        try:
            target = entry.load()
        except (Exception, SystemExit) as error:
            raise PluginLoadError(f"{who} {_why(error, info, entry.module)}") from error
        if not (isinstance(target, type) and issubclass(target, self.base)):
            raise PluginLoadError(
                f"{who} is no {self.base.__name__}; its author must derive it from one"
            )
        if absent := sorted(target.__abstractmethods__):
            raise PluginLoadError(f"{who} does not define {' and '.join(absent)}; its author must")
        if target.model_rebuild(raise_errors=False) is False:
            raise PluginLoadError(
                f"{who} imports an option's type for type checkers alone; its author must not"
            )
        return target

    def name_of(self, config: PluginConfig) -> str | None:
        """What to write under `use` so that `load` gives this config's class again; None if nothing
        does.
        """
        cls, infos = type(config), self.infos()
        for info in infos:
            if (
                self._loaded.get(info) is cls
                or info.target == f"{cls.__module__}:{cls.__qualname__}"
            ):
                for use in (info.name, info.qualified):
                    if NAME.fullmatch(info.name) and [
                        i for i in infos if use in (i.name, i.qualified)
                    ] == [info]:
                        return use
        return None

    def label(self, config: PluginConfig) -> str:
        """A name for messages and records: the published one, or that of the Python object."""
        return self.name_of(config) or str(getattr(config, "label", type(config).__name__))


SAMPLERS = Registry("samplers", bases.SamplerConfig)
REWARDS = Registry("rewards", bases.RewardConfig)
REGULARIZERS = Registry("regularizers", bases.RegularizerConfig)
CONSTRAINTS = Registry("constraints", bases.ConstraintConfig)
OPTIMIZERS = Registry("optimizers", bases.OptimizerConfig)
OBSERVERS = Registry("observers", bases.ObserverConfig)
MODELS = Registry("models", bases.ModelConfig)

REGISTRIES: Final[tuple[Registry[PluginConfig], ...]] = (
    SAMPLERS,
    REWARDS,
    REGULARIZERS,
    CONSTRAINTS,
    OPTIMIZERS,
    OBSERVERS,
    MODELS,
)
