"""Plugins by name. Names come from entry-point metadata; code is imported only by `load`."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from dno.errors import PluginLoadError, UnknownPluginError
from dno.guard import undisturbed
from dno.registry import configs as bases
from dno.registry.configs import PluginConfig
from dno.registry.discovery import (
    CONTRACT,
    NAME,
    PluginInfo,
    damaged,
    look_again,
    published,
    usable,
)
from dno.wording import named, said

C_co = TypeVar("C_co", bound=PluginConfig, covariant=True)


def _why(error: BaseException, info: PluginInfo, module: str) -> str:
    """What went wrong in an import of `module` for this plugin, and how to mend it."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        kind = type(error).__name__
        told = f"{kind}: {said(error)}" if str(error).strip() else kind
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


class Published:
    """What distributions publish under one kind of entry points.

    Args:
        kind: last part of the entry-point group, such as `rewards`.
    """

    target = "class"
    """What an entry point names."""
    qualifies = True
    """Whether `distribution:name` can be written in place of a name that is claimed twice."""
    unless_chosen = "its author must give each a name of its own"
    """How to mend that a name is claimed twice, where none of the claims can be chosen."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def one(self) -> str:
        """What one plugin of this kind is called, such as `reward`."""
        return self.kind.removesuffix("s")

    def infos(self) -> tuple[PluginInfo, ...]:
        """Every installed plugin of this kind made for this contract, by name.

        From metadata alone: nothing is imported.
        """
        return tuple(info for info in usable() if info.kind == self.kind)

    def info(self, use: str) -> PluginInfo:
        """The one plugin that `use` (`name` or `distribution:name`) stands for.

        Raises:
            UnknownPluginError: nothing has that name, more than one plugin does, or it was made for
                another version of the plugin contract.
        """
        distribution, _, name = use.rpartition(":")
        if distribution == "python":
            raise UnknownPluginError(
                f'{self.one} "{name}" was a Python object; run it again from the script that made '
                "it"
            )

        claims = [
            info
            for info in published()
            if info.kind == self.kind
            and info.name == name
            and distribution in ("", info.distribution)
        ]
        ours = [info for info in claims if info.contract == CONTRACT]
        if len(ours) == 1:
            return ours[0]
        if ours:
            raise self._claimed_twice(use, ours)
        if claims:
            raise self._made_for_another(use, claims[0])
        raise self._unknown(use, name)

    def _claimed_twice(self, use: str, claims: Sequence[PluginInfo]) -> UnknownPluginError:
        owners = " and ".join(f"{i.distribution} {i.version} ({i.target})" for i in claims)
        names = [info.qualified for info in claims]
        choices = [f'"{name}"' for name in names if names.count(name) == 1]
        mend = self.unless_chosen
        if choices and self.qualifies:
            mend = f"say which: {' or '.join(choices)}"
        return UnknownPluginError(f'{self.one} "{use}" is claimed by {owners}; {mend}')

    def _made_for_another(self, use: str, info: PluginInfo) -> UnknownPluginError:
        owner = f"{info.distribution} {info.version}"
        return UnknownPluginError(
            f'{self.one} "{use}" of {owner} is made for plugin contract {info.contract}, this dno '
            f"has {CONTRACT}; install a release of it made for {CONTRACT}"
        )

    def _unknown(self, use: str, name: str) -> UnknownPluginError:
        names = sorted({info.name for info in self.infos()})
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        known = ", ".join(names) or "none"
        hidden = "".join(f"; {each}" for each in damaged())
        asked = named(use)
        return UnknownPluginError(
            f'no {self.one} is called "{asked}"; {hint}installed: {known}{hidden}'
        )

    def _imported(self, info: PluginInfo) -> tuple[str, object]:
        """What messages call a plugin, and what its entry point names.

        Raises:
            PluginLoadError: its name is bad, or the import failed.
        """
        owner = f"{info.distribution} {info.version} ({info.target})"
        who = f'{self.one} "{info.name}" of {owner}'
        if not NAME.fullmatch(info.name):
            raise PluginLoadError(
                f"{who} has a bad name; use lower case letters, digits, '-', '_' and '.'"
            )
        entry = importlib.metadata.EntryPoint(info.name, info.target, f"dno.{CONTRACT}.{self.kind}")
        if not entry.pattern.match(entry.value):
            raise PluginLoadError(
                f"{who} does not say where its {self.target} is; its author must write "
                f"module:{self.target.capitalize()}"
            )
        try:
            with undisturbed(randomness=True):
                return who, entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PluginLoadError(f"{who} {_why(error, info, entry.module)}") from error


class Registry(Published, Generic[C_co]):
    """The plugins of one kind.

    Args:
        kind: last part of the entry-point group, such as `rewards`.
        base: the config class that every plugin of this kind derives from.
    """

    def __init__(self, kind: str, base: type[C_co]) -> None:
        super().__init__(kind)
        self.base = base
        self._loaded: dict[PluginInfo, type[C_co]] = {}

    def refresh(self) -> None:
        """Look at the installed distributions again, after one was installed or removed."""
        look_again()
        self._loaded.clear()

    def load(self, use: str) -> type[C_co]:
        """Import one plugin's config class.

        Raises:
            UnknownPluginError: see `info`.
            PluginLoadError: the import failed, or the target is no config class of this kind or
                lacks a method.
        """
        info = self.info(use)
        if info not in self._loaded:
            self._loaded[info] = self._import(info)
        return self._loaded[info]

    def _import(self, info: PluginInfo) -> type[C_co]:
        who, target = self._imported(info)
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
        """What to write under `use` so that `load` gives this config's class again.

        None if nothing does.
        """
        cls = type(config)
        target = f"{cls.__module__}:{cls.__qualname__}"
        infos = self.infos()
        for info in infos:
            leads_here = self._loaded.get(info) is cls or info.target == target
            if not leads_here or not NAME.fullmatch(info.name):
                continue
            for use in (info.name, info.qualified):
                claims = [other for other in infos if use in (other.name, other.qualified)]
                if claims == [info]:
                    return use
        return None

    def label(self, config: PluginConfig) -> str:
        """A name for messages and records: the published one, or that of the Python object."""
        return self.name_of(config) or str(getattr(config, "label", type(config).__name__))


class Commands(Published):
    """Subcommands of `dno` that distributions add: functions with parameters as Typer reads them.

    They are no part of a run, and have no options but those of their own command line.
    """

    target = "function"
    qualifies = False
    unless_chosen = "uninstall all but one"

    def load(self, use: str) -> Callable[..., object]:
        """Import one command's function.

        Raises:
            UnknownPluginError: see `info`.
            PluginLoadError: the import failed, or the target is no function.
        """
        who, target = self._imported(self.info(use))
        if isinstance(target, type) or not callable(target):
            raise PluginLoadError(f"{who} is no function; its author must name one")
        return target


COMMANDS: Final = Commands("commands")

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
