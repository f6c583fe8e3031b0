"""Run a RunConfig and keep what comes out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from dno.core.apart import rest_of
from dno.core.engine import optimize
from dno.core.events import Bus, RunInfo
from dno.core.result import Outcome, Status
from dno.core.stages import LoopState
from dno.core.surroundings import clean_room, tf32
from dno.errors import ConfigError, RunError
from dno.guard import as_error
from dno.paths import current_folder, user_path
from dno.runs.again import configuration_of
from dno.runs.folders import free_folder
from dno.runs.load import Loaded, find_device, load
from dno.runs.making import Making
from dno.runs.plan import said_shortly
from dno.runs.pose import Posed, pose
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.start import GivenNoise, GivenPicture
from dno.runs.start_noise import keep_found, keep_start, read_found, searched_for
from dno.runs.storage import RunFolder

Each: TypeAlias = Callable[[int, Outcome, Posed], None]
"""Is told of a sample, by its row, what a run of it alone would have reached, and of what it was
one."""
SAVE_SECONDS: Final = 5.0
"""A killed run loses at most about this much work."""

_TF32_SINCE: Final = (8, 0)
"""Compute capability of the first GPUs with TF32."""

_log = logging.getLogger("dno")


@clean_room()
def run(
    config: RunConfig,
    out: Path | None = None,
    *,
    loaded: Loaded | None = None,
    onlookers: Sequence[object] = (),
    each: Each | None = None,
) -> Outcome:
    """Optimise, and keep the outcome in a run folder.

    Args:
        config: what to run.
        out: the folder to make; None keeps nothing on disk.
        loaded: models that were loaded for this configuration, or for one with the same sampler and
            rewards; None loads them.
        onlookers: observers that are no part of the configuration, so that anybody can go on with
            the run without them. One that fails is dropped.
        each: where it is given, every sample ends by itself, see `dno.core.engine.optimize`, and it
            is told of each; the folder then holds no more than what to go on from.

    Raises:
        ConfigError: the configuration cannot be built, or the folder is in use.
        RunError: the run failed before its first evaluation. Later failures are in the outcome's
            `status`.
    """
    config = config.located(current_folder())
    if out is not None:
        free_folder(out)
        # What no file can hold is told before anything is loaded or made.
        config.to_toml()
    models = loaded or load(config)
    if out is None:
        return _run(config, models, None, None, onlookers, each)
    with _arithmetic(config, models):
        # Posed before the folder is made, so that a configuration that cannot be built leaves
        # nothing.
        posed = pose(models, config)
        with RunFolder(out, new=True) as folder:
            return _carry_out(posed, folder, None, onlookers, each)


@clean_room()
def begin(
    config: RunConfig,
    folder: RunFolder,
    *,
    loaded: Loaded | None = None,
    each: Each | None = None,
) -> Outcome:
    """Optimise in a folder that is held for this run already, before anything is loaded.

    Args:
        config: what to run.
        folder: holds no run yet.
        loaded: see `run`.
        each: see `run`.

    Raises:
        ConfigError: the configuration cannot be built.
        RunError: see `run`.
    """
    config = config.located(current_folder())
    config.to_toml()
    models = loaded or load(config)
    with _arithmetic(config, models):
        return _carry_out(pose(models, config), folder, None, (), each)


@clean_room()
def resume(
    path: Path | str,
    *,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """Go on with a run that was stopped, killed or failed, or that should have more iterations.

    On a CPU it ends with the same bits as a run that was never interrupted.

    Args:
        path: the run folder.
        iterations: optimizer steps in all, in place of the run's own number.
        settings: what else to change by its dotted place, such as `{"budget.seconds": 600}`; only
            what decides when to stop, where to compute and who looks on may change.

    Raises:
        ConfigError: the folder holds no run, or a run with parts that only its Python script can
            build.
        RunError: see `run`.
    """
    path = user_path(path)
    config = configuration_of(path, iterations=iterations, settings=settings)
    return go_on(config, path)


def go_on(
    config: RunConfig,
    path: Path,
    *,
    loaded: Loaded | None = None,
    each: Each | None = None,
) -> Outcome:
    """Resume a run by its configuration, which may have parts that no file can hold.

    Args:
        config: the run's own, but for what decides when to stop, where to compute and who looks on.
        path: the run folder.
        loaded: models that were loaded for it; None loads them.
        each: see `run`; to be given where it was when the run began.

    Raises:
        ConfigError: the folder holds no run, or another one.
        RunError: see `run`.
    """
    config = config.located(current_folder())
    if config.coarse == "auto":
        # What was found when it began: it must climb on the same grids.
        found = SavedRun(path).values.get("coarse", ())
        config = config.model_copy(update={"coarse": tuple(found)})

    if isinstance(config.start, GivenNoise | GivenPicture):
        # It was kept there when the run began.
        config = config.model_copy(update={"start": Path(SavedRun(path).values["start"])})

    with RunFolder(path) as folder:
        state = folder.load_state(config, find_device(config.device))
        if state is None:
            _check_may_begin_again(config, SavedRun(path))
        done = state.iteration - _warm_up(config) if state else 0
        # On coarser grids a run has steps of its own besides those that were asked for.
        if done > config.iterations and not config.coarse:
            raise ConfigError(f"{done} are done already, got {config.iterations}", at="iterations")
        models = loaded or load(config, fresh=state is None)
        return _run(config, models, folder, state, (), each)


def _check_may_begin_again(config: RunConfig, run: SavedRun) -> None:
    """Raise `ConfigError` where a run that has ended, and kept nothing to go on from, would be made
    once more and might end with less."""
    if run.status not in (Status.FINISHED, Status.STOPPED, Status.PARTIAL):
        return
    own = run.values.get("iterations", RunConfig.model_fields["iterations"].default)
    if config.iterations <= own:
        raise ConfigError(
            f"the run has ended after its {own}, and what to go on from was not kept; ask for "
            f"more, with which it begins again, got {config.iterations}",
            at="iterations",
        )
    if config.budget.model_dump(exclude_none=True):
        raise ConfigError(
            "what to go on from was not kept, so that the run begins again, and with a budget "
            "might end with less than it has; leave the budget out",
            at="budget",
        )


def _found(config: RunConfig, folder: RunFolder | None, state: LoopState | None) -> Tensor | None:
    """The noise that was found before for the picture that the run starts from."""
    if folder is None:
        return None
    picture = None
    # A picture that cannot be read is told by who needs it.
    with contextlib.suppress(ConfigError):
        picture = searched_for(config)
    if picture is None:
        return None
    found = read_found(folder.path, picture)
    if found is not None and state is not None and state.initial is not None:
        return state.initial.noise_BN
    return found


def _warm_up(config: RunConfig) -> int:
    if config.warm_start is None:
        return 0
    return config.warm_start.iterations


def _run(
    config: RunConfig,
    models: Loaded,
    folder: RunFolder | None,
    state: LoopState | None,
    onlookers: Sequence[object] = (),
    each: Each | None = None,
) -> Outcome:
    with _arithmetic(config, models):
        posed = pose(models, config, fresh=state is None, found=_found(config, folder, state))
        if folder is not None and state is not None:
            folder.check_state(state, posed.problem, posed.phases)
        return _carry_out(posed, folder, state, onlookers, each)


@contextlib.contextmanager
def _arithmetic(config: RunConfig, models: Loaded) -> Iterator[None]:
    """What float32 is computed in, as the configuration has it."""
    if not config.tf32:
        yield
        return
    device = models.context.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_SINCE:
        _log.warning("tf32: this %s has none, and computes as without it", device.type)
    with tf32():
        yield


def _carry_out(
    posed: Posed,
    folder: RunFolder | None,
    state: LoopState | None,
    onlookers: Sequence[object] = (),
    each: Each | None = None,
) -> Outcome:
    config = posed.config
    latest = state

    def checkpoint(new: LoopState) -> None:
        nonlocal latest
        latest = new
        if folder is not None:
            folder.save_state(new, config, every=SAVE_SECONDS)

    if folder is not None:
        if state is None:
            keep_found(config, posed.problem, folder)
        config = keep_start(config, posed.problem, folder)
        folder.save_config(config)
    info = RunInfo(
        items=posed.problem.items,
        iterations=sum(phase.iterations for phase in posed.phases),
        start=state.iteration if state else 0,
        folder=folder.path if folder else None,
        seconds=config.budget.seconds,
        # Observers share it, and none may change what another reads.
        config=MappingProxyType(config.dump()),
        memory=said_shortly(getattr(posed.problem.sample, "footprint", None)),
    )
    bus = Bus(
        info,
        [*posed.observers.values(), *onlookers],
        [*posed.observers, *(type(one).__name__ for one in onlookers)],
        [*(observer.essential for observer in config.observers), *(False for _ in onlookers)],
    )
    with posed.climbing():
        outcome = optimize(
            posed.problem,
            posed.phases,
            bus=bus,
            budget=config.budget,
            state=state,
            checkpoint=checkpoint,
            each=None if each is None else lambda row, alone: each(row, alone, posed),
        )
    draws = posed.problem.sample.draws
    making = Making(config) if config.metadata else None
    try:
        if folder is not None:
            if latest is not None:
                folder.save_state(latest, config)
            if each is None:
                folder.save_outcome(outcome, draws, making)
            else:
                _tell_of_the_rest(outcome, latest, posed, each)
            if latest is not None and outcome.status in (Status.PARTIAL, Status.FAILED):
                # The run has ended with its failures: whoever goes on with it has mended what they
                # came from, or wants to see. One that was killed goes on as if it had not been.
                folder.save_state(replace(latest, failures={}), config)
    except Exception as error:
        outcome = _failed(outcome, error)
    try:
        bus.finished(outcome)
    except Exception as error:
        outcome = _failed(outcome, error)
        if folder is not None:
            # What the folder says of the run is what the caller is told of it.
            with contextlib.suppress(RunError):
                folder.save_outcome(outcome, draws, making)
    return outcome


def _tell_of_the_rest(outcome: Outcome, latest: LoopState | None, posed: Posed, each: Each) -> None:
    """Tell of the samples that went to the end."""
    ended = {} if latest is None else latest.ended
    for row, alone in rest_of(outcome, ended):
        each(row, alone, posed)


def _failed(outcome: Outcome, error: Exception) -> Outcome:
    """The outcome of a run whose end could not be kept or told."""
    return replace(outcome, status=Status.FAILED, error=outcome.error or as_error(error))
