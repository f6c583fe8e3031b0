"""The components that a configuration names, each with its place and its name in records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dno.errors import ConfigError
from dno.guard import memory_ran_out, out_of_memory, undisturbed, what_happened
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
from dno.registry.objects import checked
from dno.registry.registry import (
    CONSTRAINTS,
    OBSERVERS,
    OPTIMIZERS,
    REGULARIZERS,
    REWARDS,
    SAMPLERS,
    Registry,
)
from dno.runs.run_config import RunConfig
from dno.wording import said

T = TypeVar("T")
C = TypeVar("C", bound=PluginConfig)
C_co = TypeVar("C_co", bound=PluginConfig, covariant=True)


@dataclass(frozen=True)
class Part(Generic[C_co]):
    """One component of a configuration."""

    place: str
    """Where it stands there, such as `rewards.0`."""
    name: str
    """What records call it."""
    config: C_co


@dataclass(frozen=True)
class Parts:
    """Every component of a configuration, by role."""

    sampler: Part[SamplerConfig]
    rewards: Sequence[Part[RewardConfig]]
    monitors: Sequence[Part[RewardConfig]]
    regularizers: Sequence[Part[RegularizerConfig]]
    reports: Sequence[Part[RegularizerConfig]]
    constraints: Sequence[Part[ConstraintConfig]]
    optimizer: Part[OptimizerConfig]
    warm_start: Part[OptimizerConfig] | None
    observers: Sequence[Part[ObserverConfig]]

    @classmethod
    def of(cls, config: RunConfig) -> Parts:
        """The components of a configuration."""
        asked = _parts(REWARDS, {"rewards": config.rewards, "monitors": config.monitors})
        held = _parts(
            REGULARIZERS, {"regularizers": config.regularizers, "reports": config.reports}
        )
        holding = _parts(CONSTRAINTS, {"constraints": config.constraints})
        watching = _parts(OBSERVERS, {"observers": config.observers})
        warm_start: Part[OptimizerConfig] | None = None
        if config.warm_start is not None:
            first = config.warm_start.optimizer
            warm_start = Part("warm_start.optimizer", OPTIMIZERS.label(first), first)
        return cls(
            sampler=Part("sampler", SAMPLERS.label(config.sampler), config.sampler),
            rewards=asked["rewards"],
            monitors=asked["monitors"],
            regularizers=held["regularizers"],
            reports=held["reports"],
            constraints=holding["constraints"],
            optimizer=Part("optimizer", OPTIMIZERS.label(config.optimizer), config.optimizer),
            warm_start=warm_start,
            observers=watching["observers"],
        )

    def __iter__(self) -> Iterator[Part[PluginConfig]]:
        """All of them, the sampler first."""
        yield self.sampler
        yield self.optimizer
        if self.warm_start is not None:
            yield self.warm_start
        yield from self.rewards
        yield from self.monitors
        yield from self.regularizers
        yield from self.reports
        yield from self.constraints
        yield from self.observers


def _parts(registry: Registry[C], roles: dict[str, Sequence[C]]) -> dict[str, list[Part[C]]]:
    """Components of one kind by role; a name that is taken has a number behind it."""
    taken: list[str] = []
    found: dict[str, list[Part[C]]] = {}
    for role, configs in roles.items():
        found[role] = []
        for i, config in enumerate(configs):
            label = registry.label(config)
            times = taken.count(label)
            taken.append(label)
            name = f"{label}-{times + 1}" if times else label
            found[role].append(Part(f"{role}.{i}", name, config))
    return found


def at(place: str, call: Callable[[], T]) -> T:
    """What `call` returns; what goes wrong in it is told with its place.

    Whatever plugins' code in it does to the process is undone.

    Raises:
        ConfigError: whatever went wrong.
    """
    try:
        with undisturbed(randomness=True):
            return call()
    except ConfigError as error:
        raise error.inside(place) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(f"could not be made: {_why(error)}", at=place) from error


def _why(error: BaseException) -> str:
    if out_of_memory(error):
        return memory_ran_out(error)
    if not isinstance(error, Exception):
        return f"it {what_happened(error)}"
    return f"{type(error).__name__}: {said(error)}"


def build(part: Part[Any], context: BuildContext) -> Any:
    """What a component's configuration builds.

    Raises:
        ConfigError: it cannot be built, or what is built is not of its kind.
    """
    return at(part.place, lambda: checked(part.config, part.config.build(context)))
