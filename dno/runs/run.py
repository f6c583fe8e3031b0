"""Run a RunConfig and keep what comes out: for the command line, scripts and `dno.optimize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dno.core.engine import LoopState, optimize
from dno.core.events import Bus, RunInfo
from dno.core.result import Result, Status
from dno.errors import ConfigError, RunError, RunFolderError
from dno.runs.pose import Built, build, find_device
from dno.runs.run_config import RunConfig, put, read_toml
from dno.runs.storage import RunFolder, free_folder

SAVE_SECONDS = 5.0
"""A killed run loses at most about this much work."""


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
    free_folder(out)
    built = build(config)
    # Made only now, so that a configuration that cannot be built leaves nothing behind.
    with RunFolder(out, new=True) as folder:
        return _run(config, folder, None, built)


def resume(
    path: Path | str, *, iterations: int | None = None, settings: Mapping[str, Any] | None = None
) -> Result:
    """Go on with a run that was stopped, killed or failed, or that should have more iterations.

    On a CPU it ends with the same bits as a run that was never interrupted.

    Args: path: the run folder. iterations: optimizer steps in all, in place of the run's own
        number. settings: what else to change by its dotted place, such as `{"budget.seconds":
        600}`; only what decides when to stop, where to compute and who looks on may change.

    Raises: ConfigError: the folder holds no run, or a run with parts that only its Python script
        can build. RunError: see `run`.
    """
    path = Path(path)
    if not (path / "run.toml").is_file():
        raise RunFolderError(f"{path} holds no run.toml, so it is no run folder; look below runs/")
    values, sources = read_toml(path / "run.toml"), {"": str(path / "run.toml")}
    for place, value in (settings or {}).items():
        put(values, place, value)
        sources[place] = "--set"
    if iterations is not None:
        values["iterations"], sources["iterations"] = iterations, "--iterations"
    config = RunConfig.parse(values, sources)
    with RunFolder(path) as folder:
        state = folder.load_state(config, find_device(config.device))
        done = state.iteration - _warm_up(config) if state else 0
        if done > config.iterations:
            raise ConfigError(f"{done} are done already, got {config.iterations}", at="iterations")
        return _run(config, folder, state)


def _warm_up(config: RunConfig) -> int:
    return config.warm_start.iterations if config.warm_start else 0


def _run(
    config: RunConfig, folder: RunFolder | None, state: LoopState | None, built: Built | None = None
) -> Result:
    parts = built or build(config, fresh=state is None)
    latest = state

    def checkpoint(new: LoopState) -> None:
        nonlocal latest
        latest = new
        if folder is not None:
            folder.save_state(new, config, every=SAVE_SECONDS)

    if folder is not None:
        folder.save_config(config)
    start, path = state.iteration if state else 0, folder.path if folder else None
    total = _warm_up(config) + config.iterations
    bus = Bus(
        RunInfo(parts.problem.items, total, start, path, config.budget.seconds), parts.observers
    )
    result = optimize(
        parts.problem,
        parts.optimizer,
        config.iterations,
        bus=bus,
        warm_start=parts.warm_start,
        budget=config.budget,
        state=state,
        checkpoint=checkpoint,
    )
    try:
        if folder is not None:
            if latest is not None:
                folder.save_state(latest, config)
            folder.save_result(result, parts.problem.sample.draws)
        bus.finished(result)
    except RunError as error:
        result = replace(result, status=Status.FAILED, error=result.error or error)
    return result
