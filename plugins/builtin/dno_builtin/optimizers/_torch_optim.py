"""Classes of `torch.optim` as pure functions of noise, gradient and named tensors."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from dno.plugin import ConfigError, Objective, State, first_line

OURS = ("self", "params", "optimizer", "last_epoch", "maximize")
"""Arguments that are given here, and so are nobody's options."""


@dataclass(frozen=True)
class Recipe:
    """What a rule for one sample is made of."""

    cls: type[Optimizer]
    options: Mapping[str, Any]
    schedule: type[lr_scheduler.LRScheduler] | None
    schedule_options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        options: Mapping[str, object],
        schedule: str,
        schedule_options: Mapping[str, object],
        unfit: Collection[str],
    ) -> Recipe:
        """The classes of these names, tried out; those that are unfit are not proposed.

        Raises:
            ConfigError: torch has no such class or option, or the class does not take noise.
        """
        kind = _class(torch.optim, Optimizer, name, unfit, "cls")
        plan = None
        _check_options(kind, options, "options")
        if schedule:
            base = lr_scheduler.LRScheduler
            plan = _class(lr_scheduler, base, schedule, unfit, "schedule")
            _check_options(plan, schedule_options, "schedule_options")

        recipe = cls(kind, _tuples(options), plan, _tuples(schedule_options))
        try:
            recipe.tried(torch.zeros(2))
        except Exception as error:
            raise ConfigError(
                f"torch.optim.{name} does not take noise with these options: {first_line(error)}"
            ) from error
        return recipe

    def tried(self, noise_N: Tensor) -> Rule:
        """A rule after one step on flat ground: what it remembers has its names and shapes."""
        rule = Rule(self, noise_N)
        rule.step(torch.zeros_like(noise_N), torch.zeros_like(noise_N), 0.0)
        rule.memory()
        return rule


class Rule:
    """One sample's optimizer and schedule.

    Args:
        recipe: what they are made of.
        noise_N: where they stand.
    """

    def __init__(self, recipe: Recipe, noise_N: Tensor) -> None:
        self._leaf = torch.nn.Parameter(noise_N.clone())
        self._optimizer = recipe.cls([self._leaf], **recipe.options)
        self._schedule: lr_scheduler.LRScheduler | None = None
        if recipe.schedule is not None:
            self._schedule = recipe.schedule(self._optimizer, **recipe.schedule_options)

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what another rule of this recipe remembered."""
        group = self._optimizer.state_dict()["param_groups"][0]
        group = _with_numbers(group, _under("group.", memory))
        # Copies, since the optimizer writes into what it is given.
        state = {name: value.clone() for name, value in _under("optimizer.", memory).items()}
        self._optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
        if self._schedule is not None:
            numbers = _under("schedule.", memory)
            self._schedule.load_state_dict(_with_numbers(self._schedule.state_dict(), numbers))

    def step(self, grad_N: Tensor, pull_N: Tensor, value: float) -> Tensor:
        """The noise after a step up a gradient and straight down another.

        Args:
            grad_N: what the class climbs.
            pull_N: what noise is moved against, times the learning rate.
            value: of the objective, for schedules that look at it.
        """
        # Downhill is what every class goes; not all know `maximize`.
        self._leaf.grad = -grad_N
        rate = self._optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        if isinstance(self._schedule, lr_scheduler.ReduceLROnPlateau):
            self._schedule.step(-value)
        elif self._schedule is not None:
            self._schedule.step()
        moved_N: Tensor = self._leaf.detach() - rate * pull_N
        return moved_N

    def memory(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name."""
        named: dict[str, Tensor] = {}
        saved = self._optimizer.state_dict()
        for name, value in saved["state"].get(0, {}).items():
            if isinstance(value, Tensor):
                named[f"optimizer.{name}"] = value
            elif value is not None:
                raise TypeError(f"its state has {name}, which is no tensor")
        if self._schedule is not None:
            group = {k: v for k, v in saved["param_groups"][0].items() if k != "params"}
            named |= _numbers("group.", group)
            named |= _numbers("schedule.", self._schedule.state_dict())
        return named


@dataclass(frozen=True)
class TorchAscent:
    """A rule of `torch.optim` for each sample.

    State: `steps`, those made so far; `optimizer.*`, what the class keeps, one row a sample; with a
    schedule also `group.*`, its numbers such as the learning rate, and `schedule.*`, float64.
    """

    recipe: Recipe
    decoupled: bool

    def init(self, noise_BN: Tensor, /) -> State:
        """The names and shapes of what is remembered; no step made yet."""
        memory = self.recipe.tried(noise_BN[0]).memory()
        rows = len(noise_BN)
        empty = {name: value.new_zeros(rows, *value.shape) for name, value in memory.items()}
        return {"steps": torch.tensor(0), **empty}

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One update of each sample, from one gradient."""
        if self.decoupled:
            slopes = objective.slopes(noise_BN)
            grad_BN = slopes.reward_grad_BN
            pull_BN = slopes.penalty_grad_BN
            value_B = slopes.reward_B
        else:
            value_B, grad_BN = objective.value_and_grad(noise_BN)
            pull_BN = torch.zeros_like(grad_BN)

        begun = bool(state["steps"])
        values = value_B.tolist()
        moved = []
        memories = []
        for row, noise_N in enumerate(noise_BN):
            rule = Rule(self.recipe, noise_N)
            if begun:
                remembered = {name: state[name][row] for name in state if name != "steps"}
                rule.recall(remembered)
            moved.append(rule.step(grad_BN[row], pull_BN[row], values[row]))
            memories.append(rule.memory())

        new = {name: torch.stack([one[name] for one in memories]) for name in memories[0]}
        return torch.stack(moved), {"steps": state["steps"] + 1, **new}


def _class(
    module: object, base: type[Any], name: str, unfit: Collection[str], at: str
) -> type[Any]:
    """The class of a module that has this name, in which nothing may be missing."""
    found = getattr(module, name, None)
    if inspect.isclass(found) and issubclass(found, base) and found is not base:
        return found
    classes = [one for one in vars(module).values() if inspect.isclass(one)]
    names = [one.__name__ for one in classes if issubclass(one, base) and one is not base]
    known = sorted({one for one in names if not one.startswith("_") and one not in unfit})
    where = getattr(module, "__name__", "torch")
    raise ConfigError(f"{where} has no {name!r}; {_near(name, known)}", at=at)


def _check_options(kind: type[Any], options: Iterable[str], at: str) -> None:
    known = [name for name in inspect.signature(kind).parameters if name not in OURS]
    for name in options:
        if name not in known:
            problem = f"{kind.__name__} has no such option; {_near(name, known)}"
            raise ConfigError(problem, at=f"{at}.{name}")


def _near(name: str, known: list[str]) -> str:
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=3)
    hint = ""
    if near:
        hint = f"did you mean {' or '.join(lower[one] for one in near)}? "
    return f"{hint}known: {', '.join(known)}"


def _tuples(options: Mapping[str, object]) -> dict[str, object]:
    """Options with tuples for lists, which is how torch's own pairs are."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }


def _numbers(prefix: str, values: Mapping[str, object]) -> dict[str, Tensor]:
    """What of some values is numbers, as float64; all else is as the recipe made it."""
    named = {}
    for name, value in values.items():
        several = value if isinstance(value, (list, tuple)) else [value]
        if several and all(isinstance(one, (bool, int, float)) for one in several):
            named[f"{prefix}{name}"] = torch.tensor(value, dtype=torch.float64)
    return named


def _with_numbers(values: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values with others for those numbers."""
    new = dict(values)
    for name, tensor in numbers.items():
        like = values[name]
        number: Any = tensor.tolist()
        if isinstance(like, tuple):
            number = tuple(number)
        elif isinstance(like, (bool, int)) and number == int(number):
            number = type(like)(number)
        new[name] = number
    return new


def _under(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part, by their names there."""
    return {
        name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)
    }
