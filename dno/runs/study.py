"""A study's folder: what was asked for, its items, its table, and what failed.

study/batch.toml  items/<prompt>-<digest>-s<seed>/  items.csv  items.parquet  failed.jsonl
      side_by_side.toml  where it was decided how many items are run so
      together/<digest>/  while items run side by side
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import tomli_w

from dno.errors import RunFolderError
from dno.files import write_file
from dno.runs.actor import ABOUT
from dno.runs.batch import (
    ITEMS,
    Item,
    Summary,
    Told,
    carry_out,
    failures,
    shard,
    table_of,
    write_table,
)
from dno.runs.batch_size import batch_sizes
from dno.runs.cluster import Cluster, check_together
from dno.runs.earlier import check_defaults
from dno.runs.groups import TOGETHER, folders_together, groups_begun
from dno.runs.keep import Keep, forecast, size, thin
from dno.runs.parquet import write_parquet
from dno.runs.run_config import RunConfig
from dno.runs.standing import Standing, standing


def run_study(
    items: Sequence[Item],
    folder: Path,
    *,
    part: tuple[int, int] = (1, 1),
    retries: int = 1,
    cluster: Cluster | None = None,
    keep: Keep = Keep.ALL,
    size: int | Literal["auto"] = 1,
    page: Callable[[Path], object] = lambda path: None,
    tell: Callable[[Told], None] = lambda told: None,
    say: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Run what is left of a study, and write its table.

    Args:
        items: all of the study's, whatever part of them is run.
        folder: made if it is not there.
        part: i of n, counted from 1.
        retries: how often an item that failed is tried again.
        cluster: of Ray, whose workers run the items; None runs them here.
        keep: what is kept of an item that is done.
        size: how many items are run side by side, where they differ in prompt or seed alone;
            "auto": as many as there is memory for, see `dno.runs.batch_size`.
        page: called with the folder of each that was.
        tell: hears of each item as it ends.
        say: hears what there is to know of the whole.

    Raises:
        ConfigError: items there were made with defaults that have changed since; or Ray is not
            installed, its machines cannot work on this study, or items are to be run side by side
            there, or it cannot be told how many fit.
        RunError: Ray cannot be reached.
        RunFolderError: the folder cannot be made or written.
    """
    check_defaults([*_begun_together(items, folder), *_begun_alone(items, folder)])
    if cluster is not None:
        check_together(size, cluster)
        cluster.check()
    try:
        (folder / ITEMS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made: {error.strerror}; name another") from None
    _note(items, folder)

    many = _size_of(size, items, folder, say)
    ended: list[Told] = []
    ours = shard(items, part)
    names = {item.name for item in ours}
    others = [item for item in items if item.name not in names]
    _tell_of_groups(items, folder, size=many, alone=cluster is not None, say=say)

    def listen(told: Told) -> None:
        tell(told)
        left = len(ours) - told.number
        if not ended and left and not told.attempt.error:
            say(_forecast(told, folder, left))
        ended.append(told)

    try:
        if cluster is None:
            summary = carry_out(
                ours,
                folder,
                retries=retries,
                keep=keep,
                size=many,
                others=others,
                page=page,
                tell=listen,
            )
        else:
            from dno.runs.spread import carry_out_on_ray

            summary = carry_out_on_ray(
                ours, folder, cluster=cluster, retries=retries, keep=keep, tell=listen, say=say
            )
    except KeyboardInterrupt:
        # Between two items, say: what was reached until then is in the tables all the same.
        _write_tables(items, ended, folder)
        raise
    if keep is Keep.BEST:
        # A process that was killed may not have come to it.
        for item in items:
            path = folder / ITEMS / item.name
            if standing(path) is Standing.DONE:
                thin(path)
    _write_tables(items, ended, folder)
    return summary


def _begun_alone(items: Sequence[Item], folder: Path) -> Iterator[tuple[Path, RunConfig]]:
    """Where each item's run is, if it has one, and its configuration."""
    yield from ((folder / ITEMS / item.name, item.config) for item in items)


def _begun_together(items: Sequence[Item], folder: Path) -> Iterator[tuple[Path, RunConfig]]:
    """Where runs of several items are, and their configurations."""
    groups = groups_begun(folder, {item.name: item.config for item in items})
    yield from ((folder / TOGETHER / group.folder, group.config) for group in groups)


def _size_of(
    size: int | Literal["auto"], items: Sequence[Item], folder: Path, say: Callable[[str], None]
) -> Callable[[RunConfig], int] | None:
    """How many items like one are run side by side; None where all are run alone."""
    if size == "auto":
        return batch_sizes(items, folder, say)
    return None if size == 1 else lambda config: size


def _tell_of_groups(
    items: Sequence[Item],
    folder: Path,
    *,
    size: Callable[[RunConfig], int] | None,
    alone: bool,
    say: Callable[[str], None],
) -> None:
    """Say what becomes of groups that were begun side by side."""
    there = folders_together(folder)
    if not there:
        return
    known = groups_begun(folder, {item.name: item.config for item in items})
    others = len(there) - len(known)
    if others:
        what = "a group" if others == 1 else f"{others} groups"
        say(
            f"{what} in {folder / TOGETHER} is of items that are not asked for: left there for the "
            "command that began it"
        )
    count = sum(len(group.names) for group in known)
    if known and alone:
        say(f"{count} items were begun side by side; workers of Ray begin them anew, one by one")
    elif any(len(group.names) > (size(group.configs[0]) if size else 1) for group in known):
        say(f"{count} items were begun side by side, and are gone on with as they were")


def _write_tables(items: Sequence[Item], ended: Sequence[Told], folder: Path) -> None:
    """What each item reached, and what failed."""
    rows = table_of(items, folder)
    write_table(rows, folder / "items.csv")
    write_parquet(rows, folder / "items.parquet")
    _note_failures(ended, folder)


def _forecast(told: Told, folder: Path, left: int) -> str:
    """How much of the disk the study will take, by the first item that ended."""
    each = size(folder / ITEMS / told.item.name)
    return forecast(each, left, shutil.disk_usage(folder).free)


def _note(items: Sequence[Item], folder: Path) -> None:
    """What the study consists of, for whoever finds the folder."""
    listed = [{"item": item.name, "place": item.place} for item in items]
    content = {"items": len(items), "asked": listed}
    write_file(folder / ABOUT, tomli_w.dumps(content).encode())


def _note_failures(ended: Sequence[Told], folder: Path) -> None:
    """Failures of this process behind those that are there; items that are done by now go."""
    file = folder / "failed.jsonl"
    before = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {one.item.name for one in ended}
    kept = [line for line in before if not any(f'"item": "{name}"' in line for name in done)]
    lines = [*kept, *failures(ended)]
    if lines or before:
        write_file(file, "".join(f"{line}\n" for line in lines).encode())
