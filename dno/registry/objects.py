"""Live objects where a configuration names plugins: a lambda as a reward, a sampler made in
Python.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from dno.errors import ConfigError
from dno.registry.configs import (
    BuildContext,
    ConstraintConfig,
    ObserverConfig,
    OptimizerConfig,
    PluginConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
)
from dno.wording import short

_NEEDS: Final[dict[type[PluginConfig], tuple[str, ...]]] = {
    SamplerConfig: ("bind",),
    RewardConfig: ("__call__",),
    RegularizerConfig: ("__call__",),
    ConstraintConfig: ("init", "retract"),
    OptimizerConfig: ("init", "step"),
    ObserverConfig: (),
}
"""Methods that make an object one of its kind; an observer has any that `hookimpl` marks, or is
a function."""


def _fits(part: object, needs: Sequence[str]) -> bool:
    if needs:
        return all(callable(getattr(part, name, None)) for name in needs)
    marked = any(hasattr(getattr(part, name, None), "dno_impl") for name in dir(part))
    return marked or inspect.isroutine(part)


def _wanted(needs: Sequence[str]) -> str:
    event = "a method marked by dno.plugin.hookimpl, or a function"
    return " and ".join(needs) or event


def checked(config: PluginConfig, part: Any) -> Any:
    """What a plugin's `build` returned, if it is of the plugin's kind.

    Raises:
        ConfigError: it is not.
    """
    for base, needs in _NEEDS.items():
        if isinstance(config, base) and not _fits(part, needs):
            kind = base.__name__.removesuffix("Config").lower()
            got = "None" if part is None else f"a {type(part).__name__}"
            raise ConfigError(
                f"its build returned {got}, which is no {kind}; its author must return an object "
                f"with {_wanted(needs)}"
            )
    return part


class Live(PluginConfig):
    """A live object as a configuration of its kind."""

    needs: ClassVar[tuple[str, ...]] = ()
    part: Any

    def check(self) -> None:
        """Raise `ConfigError` for an object that is not of its kind."""
        if isinstance(self.part, type):
            raise ConfigError(f"got the class {self.part.__name__}; give an instance of it")
        if not _fits(self.part, self.needs):
            raise ConfigError(
                f"needs a plugin's name, a table with it, or an object with {_wanted(self.needs)}; "
                f"got {short(self.part)}"
            )

    def build(self, ctx: BuildContext) -> Any:
        """The object."""
        return self.part

    @property
    def label(self) -> str:
        """What to call it in records."""
        return str(getattr(self.part, "__name__", type(self.part).__name__)).strip("<>")


@functools.cache
def _class(base: type[PluginConfig], differentiable: bool) -> type[Live]:
    about = {"__module__": __name__, "needs": _NEEDS[base]}
    return type(
        f"Live{base.__name__}",
        (Live, base),
        about if differentiable else {**about, "differentiable": False},
    )


def live_class(base: type[PluginConfig], part: object) -> type[Live]:
    """The class of configuration that holds this object as one of `base`'s kind."""
    return _class(base, bool(getattr(part, "differentiable", True)) or base is not RewardConfig)
