"""Many prompts and seeds, each a run folder of its own, on models that are loaded once.

What is done, begun or new is told by the items' own files, so that the same command goes on where
it stopped, and several processes may work on one study: each takes what no other holds.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dno.errors import ConfigError, RunFolderError
from dno.files import write_file
from dno.runs.attempt import Attempt, Attempts, End
from dno.runs.earlier import names_there
from dno.runs.folders import slug
from dno.runs.groups import Group, groups_of, standings
from dno.runs.identity import digest_of, set_by
from dno.runs.keep import Keep
from dno.runs.lists import Row, configured
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.side_by_side import SideBySide
from dno.runs.standing import Standing

ITEMS: Final = "items"
"""Where a study keeps its run folders."""


@dataclass(frozen=True)
class Item:
    """One prompt and seed of a study."""

    name: str
    """Of its run folder, made of the prompt, a digest of the configuration, and the seed."""
    config: RunConfig
    place: str
    """Where it was asked for."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """What became of one item."""

    item: Item
    number: int
    of: int
    attempt: Attempt
    """The last one."""
    where: str = ""
    """The machine, where there are several."""


@dataclass
class Summary:
    """What became of all items that this process saw."""

    done: int = 0
    before: int = 0
    """Done before it began."""
    held: int = 0
    """Left to the processes that work on them."""
    failed: list[str] = field(default_factory=list)
    """Names."""
    interrupted: bool = False

    @property
    def seen(self) -> int:
        """Items of which it is known what became."""
        return self.done + self.before + len(self.failed)

    def count(self, item: Item, attempt: Attempt) -> None:
        """Add what came of the last attempt at an item."""
        match attempt.end:
            case End.DONE:
                self.done += 1
            case End.BEFORE:
                self.before += 1
            case End.HELD:
                self.held += 1
            case End.FAILED | End.WRONG:
                self.failed.append(item.name)
            case End.INTERRUPTED:
                self.interrupted = True

    def sentence(self, folder: Path) -> str:
        """What became of them, and where that is written."""
        parts = [f"{self.done} done"]
        if self.before:
            parts.append(f"{self.before} before")
        if self.held:
            parts.append(f"{self.held} left to another process")
        if self.failed:
            parts.append(f"{len(self.failed)} failed, see {folder / 'failed.jsonl'}")
        if self.interrupted:
            parts.append("interrupted; the same command goes on")
        return f"{', '.join(parts)}; table: {folder / 'items.csv'}"


def items_of(
    rows: Sequence[Row],
    seeds: Sequence[int],
    configure: Callable[[Row, int], RunConfig],
    study: Path | None = None,
) -> list[Item]:
    """Every row with every seed, or with its own where it has one.

    Args:
        rows: prompts, and what they set.
        seeds: for rows without one.
        configure: makes the configuration of one row and seed.
        study: the folder, whose items keep the names that they have there.

    Raises:
        ConfigError: a row sets what cannot be, with its place; or asks for an item twice.
    """
    items: list[Item] = []
    seen: dict[str, str] = {}
    for row in rows:
        own = row.options.get("seed")
        for seed in seeds if own is None else [own]:
            config = configured(row, seed, configure)
            name = _name(config)
            if name in seen:
                raise ConfigError(
                    f"asks for the prompt and seed of {seen[name]} once more; the same prompt "
                    "twice needs other seeds",
                    source=row.place,
                )
            seen[name] = row.place
            items.append(Item(name, config, row.place, row.labels))
    if study is None:
        return items
    there = names_there({item.name: item.config for item in items}, study / ITEMS)
    return [replace(item, name=there.get(item.name, item.name)) for item in items]


def _name(config: RunConfig) -> str:
    return f"{slug(config.prompts[0])}-{digest_of(config)}-s{config.seeds[0]}"


def _but_for_its_prompt(config: RunConfig) -> str:
    """What items that are run together have in common."""
    return json.dumps(set_by(config.dump(), "prompts", "seeds"), sort_keys=True)


def shard(items: Sequence[Item], part: tuple[int, int]) -> Sequence[Item]:
    """Part i of n, counted from 1: every nth item."""
    number, count = part
    return items[number - 1 :: count]


def carry_out(
    items: Sequence[Item],
    folder: Path,
    *,
    retries: int,
    keep: Keep = Keep.ALL,
    size: Callable[[RunConfig], int] | None = None,
    others: Sequence[Item] = (),
    page: Callable[[Path], object] = lambda path: None,
    tell: Callable[[Told], None],
) -> Summary:
    """Run what is neither done nor held by another process.

    Items that others held are looked at once more after the others: whoever held one may be gone.

    Args:
        items: what to run, in this order.
        folder: the study's.
        retries: how often an item that failed is tried again.
        keep: what is kept of an item that is done.
        size: how many items like one are run side by side, where they allow it; None: one by one.
        others: items of the study that are not to be run here, but where they were begun side by
            side with some that are.
        page: called with the folder of each that was.
        tell: hears of each item as it ends.
    """
    summary = Summary()
    attempts = Attempts(keep)
    together = SideBySide(
        configs={item.name: item.config for item in (*items, *others)},
        ours=[item.name for item in items],
        key=_but_for_its_prompt,
        size=size,
        study=folder,
        items=folder / ITEMS,
        attempts=attempts,
        retries=retries,
        page=page,
    )
    with together:
        _carry_out(items, folder, together, attempts, retries, tell, summary)
    return summary


def _carry_out(
    items: Sequence[Item],
    folder: Path,
    together: SideBySide,
    attempts: Attempts,
    retries: int,
    tell: Callable[[Told], None],
    summary: Summary,
) -> None:
    """Fill in what became of items as they end."""
    left = [*enumerate(items, start=1)]
    while left:
        held: list[tuple[int, Item]] = []
        for number, item in left:
            attempt = together.attempt(item.name)
            if attempt is None:
                attempt = _tried(item, folder / ITEMS / item.name, attempts, retries)
            if attempt.end is End.HELD:
                held.append((number, item))
                continue
            summary.count(item, attempt)
            if attempt.end not in (End.BEFORE, End.INTERRUPTED):
                tell(Told(item, number, len(items), attempt))
            if summary.interrupted:
                return
        if len(held) == len(left):
            break
        left = held
    summary.held = len(left)


def groups_among(items: Sequence[Item], size: Callable[[RunConfig], int]) -> list[Group]:
    """Items that may be run side by side, in groups of at most `size` of them."""
    configs = {item.name: item.config for item in items}
    return groups_of(configs, _but_for_its_prompt, size)


def _tried(item: Item, path: Path, attempts: Attempts, retries: int) -> Attempt:
    attempt = attempts.make(item.config, path)
    for _ in range(retries):
        if attempt.end is not End.FAILED:
            break
        attempt = attempts.make(item.config, path)
    return attempt


def table_of(items: Sequence[Item], folder: Path) -> list[dict[str, Any]]:
    """A row for each item, from its files alone."""
    configs = {item.name: item.config for item in items}
    how_far = standings(folder, folder / ITEMS, configs)
    return [_facts(item, folder / ITEMS / item.name, how_far[item.name]) for item in items]


def _facts(item: Item, path: Path, how_far: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {
        "item": item.name,
        "prompt": item.config.prompts[0],
        "seed": item.config.seeds[0],
        **{f"label.{name}": value for name, value in item.labels.items()},
        "standing": how_far.value,
    }
    try:
        found = SavedRun(path).result if (path / "result.json").exists() else None
    except RunFolderError:
        found = None
    if found is None:
        return row

    row["status"] = found["status"]
    row |= {name: found[name] for name in ("iterations", "seconds", "network_evaluations")}
    for group in ("rewards", "monitors", "log_p", "figures"):
        for name, values in found["initial"][group].items():
            key = name if group == "figures" else f"{group}.{name}"
            row[f"{key}.initial"] = values[0]
            row[f"{key}.best"] = found["best"][group][name][0]
    return row


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as CSV; what a row has not, and what is not finite, is left empty."""
    titles = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    for row in rows:
        writer.writerow([_cell(row.get(title)) for title in titles])
    write_file(path, text.getvalue().encode())


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value


def failures(told: Sequence[Told]) -> Iterator[str]:
    """A line of JSON for each item that failed."""
    for one in told:
        if one.attempt.error:
            content = {"item": one.item.name, "place": one.item.place, "error": one.attempt.error}
            yield json.dumps(content)
