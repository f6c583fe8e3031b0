"""A run folder: every file whole or not at all, nothing overwritten, enough to resume to the bit.

run.toml            rebuilds the run: `dno optimize --config run.toml`
history.jsonl       a StepRecord a line, appended to
initial.png best.png last.png
                    pictures of the samples side by side; of several also each alone, in
                    best-0.png and so on; videos and sounds as .webp and .wav beside them
result.json         how it ended, what it reached and what it cost
start.safetensors start.png
                    what a run started from that Python held in memory: noise, or a picture
found.safetensors   noise from which a picture is drawn, where it was searched for
objects.json        digests of the Python objects that it was made with
noise.safetensors   `initial` and `best`, B x N float32; metadata `dno` (JSON) holds each
                    draw's shape
state.safetensors   where to go on from
frames/ report.html curve.png
                    what observers add

Whoever opens a folder may have been sent it: no link in it is followed by what writes, and nothing
in it is believed that was not checked.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from dno.core.problem import Problem
from dno.core.result import Outcome, Snapshot
from dno.core.stages import LoopState, Phase
from dno.errors import ConfigError, RunError, RunFolderError
from dno.files import PART, write_file
from dno.media import Medium, encoded, png, side_by_side, thumbnails
from dno.runs.folders import holds_nothing
from dno.runs.history import HistoryFile, read_history
from dno.runs.identity import filled
from dno.runs.lock import HeldError, hold
from dno.runs.making import Making
from dno.runs.objects import OBJECTS, dumped, prints_of
from dno.runs.run_config import RunConfig, located
from dno.runs.start import noise_file
from dno.runs.states import about_of, misfit, read_about, state_of, tensors_of
from dno.runs.tensor_files import UnknownFormatError, pack, unpack
from dno.runs.versions import versions
from dno.wording import named, reason

_MAY_CHANGE: Final = ("iterations", "budget", "observers", "device", "metadata")
"""Fields that a run may change midway."""
_STATE: Final = "state.safetensors"
_SAVING_SHARE: Final = 0.005
"""Of a run's time, what saving its state should take at most."""
_LARGEST_SHARE: Final = 0.05
"""What it takes at most where states are so large that little would be saved otherwise."""
_LONGEST_WAIT: Final = 120.0
"""Seconds after which a state is saved all the same, within that largest share."""


def read_noise(path: Path, draws: Sequence[tuple[int, ...]], samples: int) -> Tensor:
    """The best noise in a run folder or in its `noise.safetensors`, `samples x N`; one row serves
    all samples.

    Raises:
        ConfigError: it is not there, cannot be read, is damaged, or was made for other draws or
            another number of samples.
    """
    file_path = noise_file(path)
    noise_BN, saved = _best_noise(file_path)
    wanted = [list(shape) for shape in draws]
    fits = saved in (None, wanted) and noise_BN.shape[1:] == (sum(map(math.prod, wanted)),)
    if not fits or len(noise_BN) not in (1, samples):
        raise ConfigError(
            f"{named(file_path)} holds {len(noise_BN)} samples of {_count(saved)} draws, this run "
            f"needs {samples} "
            f"(or 1 for all) of {len(wanted)} draws; use the sampler and number of samples that "
            "it was made with"
        )
    if not noise_BN.isfinite().all():
        raise ConfigError(f"{named(file_path)} holds noise that is not finite; start from another")
    return noise_BN.expand(samples, -1).clone()


def _best_noise(file_path: Path) -> tuple[Tensor, Any]:
    """The tensor `best` of a file, and the shapes of its draws where it tells them."""
    try:
        about, tensors = unpack(file_path, ours=False)
        noise_BN = tensors["best"]
        if noise_BN.dim() != 2 or not noise_BN.is_floating_point():
            raise ValueError("its numbers are none of noise")
    except UnknownFormatError as error:
        raise ConfigError(f"{named(file_path)} {error}; use the dno that wrote it") from None
    except KeyError:
        raise ConfigError(_no_noise(file_path, "it has none")) from None
    except (OSError, ValueError) as error:
        raise ConfigError(_no_noise(file_path, reason(error))) from None
    return noise_BN.float(), about.get("draws")


def _no_noise(file_path: Path, why: str) -> str:
    return f'{named(file_path)} holds no noise as a run saves it, a tensor "best": {why}'


def _count(draws: Any) -> int:
    return len(draws) if isinstance(draws, list) else 0


def has_state(folder: Path) -> bool:
    """Whether a run folder holds something to go on from."""
    return (folder / _STATE).exists()


class RunFolder:
    """One run's files, held by one process at a time.

    Args:
        path: the folder; made if it is not there.
        new: whether it must hold nothing yet.

    Raises:
        RunFolderError: the folder cannot be made, holds something, leads out of itself, or another
            process is working in it.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        self._saved = -math.inf
        self._wait = 0.0
        self._decisive: tuple[RunConfig, dict[str, Any]] | None = None
        self._history = HistoryFile(path)
        shown = named(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._release = hold(path)
        except HeldError:
            raise RunFolderError(
                f"{shown} is in use by another process; wait for it or name another folder"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{shown} cannot be made: {reason(error)}; name another folder"
            ) from error

        try:
            # Looked at once more under the lock: another process may have made the same folder
            # meanwhile.
            if new and not holds_nothing(path):
                raise RunFolderError(f"{shown} is in use; name another folder")
            _tidy(path)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._history.close()
        self._release()

    def save_config(self, config: RunConfig) -> None:
        """Write what rebuilds the run."""
        # First, since a folder without it is of no run.
        self.write("run.toml", config.to_toml())
        prints = prints_of(config)
        if prints:
            self.write(OBJECTS, dumped(prints))

    def write(self, name: str, data: bytes) -> None:
        """Write one file whole or not at all.

        Raises:
            RunError: the disk is full, or the folder may not be written.
        """
        with self._told_how_to_go_on():
            write_file(self.path / name, data)

    @contextlib.contextmanager
    def _told_how_to_go_on(self) -> Iterator[None]:
        try:
            yield
        except RunError as error:
            raise RunError(f"{error}; then go on: dno resume {named(self.path)}") from error

    def save_state(self, state: LoopState, config: RunConfig, every: float = 0.0) -> None:
        """Save where to go on from, unless that was done less than `every` seconds ago.

        It waits longer where this would take more than a two-hundredth of the run's time, up to
        two minutes, and longer still where it would take a twentieth then. What it costs does not
        depend on how long the run has been going on.
        """
        began = time.monotonic()
        if every and began - self._saved < max(every, self._wait):
            return
        # The history first: lines that no saved state knows of yet are left out by who reads it.
        with self._told_how_to_go_on():
            # A look at where a run stopped is recorded too, and made again by whoever goes on.
            mark = self._history.extend(state.history[: state.iteration])
        about = about_of(state, self._decisive_of(config), mark)
        self.write(_STATE, pack(tensors_of(state), about))
        self._saved = time.monotonic()
        self._wait = _wait_after(self._saved - began)

    def load_state(self, config: RunConfig, device: torch.device) -> LoopState | None:
        """What `save_state` saved last; None if the run never got so far.

        Raises:
            RunFolderError: the files are damaged, of another version, or of another configuration.
        """
        path = self.path / _STATE
        if not path.exists():
            return None
        try:
            values, tensors = unpack(path)
            about = read_about(values)
            history = read_history(self.path, about.iteration, about.history)
            self._check_config(about.config, config)
            on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
            state = state_of(about, on_device, history.records, len(config.items()))
        except RunFolderError:
            raise
        except UnknownFormatError as error:
            raise RunFolderError(
                f"{named(path)} {error}; resume it with the dno that wrote it"
            ) from None
        except (OSError, ValueError) as error:
            raise self._damaged(reason(error)) from error
        self._history.go_on_from(history)
        return state

    def check_state(self, state: LoopState, problem: Problem, phases: Sequence[Phase]) -> None:
        """Raise `RunFolderError` where a state that was loaded does not belong to its problem."""
        why = misfit(state, problem, phases)
        if why:
            raise self._damaged(why)

    def _check_config(self, saved: Mapping[str, Any], config: RunConfig) -> None:
        ours = self._decisive_of(config)
        # Folders of format 2 have paths as they were given, and no release has options of a later
        # one, which are at their defaults.
        theirs = filled(located(saved, self.path))
        whole = filled(ours)
        changed = [
            key
            for key in {**theirs, **whole}
            if key not in _MAY_CHANGE and whole.get(key) != theirs.get(key)
        ]
        if changed:
            file = named(self.path / "run.toml")
            raise RunFolderError(
                f"{file} is not what the run began with ({named(', '.join(changed))} cannot change "
                f"midway); undo that, or start a new run: dno optimize --config {file}"
            )

    def _decisive_of(self, config: RunConfig) -> dict[str, Any]:
        if self._decisive is None or self._decisive[0] is not config:
            self._decisive = (config, _decisive(config))
        return self._decisive[1]

    def _damaged(self, why: str) -> RunFolderError:
        return RunFolderError(
            f"{named(self.path / _STATE)} or history.jsonl is damaged ({why}); start "
            f"afresh: dno optimize --config {named(self.path / 'run.toml')}"
        )

    def save_outcome(
        self,
        outcome: Outcome,
        draws: Sequence[tuple[int, ...]],
        making: Making | None = None,
    ) -> None:
        """Write the samples, the noise, the whole history, and how it ended.

        Args:
            outcome: what was reached.
            draws: shape of each draw in a row of noise.
            making: what pictures say of how they were made; None: nothing.
        """
        with self._told_how_to_go_on():
            self._history.extend(outcome.history)
        items = [{"prompt": prompt, "seed": seed} for prompt, seed in outcome.items]
        noise = {"initial": outcome.initial.noise_BN, "best": outcome.best.noise_BN}
        about = {"draws": [list(shape) for shape in draws], "items": items}
        self.write("noise.safetensors", pack(noise, about))

        snapshots = {"initial": outcome.initial, "best": outcome.best, "last": outcome.last}
        for name, snapshot in snapshots.items():
            self._save_samples(name, outcome.medium, snapshot.samples, making)
        # The last of all: where it is, the run has ended and nothing is missing.
        self.write("result.json", _as_json(outcome))

    def _save_samples(
        self, name: str, medium: Medium, samples: Tensor, making: Making | None
    ) -> None:
        """Each sample as a file, and a picture of all of them side by side where they have one."""

        def texts(row: int | None, size: tuple[int, int]) -> Mapping[str, str]:
            return {} if making is None else making.texts(row, size)

        files = encoded(medium, samples, texts)
        alone = len(files) == 1
        for i, (ending, data) in enumerate(files):
            numbered = name if alone else f"{name}-{i}"
            self.write(f"{numbered}{ending}", data)

        row = thumbnails(medium, samples)
        if row and not (alone and files[0][0] == ".png"):
            shown = 0 if alone else None
            self.write(f"{name}.png", png(side_by_side(row), texts(shown, row[0].size)))


def _wait_after(seconds: float) -> float:
    """How long to wait after saving took so many seconds."""
    seldom = min(seconds / _SAVING_SHARE, _LONGEST_WAIT)
    return max(seldom, seconds / _LARGEST_SHARE)


def _tidy(folder: Path) -> None:
    """Remove what killed processes left unfinished, and refuse a folder that leads out of itself.

    Raises:
        RunFolderError: it holds a link to another folder, in which files would be written.
    """
    try:
        for place, folders, files in os.walk(folder):
            for name in folders:
                if Path(place, name).is_symlink():
                    raise RunFolderError(
                        f"{named(Path(place, name))} is a link, and what is written there would "
                        "be written elsewhere; remove it"
                    )
            for name in files:
                if PART.fullmatch(name):
                    Path(place, name).unlink()
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"{named(folder)} cannot be tidied: {reason(error)}") from None


def _as_json(outcome: Outcome) -> bytes:
    """How a run ended, what it reached and what it cost."""

    def reached(snapshot: Snapshot) -> dict[str, Any]:
        groups = {
            "rewards": snapshot.rewards,
            "monitors": snapshot.monitors,
            "log_p": snapshot.log_p,
            "figures": snapshot.figures,
        }
        return {
            "iteration": [round(i) for i in snapshot.iteration_B.tolist()],
            **{
                group: {name: _plain(value) for name, value in values.items()}
                for group, values in groups.items()
            },
        }

    content = {
        "status": outcome.status,
        "reason": outcome.reason,
        "error": str(outcome.error or ""),
        "failures": {str(row): why for row, why in outcome.failures.items()},
        **outcome.meter(),
        "items": [{"prompt": prompt, "seed": seed} for prompt, seed in outcome.items],
        "climbed": list(outcome.climbed),
        "kept": list(outcome.kept),
        "medium": outcome.medium.kind,
        "versions": dict(versions()),
        "initial": reached(outcome.initial),
        "best": reached(outcome.best),
        "last": reached(outcome.last),
    }
    return json.dumps(content, indent=2, allow_nan=False).encode()


def _plain(values: Tensor) -> list[float | None]:
    """Numbers as JSON can hold them: null for what is not finite."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _decisive(config: RunConfig) -> dict[str, Any]:
    """What a run may not change midway."""
    return {key: value for key, value in config.dump().items() if key not in _MAY_CHANGE}
