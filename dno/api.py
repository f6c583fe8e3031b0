"""`dno.optimize`: the command line's job for Python, with names or live objects for every part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, Unpack

from dno.config import (
    BuildContext,
    ObserverConfig,
    OptimizerConfig,
    PluginConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
)
from dno.protocols import Optimizer, Regularizer, Reward, Sampler
from dno.request import Options, assemble
from dno.result import Result
from dno.run import run

Named: TypeAlias = str | Mapping[str, Any]
"""A plugin's name, or a table with `use` and its options."""


class _Given(PluginConfig):
    """A live object where a configuration names a plugin."""

    part: Any

    def build(self, ctx: BuildContext) -> Any:
        return self.part

    @property
    def label(self) -> str:
        return str(getattr(self.part, "__name__", type(self.part).__name__)).strip("<>")


class _GivenSampler(_Given, SamplerConfig): ...


class _GivenReward(_Given, RewardConfig): ...


class _GivenBlackBox(_GivenReward):
    differentiable: ClassVar[bool] = False


class _GivenRegularizer(_Given, RegularizerConfig): ...


class _GivenOptimizer(_Given, OptimizerConfig): ...


class _GivenObserver(_Given, ObserverConfig): ...


def _given(kind: type[_Given], part: Any) -> object:
    """What a configuration understands: `part` itself, or a live object wrapped; of a (part, weight) pair too."""
    weight = {}
    if isinstance(part, tuple) and len(part) == 2:
        part, weight = part[0], {"weight": part[1]}
    if isinstance(part, PluginConfig):
        return type(part).model_validate({**dict(part), **weight})
    if isinstance(part, (str, Mapping)):
        return {**({"use": part} if isinstance(part, str) else part), **weight}
    if kind is _GivenReward and not getattr(part, "differentiable", True):
        kind = _GivenBlackBox
    return kind(part=part, **weight)


def optimize(
    prompt: str | Sequence[str],
    *,
    reward: Named | RewardConfig | Reward | tuple[Any, float] | list[Any],
    sampler: Named | SamplerConfig | Sampler | None = None,
    regularizer: Named | RegularizerConfig | Regularizer | tuple[Any, float] | list[Any] | None = None,
    optimizer: Named | OptimizerConfig | Optimizer | None = None,
    observer: Named | ObserverConfig | list[Any] | object | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Optimise the noise from which a model draws `prompt`, so that `reward` rises.

        >>> result = dno.optimize("a black cat", reward="brightness", seed=1)  # doctest: +SKIP
        >>> result.best.samples.shape  # doctest: +SKIP
        torch.Size([1, 3, 32, 32])

    Each part is a plugin's name, a table such as `{"use": "clip", "weight": 2}`, a config object, or a live
    object of the matching protocol: a reward is any callable `(images B x 3 x H x W in [0, 1], prompts) -> B`
    and may carry `differentiable = False`. Rewards and regularizers may be lists, and each a pair (part, weight).

    Args:
        prompt: what to draw, or several.
        reward: what to climb.
        sampler: how noise becomes an image.
        regularizer: what keeps noise Gaussian; `[]` for nothing.
        optimizer: how to climb.
        observer: what looks on.
        out: run folder to make; None keeps nothing on disk.
        settings: anything else by its dotted place, such as `{"sampler.memory": "recompute"}`.
        options: see `dno.request.Options`.

    Raises:
        ConfigError: the request is wrong; nothing was run.
        RunError: the run failed before its first evaluation. Later failures are in `Result.status`.
    """
    one: dict[str, tuple[type[_Given], Any]] = {
        "sampler": (_GivenSampler, sampler),
        "optimizer": (_GivenOptimizer, optimizer),
    }
    many: dict[str, tuple[type[_Given], Any]] = {
        "rewards": (_GivenReward, reward),
        "regularizers": (_GivenRegularizer, regularizer),
        "observers": (_GivenObserver, observer),
    }
    values = {name: _given(kind, part) for name, (kind, part) in one.items() if part is not None} | {
        name: [_given(kind, part) for part in (parts if isinstance(parts, list) else [parts])]
        for name, (kind, parts) in many.items()
        if parts is not None
    }
    config = assemble(values, {"prompts": prompt, **options}, list((settings or {}).items()))
    return run(config, Path(out) if out is not None else None, save=out is not None)
