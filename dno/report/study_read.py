"""What was read of a study for its page: each item, how far it is, and why one failed."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from dno.core.result import Status
from dno.errors import DNOError, RunFolderError
from dno.files import read_file
from dno.paths import current_folder
from dno.report.private import folders_in
from dno.runs.ended import EndedItem, items_of_run
from dno.runs.groups import folders_together, names_in
from dno.runs.saved import SavedRun
from dno.wording import named, said

ITEMS: Final = "items"
_READ: Final = 5_000
"""Items that are read, at most."""
_LARGEST_FILE: Final = 2**26
"""Bytes of `batch.toml` and `failed.jsonl` that are read."""
_DONE: Final = (Status.FINISHED, Status.STOPPED, Status.PARTIAL)


class Stage(StrEnum):
    """How far an item is."""

    DONE = "done"
    FAILED = "failed"
    BEGUN = "begun, not ended"
    NEW = "not begun"


@dataclass(frozen=True)
class Member:
    """One item of a study."""

    name: str
    """Of its folder."""
    stage: Stage
    run: SavedRun
    prompt: str = ""
    seed: str = ""
    ended: Sequence[EndedItem] = ()
    """What it reached, sample by sample, where it is done."""
    why: str = ""
    """It failed."""


@dataclass(frozen=True)
class StudyRead:
    """All of a study, or an even choice of its items where there are very many."""

    folder: Path
    total: int
    """Items in all."""
    members: Sequence[Member]
    private: Sequence[Path]
    """Folders whose names are not shown, the longest first."""

    @property
    def name(self) -> str:
        """What its folder is called."""
        return self.folder.resolve().name


def is_study(folder: Path) -> bool:
    """Whether a folder is one that `dno batch` fills, and no run."""
    items = folder / ITEMS
    return not (folder / "run.toml").is_file() and items.is_dir() and not items.is_symlink()


def read_study(folder: Path) -> StudyRead:
    """Read a study's folder.

    Raises:
        RunFolderError: it is no study.
    """
    if not is_study(folder):
        raise RunFolderError(f"{named(folder)} is no study; name a folder that `dno batch` filled")
    try:
        inside = {entry.name for entry in (folder / ITEMS).iterdir() if _is_own_folder(entry)}
    except OSError as error:
        raise RunFolderError(f"{named(folder)} cannot be read: {error.strerror}") from None
    asked = _asked(folder)
    names = list(dict.fromkeys([*asked, *sorted(inside)]))
    chosen = evenly(names, _READ)
    failed = _failed(folder)
    together = {name for group in folders_together(folder) for name in names_in(group)}
    members = [
        _member(folder / ITEMS / name, failed.get(name, ""), begun=name in together)
        for name in chosen
    ]
    return StudyRead(folder, len(names), members, _private(folder, members))


def evenly(values: Sequence[Any], count: int) -> Sequence[Any]:
    """At most so many of them, at equal distances, both ends among them."""
    if len(values) <= count:
        return values
    if count < 2:
        return values[:count]
    last = len(values) - 1
    return [values[round(i * last / (count - 1))] for i in range(count)]


def _is_own_folder(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir()


def _asked(folder: Path) -> list[str]:
    """The names of the items that the last command asked for; none where that is not known."""
    try:
        content = tomllib.loads(read_file(folder / "batch.toml", _LARGEST_FILE).decode())
    except (OSError, RecursionError, ValueError):
        return []
    listed = content.get("asked")
    rows = listed if isinstance(listed, list) else []
    names = [str(row.get("item", "")) for row in rows if isinstance(row, Mapping)]
    # Somebody may have written there what leads out of the study.
    return [name for name in names if _is_name(name) and not (folder / ITEMS / name).is_symlink()]


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _failed(folder: Path) -> dict[str, str]:
    """Why items failed, by name, as `failed.jsonl` has it."""
    try:
        text = read_file(folder / "failed.jsonl", _LARGEST_FILE).decode(errors="replace")
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("item"), str):
                found[row["item"]] = str(row.get("error", ""))
    return found


def _member(path: Path, why: str, *, begun: bool) -> Member:
    """An item; one without a run folder of its own may be begun beside others."""
    run = SavedRun(path)
    if not (path / "run.toml").is_file():
        stage = Stage.BEGUN if begun else Stage.NEW
        return Member(path.name, Stage.FAILED if why else stage, run, why=why)
    try:
        prompt, seed = _first(run)
        status = run.status
        ended = list(items_of_run(run)) if status in _DONE else []
    except (DNOError, IndexError) as error:
        return Member(path.name, Stage.FAILED, run, why=said(error, 400))
    if ended:
        return Member(path.name, Stage.DONE, run, prompt, seed, ended)
    told = _told_failure(run.result) or why
    if status is Status.FAILED or status in _DONE or why:
        return Member(path.name, Stage.FAILED, run, prompt, seed, why=told or "it does not say why")
    return Member(path.name, Stage.BEGUN, run, prompt, seed)


def _first(run: SavedRun) -> tuple[str, str]:
    """Prompt and seed of an item's first sample.

    Raises:
        RunFolderError: its `run.toml` names none, or what is none.
    """
    for prompt, seed in run.items:
        if not isinstance(prompt, str) or not isinstance(seed, int):
            raise RunFolderError("its run.toml names no prompts and seeds")
    prompt, seed = run.items[0]
    return prompt, str(seed)


def _told_failure(result: Mapping[str, Any]) -> str:
    failures = result.get("failures")
    reasons = list(failures.values()) if isinstance(failures, Mapping) else []
    return "; ".join(str(one) for one in [result.get("error"), *reasons[:3]] if one)


def _private(folder: Path, members: Sequence[Member]) -> Sequence[Path]:
    found = {folder.resolve().parent, folder.absolute().parent}
    found |= {folder.resolve(), folder.absolute()}
    # The items of a study differ little in the folders that they name.
    for member in members[:20]:
        with contextlib.suppress(DNOError):
            settings = {key: one for key, one in member.run.values.items() if key != "prompts"}
            found |= set(folders_in(settings))
    with contextlib.suppress(DNOError, RuntimeError):
        found |= {current_folder(), Path.home()}
    return sorted(found, key=lambda one: -len(str(one)))
