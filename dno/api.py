"""`dno.optimize`: the command line's job for Python, with names or live objects for every part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, Unpack

from dno.core.result import Result
from dno.protocols import Optimizer, Regularizer, Reward, Sampler
from dno.registry.configs import (
    ObserverConfig,
    OptimizerConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
)
from dno.runs.run import run
from dno.runs.shorthands import Options, assemble

Named: TypeAlias = str | Mapping[str, Any]
"""A plugin's name, or a table with `use` and its options."""


def _table(part: object) -> Mapping[str, Any]:
    """A part, or a (part, weight) pair, as a table."""
    if isinstance(part, tuple) and len(part) == 2:
        return {**_table(part[0]), "weight": part[1]}
    return part if isinstance(part, Mapping) else {"use": part}


def optimize(
    prompt: str | Sequence[str],
    *,
    reward: Named | RewardConfig | Reward | tuple[Any, float] | list[Any],
    sampler: Named | SamplerConfig | Sampler | None = None,
    monitor: Named | RewardConfig | Reward | list[Any] | None = None,
    regularizer: Named
    | RegularizerConfig
    | Regularizer
    | tuple[Any, float]
    | list[Any]
    | None = None,
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

    Each part is a plugin's name, a table such as `{"use": "clip", "weight": 2}`, a config object,
    or a live object of the matching protocol: a reward is any callable `(images B x 3 x H x W in
    [0, 1], prompts) -> B` and may carry `differentiable = False`. Rewards and regularizers may be
    lists, and each a pair (part, weight).

    Args:
        prompt: what to draw, or several.
        reward: what to climb.
        monitor: rewards that are evaluated beside and never optimised.
        sampler: how noise becomes an image.
        regularizer: what keeps noise Gaussian; `[]` for nothing.
        optimizer: how to climb.
        observer: what looks on, beside the `curve` that a run folder gets.
        out: run folder to make; None keeps nothing on disk.
        settings: anything else by its dotted place, such as `{"sampler.memory": "recompute"}`.
        options: see `dno.runs.shorthands.Options`.

    Raises:
        ConfigError: the request is wrong; nothing was run.
        RunError: the run failed before its first evaluation. Later failures are in `Result.status`.
    """
    values: dict[str, Any] = {"prompts": prompt}
    values |= {
        name: _table(part)
        for name, part in (("sampler", sampler), ("optimizer", optimizer))
        if part is not None
    }
    many = {
        "rewards": reward,
        "monitors": monitor,
        "regularizers": regularizer,
        "observers": observer,
    }
    for name, parts in many.items():
        if parts is not None:
            values[name] = [
                _table(part) for part in (parts if isinstance(parts, list) else [parts])
            ]
    if "observers" in values:
        values["observers"].append({"use": "curve"})
    config = assemble(values, options, list((settings or {}).items()))
    return run(config, Path(out).expanduser() if out is not None else None)
