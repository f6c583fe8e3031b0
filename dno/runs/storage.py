"""A run folder: every file whole or not at all, nothing overwritten, enough to resume to the bit.

run.toml            rebuilds the run: `dno optimize --config run.toml`
history.jsonl       a StepRecord a line
initial.png best.png last.png
                    pictures of the samples side by side; of several also each alone, in
                    best-0.png and so on; videos and sounds as .webp and .wav beside them
result.json         how it ended, what it reached and what it cost
noise.safetensors   `initial` and `best`, B x N float32; metadata `dno` (JSON) holds each
                    draw's shape
state.safetensors   where to go on from
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tomli_w
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dno.core.result import Outcome, Snapshot, StepRecord
from dno.core.stages import LoopState, under
from dno.errors import ConfigError, RunError, RunFolderError
from dno.files import write_file
from dno.media import Medium, encoded, png, side_by_side, thumbnails
from dno.runs.run_config import RunConfig

_FORMAT: Final = "2"


def free_folder(path: Path) -> Path:
    """The path, if a new run may be kept there. Makes nothing.

    Raises:
        RunFolderError: something is there already, or nothing can be made there.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunFolderError(
            f"{path} is in use; name another folder, or go on with a run: dno resume {path}"
        )
    above = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise RunFolderError(
            f"{path} cannot be made, because {above} is no folder to write in; name another folder"
        )
    return path


def noise_file(path: Path) -> Path:
    """The file with the noise of a run folder; a file is itself."""
    return path / "noise.safetensors" if path.is_dir() else path


def read_noise(path: Path, draws: Sequence[tuple[int, ...]], samples: int) -> Tensor:
    """The best noise in a run folder or in its `noise.safetensors`, `samples x N`; one row serves
    all samples.

    Raises:
        ConfigError: it is not there, cannot be read, or was made for other draws or another number
            of samples.
    """
    file_path = noise_file(path)
    try:
        with safe_open(file_path, "pt") as file:
            noise_BN: Tensor = file.get_tensor("best").float()
            saved = json.loads((file.metadata() or {}).get("dno", "{}")).get("draws")
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f'{file_path} holds no noise as a run saves it, a tensor "best": {error}'
        ) from None
    wanted = [list(shape) for shape in draws]
    fits = saved in (None, wanted) and noise_BN.shape[1:] == (sum(map(math.prod, wanted)),)
    if not fits or len(noise_BN) not in (1, samples):
        raise ConfigError(
            f"{file_path} holds {len(noise_BN)} samples of {len(saved or ())} draws, this run "
            f"needs {samples} "
            f"(or 1 for all) of {len(wanted)} draws; use the sampler and number of samples that "
            "it was made with"
        )
    return noise_BN.expand(samples, -1).clone()


class RunFolder:
    """One run's files, held by one process at a time.

    Args:
        path: the folder; made if it is not there.
        new: whether it must hold nothing yet.

    Raises:
        RunFolderError: the folder cannot be made, holds something, or another process is working in
            it.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        self._saved = -float("inf")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path / ".lock")
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RunFolderError(
                f"{path} is in use by another process; wait for it or name another folder"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be made: {error.strerror}; name another folder"
            ) from error
        # Looked at once more under the lock: another process may have made the same folder
        # meanwhile.
        if new and any(file.name != ".lock" for file in path.iterdir()):
            self._lock.release()
            raise RunFolderError(f"{path} is in use; name another folder")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def save_config(self, config: RunConfig) -> None:
        """Write what rebuilds the run."""
        self.write("run.toml", tomli_w.dumps(config.dump()).encode())

    def write(self, name: str, data: bytes) -> None:
        """Write one file whole or not at all.

        Raises:
            RunError: the disk is full, or the folder may not be written.
        """
        try:
            write_file(self.path / name, data)
        except RunError as error:
            raise RunError(f"{error}; then go on: dno resume {self.path}") from error

    def save_state(self, state: LoopState, config: RunConfig, every: float = 0.0) -> None:
        """Save where to go on from, unless that was done less than `every` seconds ago."""
        if time.monotonic() - self._saved < every:
            return
        tensors = _tensors_of(state)
        self.save_history(state.history)
        about = {
            "iteration": state.iteration,
            "phase": state.phase,
            "steps": state.steps,
            "seconds": state.seconds,
            "failures": {str(row): why for row, why in state.failures.items()},
            "config": _decisive(config),
        }
        self._save_tensors("state.safetensors", tensors, about)
        self._saved = time.monotonic()

    def load_state(self, config: RunConfig, device: torch.device) -> LoopState | None:
        """What `save_state` saved last; None if the run never got so far.

        Raises:
            RunFolderError: the files are damaged, of another version, or of another configuration.
        """
        path = self.path / "state.safetensors"
        if not path.exists():
            return None
        about, tensors = self._read_state(path, device)
        history = self._read_history(about["iteration"])
        ours = _decisive(config)
        saved = about["config"]
        changed = [key for key in {**saved, **ours} if ours.get(key) != saved.get(key)]
        if changed:
            file = self.path / "run.toml"
            raise RunFolderError(
                f"{file} is not what the run began with ({', '.join(changed)} cannot change "
                f"midway); undo that, or start a new run: dno optimize --config {file}"
            )

        return _state_of(about, tensors, history)

    def _read_state(
        self, path: Path, device: torch.device
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                about: dict[str, Any] = json.loads(file.metadata()["dno"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            written = about["format"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(error) from error
        if written != _FORMAT:
            raise RunFolderError(
                f"{path} was written by another version of dno; resume it with that version"
            )
        return about, tensors

    def _read_history(self, iterations: int) -> list[StepRecord]:
        try:
            text = (self.path / "history.jsonl").read_text(encoding="utf-8")
            history = [StepRecord.from_json(line) for line in text.splitlines()[:iterations]]
            if len(history) != iterations:
                raise ValueError(f"history.jsonl has {len(history)} of {iterations} lines")
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        return history

    def _damaged(self, error: Exception) -> RunFolderError:
        reason = str(error).partition("\n")[0]
        return RunFolderError(
            f"{self.path / 'state.safetensors'} or history.jsonl is damaged ({reason}); start "
            f"afresh: dno optimize --config {self.path / 'run.toml'}"
        )

    def save_history(self, history: Sequence[StepRecord]) -> None:
        """Write all records."""
        self.write("history.jsonl", b"".join(record.to_json() + b"\n" for record in history))

    def save_outcome(self, outcome: Outcome, draws: Sequence[tuple[int, ...]]) -> None:
        """Write the samples, the noise, the whole history, and how it ended."""
        self.save_history(outcome.history)
        items = [{"prompt": prompt, "seed": seed} for prompt, seed in outcome.items]
        noise = {"initial": outcome.initial.noise_BN, "best": outcome.best.noise_BN}
        about = {"draws": [list(shape) for shape in draws], "items": items}
        self._save_tensors("noise.safetensors", noise, about)

        self.write("result.json", _as_json(outcome))
        snapshots = {"initial": outcome.initial, "best": outcome.best, "last": outcome.last}
        for name, snapshot in snapshots.items():
            self._save_samples(name, outcome.medium, snapshot.samples)

    def _save_samples(self, name: str, medium: Medium, samples: Tensor) -> None:
        """Each sample as a file, and a picture of all of them side by side where they have one."""
        files = encoded(medium, samples)
        alone = len(files) == 1
        for i, (ending, data) in enumerate(files):
            numbered = name if alone else f"{name}-{i}"
            self.write(f"{numbered}{ending}", data)

        row = thumbnails(medium, samples)
        if row and not (alone and files[0][0] == ".png"):
            self.write(f"{name}.png", png(side_by_side(row)))

    def _save_tensors(
        self, name: str, tensors: Mapping[str, Tensor], about: dict[str, Any]
    ) -> None:
        # Cloned, because safetensors refuses tensors that share memory, as initial and best do at
        # first.
        apart = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        # One entry, because safetensors writes several in random order, and equal runs should give
        # equal files.
        self.write(name, save(apart, {"dno": json.dumps({"format": _FORMAT, **about})}))


_SNAPSHOTS: Final = ("initial", "best", "coarse_best")
_MAYBE: Final = ("fine_BN", "repair_B")


def _tensors_of(state: LoopState) -> dict[str, Tensor]:
    """All tensors of a state by name."""
    tensors = {"noise": state.noise_BN}
    tensors |= {f"optimizer.{key}": value for key, value in state.optimizer.items()}
    tensors |= {f"constraints.{key}": value for key, value in state.constraints.items()}
    for name in _SNAPSHOTS:
        snapshot: Snapshot | None = getattr(state, name)
        if snapshot is not None:
            tensors |= {f"{name}.{key}": value for key, value in snapshot.tensors().items()}
    for name in _MAYBE:
        tensor: Tensor | None = getattr(state, name)
        if tensor is not None:
            tensors[name] = tensor
    return tensors


def _state_of(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], history: Sequence[StepRecord]
) -> LoopState:
    """The state that `_tensors_of` took apart."""

    def snapshot(name: str) -> Snapshot | None:
        found = under(f"{name}.", tensors)
        return Snapshot.of(found) if found else None

    return LoopState(
        iteration=about["iteration"],
        noise_BN=tensors["noise"],
        optimizer=under("optimizer.", tensors),
        constraints=under("constraints.", tensors),
        phase=about["phase"],
        steps=about["steps"],
        history=history,
        failures={int(row): why for row, why in about["failures"].items()},
        seconds=about["seconds"],
        initial=snapshot("initial"),
        best=snapshot("best"),
        coarse_best=snapshot("coarse_best"),
        fine_BN=tensors.get("fine_BN"),
        repair_B=tensors.get("repair_B"),
    )


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
    free = ("iterations", "budget", "observers", "device")
    return {key: value for key, value in config.dump().items() if key not in free}
