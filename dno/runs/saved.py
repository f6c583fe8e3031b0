"""What a run left in its folder, read back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dno.core.result import Status, StepRecord
from dno.errors import RunFolderError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dno.runs.run_config import RunConfig

_ENDINGS = (".png", ".webp", ".wav")
_TOLD = ("status", "reason", "failures", "climbed", "initial", "best", "last", "peak_memory")
"""What every result.json holds, and readers rely on."""


def open_run(path: str | Path) -> SavedRun:
    """A run by its folder.

        >>> run = dno.open_run("runs/cat")  # doctest: +SKIP
        >>> run.columns()["rewards.brightness"][-1]  # doctest: +SKIP

    Nothing is imported for tensors until they are asked for.

    Raises:
        RunFolderError: it is not a run folder.
    """
    folder = Path(path).expanduser()
    if not (folder / "run.toml").is_file():
        raise RunFolderError(
            f"{folder} holds no run.toml, so it is not a run folder; name one, or a folder of runs "
            "in list_runs"
        )
    return SavedRun(folder)


def list_runs(folder: str | Path = "runs") -> list[SavedRun]:
    """The runs in a folder, by name; what else is there is passed over, links are not followed.

    Raises:
        RunFolderError: there is no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise RunFolderError(f"there is no folder {place}")
    return [
        SavedRun(path)
        for path in sorted(place.iterdir())
        if not path.is_symlink() and (path / "run.toml").is_file()
    ]


@dataclass(frozen=True)
class SavedRun:
    """A run folder that is read where asked; see `dno.runs.storage` for its files."""

    path: Path

    def __repr__(self) -> str:
        return f"SavedRun({str(self.path)!r}, {self.status or 'not ended'})"

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The configuration as `run.toml` holds it.

        Raises:
            RunFolderError: the file cannot be read.
        """
        file = self.path / "run.toml"
        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{file} cannot be read: {error}") from error

    @cached_property
    def config(self) -> RunConfig:
        """The configuration, with its plugins loaded.

        Raises:
            ConfigError: a plugin is not installed, or was a Python object.
        """
        from dno.runs.run_config import RunConfig

        return RunConfig.parse(self.values, {"": str(self.path / "run.toml")})

    @cached_property
    def history(self) -> Sequence[StepRecord]:
        """A record per iteration so far.

        Raises:
            RunFolderError: the file is damaged, or another version of dno wrote it.
        """
        file = self.path / "history.jsonl"
        if not file.is_file():
            return ()
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            return tuple(StepRecord.from_json(line) for line in lines)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise RunFolderError(
                f"{file} is damaged, or was written by another version of dno: {reason}"
            ) from error

    def columns(self) -> dict[str, list[Any]]:
        """The history by columns: a value per record, or B of them.

        Names are those of `StepRecord`, with a dot before those of rewards and the like:
        `iteration`, `seconds`, `rewards.brightness`, `log_p.permutation`.
        """
        columns: dict[str, list[Any]] = {}
        for record in self.history:
            for name, value in vars(record).items():
                if isinstance(value, Mapping):
                    for key, inner in value.items():
                        columns.setdefault(f"{name}.{key}", []).append(inner)
                else:
                    columns.setdefault(name, []).append(value)
        return columns

    @cached_property
    def result(self) -> Mapping[str, Any]:
        """What `result.json` holds: how it ended, what it reached and cost; empty before the end.

        Raises:
            RunFolderError: the file is damaged.
        """
        file = self.path / "result.json"
        if not file.is_file():
            return {}
        try:
            content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            missing = [name for name in _TOLD if name not in content]
            if missing:
                raise ValueError(f"it does not hold {', '.join(missing)}")
            Status(content["status"])
        except (OSError, TypeError, ValueError) as error:
            raise RunFolderError(f"{file} is damaged: {error}") from error
        return content

    @property
    def status(self) -> Status | None:
        """How the run ended; None where it has not, or was killed."""
        said = self.result.get("status")
        return Status(said) if said else None

    @property
    def items(self) -> Sequence[tuple[str, int]]:
        """(prompt, seed) of each sample.

        Raises:
            RunFolderError: `run.toml` is damaged.
        """
        prompts = self.values.get("prompts")
        seeds = self.values.get("seeds", [0])
        if not prompts:
            raise RunFolderError(f"{self.path / 'run.toml'} names no prompts")
        # A file that somebody wrote may have one in place of a list of one.
        several = [prompts] if isinstance(prompts, str) else prompts
        numbers = [seeds] if isinstance(seeds, int) else seeds
        return [(prompt, seed) for prompt in several for seed in numbers]

    @property
    def resumable(self) -> bool:
        """Whether `dno resume` can go on with it: not where parts of it were Python objects."""
        return not self._python_parts()

    def _python_parts(self) -> list[str]:
        """Components that were Python objects, which no file can hold."""

        def within(value: object) -> list[str]:
            if isinstance(value, Mapping):
                found = [inner for item in value.values() for inner in within(item)]
                use = value.get("use")
                return (
                    [*found, use] if isinstance(use, str) and use.startswith("python:") else found
                )
            if isinstance(value, list):
                return [inner for item in value for inner in within(item)]
            return []

        return within(self.values)

    def files(self, name: str = "best") -> list[Path]:
        """The files of the `initial`, `best` or `last` samples, one per sample, in order."""
        numbered = [
            path
            for ending in _ENDINGS
            for path in self.path.glob(f"{name}-*{ending}")
            if path.stem.removeprefix(f"{name}-").isdigit()
        ]
        if numbered:
            return sorted(numbered, key=lambda path: int(path.stem.rpartition("-")[2]))
        alone = [self.path / f"{name}{ending}" for ending in reversed(_ENDINGS)]
        return [path for path in alone if path.is_file()][:1]

    def pictures(self, name: str = "best") -> list[Image]:
        """The pictures among those files.

        Raises:
            RunFolderError: a file is damaged.
        """
        from PIL import Image

        files = [path for path in self.files(name) if path.suffix == ".png"]
        opened = []
        for path in files:
            try:
                with Image.open(path) as picture:
                    opened.append(picture.convert("RGB"))
            except OSError as error:
                raise RunFolderError(f"{path} is damaged: {error}") from error
        return opened

    def noise(self, name: str = "best") -> Tensor:
        """The `initial` or `best` noise, `B x N` float32.

        Raises:
            RunFolderError: the run has not ended, or the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        file = self.path / "noise.safetensors"
        try:
            with safe_open(file, "pt") as opened:
                tensor: Tensor = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise RunFolderError(f"{file} holds no noise {name!r}: {error}") from error
        return tensor
