"""A run folder: every file written whole or not at all, nothing overwritten, enough to resume to
the same bits.

run.toml            rebuilds the run: `dno optimize --config run.toml` history.jsonl       a
StepRecord a line initial.png best.png last.png   the pictures; of several samples side by side, and
each alone in best-0.png, ... result.json         how it ended and what it cost: status, reason,
iterations, seconds, evaluations, memory noise.safetensors   `initial` and `best`, B x N float32;
metadata `dno` (JSON) holds each draw's shape state.safetensors   where to go on from
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dno.core.engine import LoopState
from dno.core.result import Result, Snapshot, StepRecord
from dno.errors import ConfigError, RunError, RunFolderError
from dno.media import pictures
from dno.runs.run_config import RunConfig

_FORMAT = "1"


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

    Raises: ConfigError: it is not there, cannot be read, or was made for other draws or another
        number of samples.
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

    Raises: RunFolderError: the folder cannot be made, holds something, or another process is
        working in it.
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
        path, part = self.path / name, self.path / f".{name}.part"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RunError(
                f"{path} cannot be written: {error.strerror}; then go on: dno resume {self.path}"
            ) from error

    def save_state(self, state: LoopState, config: RunConfig, every: float = 0.0) -> None:
        """Save where to go on from, unless that was done less than `every` seconds ago."""
        if time.monotonic() - self._saved < every:
            return
        tensors = {
            "noise": state.noise_BN,
            **{f"optimizer.{k}": v for k, v in state.optimizer.items()},
        }
        for name, snapshot in (("initial", state.initial), ("best", state.best)):
            tensors |= {f"{name}.{key}": value for key, value in snapshot.tensors().items()}
        self.save_history(state.history)
        about = {
            "iteration": state.iteration,
            "seconds": state.seconds,
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
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                about = json.loads(file.metadata()["dno"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            lines = (
                (self.path / "history.jsonl")
                .read_text(encoding="utf-8")
                .splitlines()[: about["iteration"]]
            )
            history = [StepRecord.from_json(line) for line in lines]
            if len(history) != about["iteration"]:
                raise ValueError(f"history.jsonl has {len(history)} of {about['iteration']} lines")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise RunFolderError(
                f"{path} or history.jsonl is damaged ({reason}); start afresh: "
                f"dno optimize --config {self.path / 'run.toml'}"
            ) from error
        if about["format"] != _FORMAT:
            raise RunFolderError(
                f"{path} was written by another version of dno; resume it with that version"
            )
        ours, saved = _decisive(config), about["config"]
        if changed := [key for key in {**saved, **ours} if ours.get(key) != saved.get(key)]:
            raise RunFolderError(
                f"{self.path / 'run.toml'} is not what the run began with ({', '.join(changed)} "
                "cannot change midway); "
                f"undo that, or start a new run: dno optimize --config {self.path / 'run.toml'}"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                k.removeprefix(prefix): value
                for k, value in tensors.items()
                if k.startswith(prefix)
            }

        return LoopState(
            iteration=about["iteration"],
            noise_BN=tensors["noise"],
            optimizer=under("optimizer."),
            initial=Snapshot.of(under("initial.")),
            best=Snapshot.of(under("best.")),
            history=history,
            seconds=about["seconds"],
        )

    def save_history(self, history: Sequence[StepRecord]) -> None:
        """Write all records."""
        self.write("history.jsonl", b"".join(record.to_json() + b"\n" for record in history))

    def save_result(self, result: Result, draws: Sequence[tuple[int, ...]]) -> None:
        """Write the pictures, the noise and the whole history."""
        self.save_history(result.history)
        items = [{"prompt": prompt, "seed": seed} for prompt, seed in result.items]
        noise = {"initial": result.initial.noise_BN, "best": result.best.noise_BN}
        self._save_tensors(
            "noise.safetensors", noise, {"draws": [list(shape) for shape in draws], "items": items}
        )
        ended = {"status": result.status, "reason": result.reason, "error": str(result.error or "")}
        self.write("result.json", json.dumps({**ended, **result.meter()}, indent=2).encode())
        for name in ("initial", "best", "last"):
            self._save_pictures(name, getattr(result, name).samples)

    def _save_pictures(self, name: str, samples: Tensor) -> None:
        if samples.dim() != 4 or samples.shape[1] != 3:
            return  # not images: their noise is saved all the same
        alone = pictures(samples)
        row = Image.new("RGB", (sum(p.width for p in alone), alone[0].height))
        for position, picture in enumerate(alone):
            row.paste(picture, (position * picture.width, 0))
        files = {
            f"{name}.png": row,
            **{f"{name}-{i}.png": p for i, p in enumerate(alone) if len(alone) > 1},
        }
        for file, picture in files.items():
            data = io.BytesIO()
            picture.save(data, "PNG")
            self.write(file, data.getvalue())

    def _save_tensors(
        self, name: str, tensors: Mapping[str, Tensor], about: dict[str, Any]
    ) -> None:
        # Cloned, because safetensors refuses tensors that share memory, as initial and best do at
        # first.
        apart = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        # One entry, because safetensors writes several in random order, and equal runs should give
        # equal files.
        self.write(name, save(apart, {"dno": json.dumps({"format": _FORMAT, **about})}))


def _decisive(config: RunConfig) -> dict[str, Any]:
    """What a run may not change midway."""
    return {
        k: v
        for k, v in config.dump().items()
        if k not in ("iterations", "budget", "observers", "device")
    }
