"""Build what a RunConfig names, run it, keep what comes out: for the command line, scripts and `dno.optimize`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from dno.config import BuildContext, PluginConfig
from dno.engine import LoopState, Problem, optimize
from dno.errors import ConfigError, RunError, RunFolderError
from dno.events import Bus, RunInfo
from dno.objective import Term
from dno.protocols import Optimizer
from dno.registry import REGULARIZERS, REWARDS, Registry
from dno.result import Result, Status
from dno.run_config import RunConfig, read_toml
from dno.storage import RunFolder, free_folder

T = TypeVar("T")
C = TypeVar("C", bound=PluginConfig)
SAVE_SECONDS = 5.0
"""A killed run loses at most about this much work."""


def find_device(name: str) -> torch.device:
    """The device that `RunConfig.device` names.

    Raises:
        ConfigError: there is no such device here.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(gpus[0] if gpus else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception:
        have = ", ".join([*gpus, "cpu"])
        raise ConfigError(f'there is no device "{name}" here; use one of: {have}', at="device") from None
    return device


def _at(place: str, call: Callable[[], T]) -> T:
    """What `call` returns; what goes wrong in it is told with its place."""
    try:
        return call()
    except ConfigError as error:
        raise error.inside(place) from error
    except Exception as error:
        raise ConfigError(f"could not be made: {type(error).__name__}: {error}", at=place) from error


def _named(registry: Registry[C], parts: Sequence[C]) -> list[tuple[str, C]]:
    names = [registry.label(part) for part in parts]
    return [
        (f"{name}-{names[:i].count(name) + 1}" if name in names[:i] else name, part)
        for i, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def build(config: RunConfig) -> tuple[Problem, Optimizer, list[object]]:
    """The problem, the optimizer and the observers that a configuration names.

    All that can be checked without loading a model is checked first.

    Raises:
        ConfigError: with the place of what cannot be built.
    """
    ctx = BuildContext(device=find_device(config.device), dtype=getattr(torch, config.dtype))
    if not any(reward.weight for reward in config.rewards) and not any(r.weight for r in config.regularizers):
        raise ConfigError("every weight is 0, so there is nothing to optimise; give one a weight", at="rewards")
    rewards, regularizers = _named(REWARDS, config.rewards), _named(REGULARIZERS, config.regularizers)
    for i, (name, reward) in enumerate(rewards):
        if config.gradient.method == "exact" and reward.weight and not reward.differentiable:
            raise ConfigError(
                f'"{name}" has no exact gradient; choose another gradient.method to estimate one, or give it weight 0',
                at=f"rewards.{i}",
            )
    many: list[tuple[str, Sequence[PluginConfig]]] = [
        ("rewards", config.rewards),
        ("regularizers", config.regularizers),
        ("observers", config.observers),
    ]
    for place, part in [("sampler", config.sampler), ("optimizer", config.optimizer)] + [
        (f"{kind}.{i}", part) for kind, parts in many for i, part in enumerate(parts)
    ]:
        _at(place, part.check)
    prompts, seeds = zip(*config.items(), strict=True)
    sampler = _at("sampler", lambda: config.sampler.build(ctx))
    problem = Problem(
        items=config.items(),
        sample=_at("sampler", lambda: sampler.bind(prompts, seeds)),
        rewards=[
            Term(name, _at(f"rewards.{i}", partial(part.build, ctx)), part.weight, part.differentiable)
            for i, (name, part) in enumerate(rewards)
        ],
        regularizers=[
            Term(name, _at(f"regularizers.{i}", partial(part.build, ctx)), part.weight)
            for i, (name, part) in enumerate(regularizers)
        ],
        gradient=config.gradient,
        max_grad_norm=config.max_grad_norm,
        log_p_floor=config.log_p_floor,
    )
    observers = [_at(f"observers.{i}", partial(part.build, ctx)) for i, part in enumerate(config.observers)]
    return problem, _at("optimizer", lambda: config.optimizer.build(ctx)), observers


def run(config: RunConfig, out: Path | None = None) -> Result:
    """Optimise, and keep the outcome in a run folder.

    Args:
        config: what to run.
        out: the folder to make; None keeps nothing on disk.

    Raises:
        ConfigError: the configuration cannot be built, or the folder is in use.
        RunError: the run failed before its first evaluation. Later failures are in `Result.status`.
    """
    if out is None:
        return _run(config, None, None)
    free_folder(out, config.prompts[0])
    built = build(config)
    # Made only now, so that a configuration that cannot be built leaves nothing behind.
    with RunFolder(out, new=True) as folder:
        return _run(config, folder, None, built)


def resume(path: Path | str, *, iterations: int | None = None) -> Result:
    """Go on with a run that was stopped, killed or failed, or that should have more iterations.

    On a CPU it ends with the same bits as a run that was never interrupted.

    Raises:
        ConfigError: the folder holds no run, or a run with parts that only its Python script can build.
        RunError: see `run`.
    """
    path = Path(path)
    if not (path / "run.toml").is_file():
        raise RunFolderError(f"{path} holds no run.toml, so it is no run folder; look below runs/")
    values, sources = read_toml(path / "run.toml"), {"": str(path / "run.toml")}
    if iterations is not None:
        values["iterations"], sources["iterations"] = iterations, "--iterations"
    config = RunConfig.parse(values, sources)
    with RunFolder(path) as folder:
        state = folder.load_state(config, find_device(config.device))
        if state and state.iteration > config.iterations:
            raise ConfigError(f"{state.iteration} are done already, got {config.iterations}", at="iterations")
        return _run(config, folder, state)


def _run(
    config: RunConfig,
    folder: RunFolder | None,
    state: LoopState | None,
    built: tuple[Problem, Optimizer, list[object]] | None = None,
) -> Result:
    problem, optimizer, observers = built or build(config)
    latest = state

    def checkpoint(new: LoopState) -> None:
        nonlocal latest
        latest = new
        if folder is not None:
            folder.save_state(new, config, every=SAVE_SECONDS)

    if folder is not None:
        folder.save_config(config)
    start, path = state.iteration if state else 0, folder.path if folder else None
    bus = Bus(RunInfo(problem.items, config.iterations, start, path), observers)
    result = optimize(problem, optimizer, config.iterations, bus=bus, state=state, checkpoint=checkpoint)
    try:
        if folder is not None:
            if latest is not None:
                folder.save_state(latest, config)
            folder.save_result(result, problem.sample.draws)
        bus.finished(result)
    except RunError as error:
        result = replace(result, status=Status.FAILED, error=result.error or error)
    return result
