"""Live objects where a configuration names plugins: a lambda as a reward, a sampler made in
Python.
"""

from __future__ import annotations

import functools
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
"""Methods that make an object one of its kind; an observer has any that `hookimpl` marks."""


class Live(PluginConfig):
    """A live object as a configuration of its kind."""

    needs: ClassVar[tuple[str, ...]] = ()
    part: Any

    def check(self) -> None:
        """Raise `ConfigError` for an object that is not of its kind."""
        if isinstance(self.part, type):
            raise ConfigError(f"got the class {self.part.__name__}; give an instance of it")
        fits = all(callable(getattr(self.part, name, None)) for name in self.needs)
        if not self.needs:
            fits = any(
                hasattr(getattr(self.part, name, None), "dno_impl") for name in dir(self.part)
            )
        if not fits:
            wanted = " and ".join(self.needs) or "a method marked by dno.plugin.hookimpl"
            raise ConfigError(
                f"needs a plugin's name, a table with it, or an object with {wanted}; got "
                f"{short(self.part)}"
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
