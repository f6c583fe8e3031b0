"""Ended runs and studies, taken apart into items: what each prompt and seed reached and cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dno.core.result import Status
from dno.errors import ConfigError, RunFolderError
from dno.paths import user_path
from dno.runs.saved import SavedRun
from dno.wording import named, short

_ITEMS: Final = "items"
_NOT_SETTINGS: Final = ("prompts", "seeds", "observers", "device", "metadata")
"""What differs between items that were run in one way."""
UNLIKELY: Final = 0.01
"""The share of tests of true draws with a p-value below it, too."""


@dataclass(frozen=True)
class EndedItem:
    """One prompt and seed that was run to an end."""

    prompt: str
    seed: int
    run: SavedRun
    sample: int
    """Its place among the samples of its run."""
    settings: Mapping[str, Any]
    """The configuration by dotted places, without what names the item."""
    climbed: Sequence[str]
    """Names of the rewards that were optimised."""
    initial: Mapping[str, float]
    """Rewards and monitors by name, of the plain sample; nan where there is none."""
    best: Mapping[str, float]
    """Those of the best healthy sample."""
    log_p: float
    """The least log P of its noise; nan where no regularizer reports one."""
    tests: int
    """Tests of N(0, I) that no constraint keeps by construction."""
    unlikely: int
    """Those of them whose p-value of the best noise is below 0.01."""
    unlikely_before: int
    """The same of the noise that it started at."""
    cost: Mapping[str, float]
    """`iterations`, `network_evaluations`, `reward_calls`, and `seconds`: an equal share of the
    run's."""

    @property
    def key(self) -> tuple[str, int]:
        """What it is paired with others by."""
        return (self.prompt, self.seed)

    def gain(self, reward: str) -> float:
        """Best less initial."""
        return self.best[reward] - self.initial[reward]

    def picture(self, name: str) -> Path | None:
        """The file of its `initial` or `best` sample, where it has one."""
        files = self.run.files(name)
        return files[self.sample] if self.sample < len(files) else None


@dataclass(frozen=True)
class Ended:
    """The items of one run, study, or folder of runs."""

    name: str
    items: Sequence[EndedItem]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many were passed over, by why."""


def ended(path: str | Path) -> Ended:
    """The items of a run folder, a study, or a folder that holds runs.

    Raises:
        RunFolderError: it is none of these, or no run in it has ended.
    """
    folder = user_path(path)
    items: list[EndedItem] = []
    left_out: dict[str, int] = {}
    for run in _runs_of(folder):
        try:
            found = list(items_of_run(run))
        except RunFolderError:
            found = []
            why = "damaged"
        else:
            why = "not ended" if run.status in (None, Status.INTERRUPTED) else "failed"
        missing = _count(run) - len(found)
        if missing > 0:
            left_out[why] = left_out.get(why, 0) + missing
        items += found

    if not items:
        told = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "it holds none"
        raise RunFolderError(
            f"{named(folder)} has no run that ended: {told}; name a run folder, a study, or a "
            "folder of runs"
        )
    return Ended(str(path), items, left_out)


def ended_ways(paths: Sequence[str | Path]) -> list[Ended]:
    """Several, each called by the last part of its path where no other one ends so.

    Raises:
        ConfigError: one is named twice.
        RunFolderError: see `ended`.
    """
    places = [user_path(path).resolve() for path in paths]
    twice = [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ConfigError(f"{short(str(twice[0]))} is named twice; name different runs")
    last = [place.name for place in places]
    found = [ended(path) for path in paths]
    if len(set(last)) < len(last):
        return found
    return [replace(way, name=name) for way, name in zip(found, last, strict=True)]


def _runs_of(folder: Path) -> list[SavedRun]:
    if (folder / "run.toml").is_file():
        return [SavedRun(folder)]
    inner = folder / _ITEMS if (folder / _ITEMS).is_dir() else folder
    if not inner.is_dir():
        raise RunFolderError(f"there is no folder {named(folder)}")
    return [
        SavedRun(path)
        for path in sorted(inner.iterdir())
        if not path.is_symlink() and (path / "run.toml").is_file()
    ]


def _count(run: SavedRun) -> int:
    try:
        return len(run.items)
    except RunFolderError:
        return 1


def items_of_run(run: SavedRun) -> Iterator[EndedItem]:
    """The items of one run; none where it was not ended, or failed.

    Raises:
        RunFolderError: its files are damaged.
    """
    if run.status not in (Status.FINISHED, Status.STOPPED, Status.PARTIAL):
        return
    result = run.result
    keys = run.items
    kept = result.get("kept", ())
    settings = dict(flat({k: v for k, v in run.values.items() if k not in _NOT_SETTINGS}))
    try:
        climbed = tuple(map(str, result["climbed"]))
        for i, (prompt, seed) in enumerate(keys):
            if str(i) in result["failures"]:
                continue
            best = result["best"]
            initial = _scores(result["initial"], i)
            if initial.keys() != _scores(best, i).keys():
                raise KeyError("rewards of the best that the start does not have")
            yield EndedItem(
                prompt=prompt,
                seed=seed,
                run=run,
                sample=i,
                settings=settings,
                climbed=climbed,
                initial=initial,
                best=_scores(best, i),
                log_p=min(_at(best["log_p"], i).values(), default=math.nan),
                tests=len(_free(best["figures"], kept, i)),
                unlikely=_unlikely(best["figures"], kept, i),
                unlikely_before=_unlikely(result["initial"]["figures"], kept, i),
                cost={
                    "iterations": float(result["iterations"]),
                    "network_evaluations": float(result["network_evaluations"]),
                    "reward_calls": float(result["reward_calls"]),
                    "seconds": float(result["seconds"]) / len(keys),
                },
            )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        file = named(run.path / "result.json")
        raise RunFolderError(f"{file} is damaged: {type(error).__name__}") from error


def _scores(reached: Mapping[str, Any], sample: int) -> dict[str, float]:
    return {**_at(reached["rewards"], sample), **_at(reached["monitors"], sample)}


def _at(values: Mapping[str, Sequence[float | None]], sample: int) -> dict[str, float]:
    """One sample's, with nan for what was not finite."""
    found = {name: of_all[sample] for name, of_all in values.items()}
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def _unlikely(figures: Mapping[str, Any], kept: Sequence[str], sample: int) -> int:
    return sum(value < UNLIKELY for value in _free(figures, kept, sample))


def _free(figures: Mapping[str, Any], kept: Sequence[str], sample: int) -> list[float]:
    """The p-values of tests that no constraint keeps."""
    return [
        value
        for name, value in _at(figures, sample).items()
        if name.rpartition(".")[2].startswith("p_") and name.rpartition(".")[2] not in kept
    ]


def flat(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables and lists by its dotted place."""
    if isinstance(values, list) and values:
        values = {str(i): value for i, value in enumerate(values)}
    if not isinstance(values, Mapping):
        yield place, values
        return
    for name, value in values.items():
        yield from flat(value, f"{place}.{name}" if place else name)
