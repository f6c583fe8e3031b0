"""The command line's jobs for Python, with names or live objects for every part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

from dno.core.events import StepDone
from dno.errors import ConfigError
from dno.paths import current_folder, user_path
from dno.protocols import Constraint, Optimizer, Regularizer, Reward, Sampler
from dno.registry.configs import (
    ConstraintConfig,
    ObserverConfig,
    OptimizerConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
)
from dno.report.result import Result
from dno.runs import compare as comparing
from dno.runs import run as running
from dno.runs.aliases import PythonOptions, own_options
from dno.runs.carried import read_carried
from dno.runs.draft import PARTS
from dno.runs.lists import Row
from dno.runs.load import Loaded
from dno.runs.load import load as load_models
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun as SavedRun
from dno.runs.saved import list_runs as list_runs
from dno.runs.saved import open_run as open_run
from dno.runs.shorthands import assemble
from dno.runs.spellings import weighted

Named: TypeAlias = str | Mapping[str, Any]
"""A plugin's name, or a table with `use` and its options."""
AnyReward: TypeAlias = Named | RewardConfig | Reward | tuple[Any, float] | list[Any]
AnyMonitor: TypeAlias = Named | RewardConfig | Reward | list[Any]
AnySampler: TypeAlias = Named | SamplerConfig | Sampler
AnyRegularizer: TypeAlias = Named | RegularizerConfig | Regularizer | tuple[Any, float] | list[Any]
AnyConstraint: TypeAlias = Named | ConstraintConfig | Constraint | list[Any]
AnyOptimizer: TypeAlias = Named | OptimizerConfig | Optimizer
AnyObserver: TypeAlias = Named | ObserverConfig | list[Any] | object


def optimize(
    prompt: str | Sequence[str] | Any,
    *after: str | Sequence[str],
    reward: AnyReward,
    sampler: AnySampler | None = None,
    monitor: AnyMonitor | None = None,
    regularizer: AnyRegularizer | None = None,
    constraint: AnyConstraint | None = None,
    optimizer: AnyOptimizer | None = None,
    observer: AnyObserver | None = None,
    callback: Callable[[StepDone], object] | None = None,
    progress: bool = False,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[PythonOptions],
) -> Result:
    """Optimise the noise from which a model draws `prompt`, so that `reward` rises.

        >>> result = dno.optimize("a black cat", reward="brightness", seed=1)  # doctest: +SKIP
        >>> result.images[0].save("cat.png")  # doctest: +SKIP

    Each part is a plugin's name, a table such as `{"use": "clip", "weight": 2}`, a config object,
    or a live object of the matching protocol: a reward is any callable `(images B x 3 x H x W in
    [0, 1], prompts) -> B` and may carry `differentiable = False`. Rewards and regularizers may be
    lists, and each a pair (part, weight); `"clip=5"` and `{"clip": 5, "contrast": 1}` are weighted
    names.

    Args:
        prompt: what to draw, or several. A loaded diffusers pipeline may stand before it, in place
            of `model`.
        after: the prompt, where a pipeline stands before it.
        reward: what to climb.
        sampler: how noise becomes an image.
        monitor: rewards that are evaluated besides and never optimised.
        regularizer: what keeps noise Gaussian; `[]` for nothing.
        constraint: what puts noise back where N(0, I) puts it, after steps.
        optimizer: how to climb.
        observer: what looks on, besides the `curve` that a run folder gets: plugins, or functions
            that are told of each iteration.
        callback: one such function, which may return True to stop.
        progress: whether to show how far the run is, on standard error.
        out: run folder to make; None keeps nothing on disk.
        settings: anything else by its dotted place, such as `{"sampler.memory": "recompute"}`.
        options: see `dno.runs.shorthands.Options`; diffusers' names of them do too:
            `num_inference_steps`, `num_images_per_prompt`, `generator`.

    Raises:
        ConfigError: the request is wrong; nothing was run.
        RunError: the run failed before its first evaluation. Later failures are in `Result.status`.
    """
    prompt, own = _prompt_and_options(prompt, after, own_options(options))
    values = _values(
        sampler=sampler,
        rewards=reward,
        monitors=monitor,
        regularizers=regularizer,
        constraints=constraint,
        optimizer=optimizer,
        observers=_observers(observer, callback, progress=progress),
    )
    config = assemble({**values, "prompts": prompt}, own, _placed(settings))
    return run(config, out)


def run(config: RunConfig, out: str | Path | None = None) -> Result:
    """Run a configuration, and keep the outcome in a run folder.

    Args:
        config: what to run.
        out: the folder to make; None keeps nothing on disk.

    Raises:
        ConfigError: the configuration cannot be built, or the folder is in use.
        RunError: the run failed before its first evaluation. Later failures are in `Result.status`.
    """
    return Result.of(running.run(config, _path(out)))


def again(
    picture: str | Path,
    *,
    prompt: str | Sequence[str] | None = None,
    reward: AnyReward | None = None,
    observer: AnyObserver | None = None,
    progress: bool = False,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[PythonOptions],
) -> Result:
    """Repeat the run that made a picture, from what the picture carries alone.

        >>> result = dno.again("cat/best.png", seed=4)  # doctest: +SKIP

    On a CPU it makes the same picture to the bit, by the same versions. Whoever made the picture is
    not trusted: plugins are those installed here, and files, folders and servers that it was made
    with have to be named anew.

    Args:
        picture: a PNG file of a run.
        prompt: what goes over it, as `dno.optimize` takes it; and so with all that follow.

    Raises:
        ConfigError: it carries no configuration, or one that cannot be run here; nothing was run.
        RunError: see `dno.optimize`.
    """
    carried = read_carried(picture)
    values = _values(rewards=reward, observers=_observers(observer, None, progress=progress))
    if prompt is not None:
        values["prompts"] = prompt
    config = assemble(
        {**carried.values, **values},
        own_options(options),
        _placed(settings),
        source=carried.source,
        local=_unless_given(carried.local, values),
    )
    return run(config, out)


def _unless_given(local: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """What has to be named, but for what is in parts that were given anew."""
    return {
        place: called for place, called in local.items() if place.partition(".")[0] not in given
    }


def resume(
    path: str | Path,
    *,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Result:
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
    return Result.of(running.resume(path, iterations=iterations, settings=settings))


@dataclass(frozen=True)
class Comparison:
    """Two optimizers on one problem for as many seconds, each judged by its best healthy noise."""

    ours: Result
    rival: Result | None
    """None where ours was interrupted or failed."""
    against: str
    """What the rival is called."""

    def verdict(self) -> str:
        """Both verdicts, the rival's below."""
        if self.rival is None:
            return self.ours.verdict()
        return f"{self.ours.verdict()}\n\n{self.against}:\n{self.rival.verdict()}"

    @classmethod
    def of(cls, found: comparing.Comparison) -> Comparison:
        """The same comparison of outcomes."""
        rival = None if found.rival is None else Result.of(found.rival)
        return cls(Result.of(found.ours), rival, found.against)


def compare(
    config: RunConfig, against: Named | OptimizerConfig | Optimizer, out: str | Path | None = None
) -> Comparison:
    """Run a configuration, then another optimizer for as many seconds, on models loaded once.

    Args:
        config: what to run.
        against: the other optimizer.
        out: folder of the run; the other's has its name behind it. None keeps nothing on disk.

    Raises:
        ConfigError: the configuration or the rival is wrong; nothing was run.
        RunError: see `run`.
    """
    return Comparison.of(comparing.compare(config, against, _path(out)))


def load(
    *,
    reward: AnyReward,
    sampler: AnySampler | None = None,
    monitor: AnyMonitor | None = None,
    regularizer: AnyRegularizer | None = None,
    constraint: AnyConstraint | None = None,
    optimizer: AnyOptimizer | None = None,
    observer: AnyObserver | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[PythonOptions],
) -> Session:
    """Load models once, to optimise many prompts on them.

        >>> session = dno.load(reward="clip", steps=20)  # doctest: +SKIP
        >>> for prompt in prompts:  # doctest: +SKIP
        ...     session.optimize(prompt, seed=1, out=f"runs/{prompt}")

    Args:
        reward: as `dno.optimize` takes it, like all that follow; what does not decide the models
            may differ for each prompt.

    Raises:
        ConfigError: the request is wrong, or a model cannot be loaded.
    """
    values = _values(
        sampler=sampler,
        rewards=reward,
        monitors=monitor,
        regularizers=regularizer,
        constraints=constraint,
        optimizer=optimizer,
        observers=observer,
    )
    # A configuration needs a prompt; what is loaded does not depend on it.
    own = own_options(options)
    config = assemble({**values, "prompts": "any"}, own, _placed(settings))
    loaded = load_models(config.located(current_folder()))
    return Session(values, own, settings or {}, loaded)


class Session:
    """Loaded models on which problems are posed; `dno.load` makes one."""

    def __init__(
        self,
        values: Mapping[str, Any],
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
        loaded: Loaded,
    ) -> None:
        self._values = values
        self._options = options
        self._settings = settings
        self._loaded = loaded
        # What was loaded stays what it is, whatever folder is current later.
        self._base = current_folder()

    def with_reward(self, reward: AnyReward) -> Session:
        """A session with another reward, on the sampler that is loaded.

            >>> session = session.with_reward({"use": "picks", "file": file})  # doctest: +SKIP

        Raises:
            ConfigError: the reward is wrong, or its model cannot be loaded.
        """
        values = {**self._values, **_values(rewards=reward)}
        config = assemble({**values, "prompts": "any"}, self._options, _placed(self._settings))
        loaded = load_models(config.located(self._base), beside=self._loaded)
        session = Session(values, self._options, self._settings, loaded)
        session._base = self._base
        return session

    def config(
        self,
        prompt: str | Sequence[str],
        *,
        regularizer: AnyRegularizer | None = None,
        constraint: AnyConstraint | None = None,
        optimizer: AnyOptimizer | None = None,
        observer: AnyObserver | None = None,
        settings: Mapping[str, Any] | None = None,
        **options: Unpack[PythonOptions],
    ) -> RunConfig:
        """The configuration of one prompt: the session's, with what is given here over it."""
        values = _values(
            regularizers=regularizer,
            constraints=constraint,
            optimizer=optimizer,
            observers=observer,
        )
        merged = {**self._options, **own_options(options)}
        placed = _placed({**self._settings, **(settings or {})})
        config = assemble({**self._values, **values, "prompts": prompt}, merged, placed)
        return config.located(self._base)

    def optimize(
        self,
        prompt: str | Sequence[str],
        *,
        regularizer: AnyRegularizer | None = None,
        constraint: AnyConstraint | None = None,
        optimizer: AnyOptimizer | None = None,
        observer: AnyObserver | None = None,
        onlookers: Sequence[object] = (),
        out: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        **options: Unpack[PythonOptions],
    ) -> Result:
        """Optimise the noise of a prompt on the loaded models; see `dno.optimize`.

        Args:
            prompt: what to draw, or several.
            regularizer: in place of the session's.
            constraint: in place of the session's.
            optimizer: in place of the session's.
            observer: in place of the session's.
            onlookers: objects with methods that `dno.plugin.hookimpl` marks, or functions, that
                are told of the run and may ask it to stop. Unlike an observer they are no part of
                its configuration, so that `dno resume` goes on with its folder without them.
            out: run folder to make; None keeps nothing on disk.
            settings: over those of the session, by dotted place.
            options: over those of the session.

        Raises:
            ConfigError: the request is wrong, or needs other models than were loaded.
            RunError: see `dno.optimize`.
        """
        config = self.config(
            prompt,
            regularizer=regularizer,
            constraint=constraint,
            optimizer=optimizer,
            observer=observer,
            settings=settings,
            **options,
        )
        done = running.run(config, _path(out), loaded=self._loaded, onlookers=onlookers)
        return Result.of(done)

    def compare(
        self,
        prompt: str | Sequence[str],
        against: Named | OptimizerConfig | Optimizer,
        *,
        out: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        **options: Unpack[PythonOptions],
    ) -> Comparison:
        """The session's optimizer and another one on a prompt; see `dno.compare`."""
        config = self.config(prompt, settings=settings, **options)
        found = comparing.compare(config, against, _path(out), loaded=self._loaded)
        return Comparison.of(found)


@dataclass(frozen=True)
class Study:
    """Many prompts and seeds, as `dno.batch` leaves them."""

    folder: Path
    rows: Sequence[Mapping[str, Any]]
    """One an item, as `items.csv` has them: prompt, seed, status, rewards at the start and at the
    best; `pandas.DataFrame(study.rows)` is a table."""
    failed: Sequence[str]
    """Names of items that failed in this process; see `failed.jsonl`."""
    interrupted: bool
    """Whether it was asked to stop; the same call goes on."""

    def runs(self) -> list[SavedRun]:
        """The run of each item, read back."""
        return list_runs(self.folder / "items")


def batch(
    prompts: Any,
    *,
    out: str | Path,
    reward: AnyReward,
    seeds: Sequence[int] = (0,),
    size: int | Literal["auto"] = 1,
    part: tuple[int, int] = (1, 1),
    retries: int = 1,
    ray: str | None = None,
    ray_gpus: float | None = None,
    ray_cpus: int | None = None,
    ray_workers: int | None = None,
    keep: str = "all",
    sampler: AnySampler | None = None,
    monitor: AnyMonitor | None = None,
    regularizer: AnyRegularizer | None = None,
    constraint: AnyConstraint | None = None,
    optimizer: AnyOptimizer | None = None,
    observer: AnyObserver | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Unpack[PythonOptions],
) -> Study:
    """Optimise every prompt from every seed, each in a run folder of its own; models load once.

        >>> study = dno.batch(["a cat", "a dog"], out="study", reward="clip")  # doctest: +SKIP

    Called again it goes on where it stopped. Several processes may call it at once: each takes
    items that no other has.

    Args:
        prompts: a list; a table of columns or a data frame, where columns that are called as
            options set them; or the path of a file, see `dno batch --help`.
        out: folder of the study.
        reward: as `dno.optimize` takes it, like all parts and options that are not told here.
        seeds: for each prompt that has none of its own.
        size: how many items are run side by side in one tensor, where they differ in prompt or
            seed alone; each costs less then, and agrees with one that ran alone to rounding.
            "auto": as many as there is memory for, at most 16, as it is when the study begins.
        part: i of n, counted from 1: every nth item alone.
        retries: how often an item that failed is tried again.
        ray: run the items on workers of a Ray cluster: "auto" for the one that runs here, else one
            of our own, "local", or its address.
        ray_gpus: GPUs of each worker, as 1 or 0.5.
        ray_cpus: cores of each worker, and its threads.
        ray_workers: how many workers; None for as many as there is room for.
        keep: of an item that is done, "all", or "best": no state, last pictures or frames.

    Raises:
        ConfigError: the request is wrong, with the prompt's place; nothing was run.
    """
    from dno.report.page import write_report
    from dno.report.study_page import page_if_interrupted, write_page_of_items
    from dno.runs.batch import items_of, table_of
    from dno.runs.cluster import Cluster
    from dno.runs.keep import parse_keep
    from dno.runs.lists import rows_from
    from dno.runs.spellings import parse_size
    from dno.runs.study import run_study

    kept = parse_keep(keep)
    many = parse_size(size, "size")
    cluster = Cluster.asked_for(ray, gpus=ray_gpus, cpus=ray_cpus, workers=ray_workers)
    values = _values(
        sampler=sampler,
        rewards=reward,
        monitors=monitor,
        regularizers=regularizer,
        constraints=constraint,
        optimizer=optimizer,
        observers=observer,
    )
    own = own_options(options)

    def configure(row: Row, seed: int) -> RunConfig:
        given = {**own, **own_options(row.options), "seed": seed}
        placed = [*_placed(settings), *row.settings.items()]
        return assemble({**values, "prompts": row.prompt}, given, placed)

    folder = Path(out).expanduser()
    items = items_of(rows_from(prompts), seeds, configure, folder)
    with page_if_interrupted(items, folder):
        summary = run_study(
            items,
            folder,
            part=part,
            retries=retries,
            cluster=cluster,
            keep=kept,
            size=many,
            page=write_report,
        )
    write_page_of_items(items, folder)
    return Study(folder, table_of(items, folder), summary.failed, summary.interrupted)


def _path(out: str | Path | None) -> Path | None:
    return None if out is None else user_path(out, at="out")


def _placed(settings: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    return list((settings or {}).items())


def _prompt_and_options(
    prompt: Any, after: Sequence[Any], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The prompt, and the options with a pipeline that stood before it as their model.

    Raises:
        ConfigError: something else stood before the prompt.
    """
    if not after:
        return prompt, options
    if isinstance(prompt, str) or len(after) > 1 or options.get("model") is not None:
        raise ConfigError(
            "takes the prompt alone by place, or a loaded pipeline and the prompt; give all else "
            "by name, and several prompts as a list",
            source="dno.optimize",
        )
    return after[0], {**options, "model": prompt}


def _observers(
    observer: AnyObserver | None, callback: Callable[[StepDone], object] | None, *, progress: bool
) -> list[Any] | None:
    """All that look on; None where nothing was asked for."""
    several = observer if isinstance(observer, list) else [observer]
    found = [one for one in several if one is not None]
    if callback is not None:
        found.append(callback)
    if progress:
        found.append("progress")
    return found or None


def _values(**parts: object) -> dict[str, Any]:
    """Parts by their field in a configuration, as tables; those that are None left out."""
    values: dict[str, Any] = {}
    for name, given in parts.items():
        if given is None:
            continue
        if name in ("sampler", "optimizer"):
            values[name] = _table(given)
            continue
        several = given if isinstance(given, list) else [given]
        values[name] = [table for part in several for table in _tables(part, PARTS[name])]
    if "observers" in values:
        usual = RunConfig.model_fields["observers"].default
        named = [table.get("use") for table in values["observers"]]
        values["observers"].extend(_table(part) for part in usual if part not in named)
    return values


def _tables(part: object, kind: str) -> list[Mapping[str, Any]]:
    """A part as a table, or, of parts that have weights, names with theirs."""
    if kind in ("rewards", "regularizers"):
        if isinstance(part, Mapping) and "use" not in part:
            return [{"use": name, "weight": weight} for name, weight in part.items()]
        if isinstance(part, str) and "=" in part:
            return [*weighted([part], None)]
    return [_table(part)]


def _table(part: object) -> Mapping[str, Any]:
    """A part, or a (part, weight) pair, as a table."""
    if isinstance(part, tuple) and len(part) == 2:
        return {**_table(part[0]), "weight": part[1]}
    return part if isinstance(part, Mapping) else {"use": part}
