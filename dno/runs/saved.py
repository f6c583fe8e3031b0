"""What a run left in its folder, read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dno.core.result import Status, StepRecord
from dno.errors import ConfigError, RunFolderError
from dno.files import read_file
from dno.paths import user_path
from dno.runs.config_files import read_values
from dno.runs.history import read_records
from dno.wording import named, reason, short

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dno.runs.run_config import RunConfig

_ENDINGS = (".png", ".webp", ".wav")
_OBJECT = "python:"
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
    folder = user_path(path)
    config_file(folder)
    return SavedRun(folder)


def config_file(folder: Path) -> Path:
    """The `run.toml` of a run folder.

    Raises:
        RunFolderError: it is not there, so that this is not a run folder.
    """
    file = folder / "run.toml"
    if file.is_file():
        return file
    shown = named(folder)
    if (folder / ".lock").is_file():
        raise RunFolderError(
            f"{shown} holds no run yet: the one that was begun there was killed before it was "
            f"saved; begin it again: dno optimize ... --out {shown}"
        )
    raise RunFolderError(
        f"{shown} holds no run.toml, so it is not a run folder; name one, or a folder of runs in "
        "list_runs; without --out they are below runs/"
    )


def list_runs(folder: str | Path = "runs") -> list[SavedRun]:
    """The runs in a folder, by name; what else is there is passed over, links are not followed.

    Raises:
        RunFolderError: there is no such folder.
    """
    place = user_path(folder)
    if not place.is_dir():
        raise RunFolderError(f"there is no folder {named(place)}")
    return [
        SavedRun(path)
        for path in sorted(place.iterdir())
        if not path.is_symlink() and (path / "run.toml").is_file()
    ]


@dataclass(frozen=True)
class SavedRun:
    """A run folder that is read where asked; see `dno.runs.storage` for its files."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"SavedRun({str(self.path)!r}, {self.status or 'not ended'})"

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The configuration as `run.toml` holds it.

        Raises:
            RunFolderError: the file cannot be read.
        """
        try:
            return read_values(self.path / "run.toml")
        except ConfigError as error:
            raise RunFolderError(error.problem, source=error.source) from error

    @cached_property
    def config(self) -> RunConfig:
        """The configuration, with its plugins loaded.

        Raises:
            ConfigError: a plugin is not installed, or was a Python object.
        """
        from dno.runs.run_config import RunConfig, located

        values = located(self.values, self.path)
        return RunConfig.parse(values, {"": str(self.path / "run.toml")})

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
            return tuple(read_records(read_file(file)))
        except (OSError, ValueError) as error:
            why = reason(error)
            raise RunFolderError(
                f"{named(file)} is damaged, or was written by another version of dno: {why}"
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
            content: Mapping[str, Any] = json.loads(read_file(file))
            missing = [name for name in _TOLD if name not in content]
            if missing:
                raise ValueError(f"it does not hold {', '.join(missing)}")
            Status(content["status"])
        except (OSError, RecursionError, TypeError, ValueError) as error:
            raise RunFolderError(f"{named(file)} is damaged: {reason(error)}") from error
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
        if not isinstance(several, list) or not isinstance(numbers, list):
            raise RunFolderError(f"{named(self.path / 'run.toml')} names no prompts and seeds")
        return [(prompt, seed) for prompt in several for seed in numbers]

    @property
    def resumable(self) -> bool:
        """Whether `dno resume` can go on with it: not where parts of it were Python objects."""
        return not self._python_parts()

    def _python_parts(self) -> list[str]:
        """Components that were Python objects, which no file can hold."""

        from dno.runs.run_config import LIVE, is_live

        def within(value: object) -> list[str]:
            if isinstance(value, Mapping):
                found = [inner for item in value.values() for inner in within(item)]
                if is_live(value):
                    found.append(str(value[LIVE]))
                named_so = [value.get(key) for key in ("use", "model")]
                return found + [
                    name for name in named_so if isinstance(name, str) and name.startswith(_OBJECT)
                ]
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
                raise RunFolderError(f"{named(path)} is damaged: {reason(error)}") from error
        return opened

    def noise(self, name: str = "best") -> Tensor:
        """The `initial` or `best` noise, `B x N` float32.

        Raises:
            RunFolderError: the run has not ended, or the file is damaged.
        """
        from dno.runs.tensor_files import UnknownFormatError, unpack

        file = self.path / "noise.safetensors"
        try:
            _, tensors = unpack(file)
            return tensors[name]
        except UnknownFormatError as error:
            raise RunFolderError(f"{named(file)} {error}; use the dno that wrote it") from error
        except KeyError:
            why = f"it has {', '.join(sorted(tensors))}"
        except (OSError, ValueError) as error:
            why = reason(error)
        raise RunFolderError(f"{named(file)} holds no noise {short(name)}: {why}")
