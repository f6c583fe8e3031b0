"""What people write for an option, read as what a configuration holds.

Functions that read an option get what was given, and what is at its place so far.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

from dno.errors import ConfigError
from dno.wording import short

_MOST_SEEDS = 1_000_000


def parse_value(text: str) -> Any:
    """A command-line value as TOML would read it; text that is not a TOML value is itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    # A number of too many digits and a list in lists without end are no TOML either.
    except (ValueError, KeyError, RecursionError):
        return text


def parse_settings(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """The places and values of `PLACE=VALUE` texts.

    Raises:
        ConfigError: a text has another form.
    """
    settings = []
    for text in texts:
        place, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"needs the form PLACE=VALUE, got {short(text)}", source="--set")
        settings.append((place.strip(), parse_value(value)))
    return settings


def parse_seeds(text: str, source: str) -> list[int]:
    """`0..7`, `0,3,5` or both together as numbers; the end of a range belongs to it.

    Raises:
        ConfigError: it has another form, or names a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,20})\s*(?:\.\.\s*(\d{1,20})\s*)?", part)
        if found is None:
            raise ConfigError(f"needs seeds such as 0..7 or 0,3,5; got {text!r}", source=source)
        first = int(found[1])
        last = int(found[2] or first)
        if last < first or last - first >= _MOST_SEEDS:
            raise ConfigError(
                f"the range {part.strip()} holds no seeds, or too many", source=source
            )
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"names a seed twice: {text!r}", source=source)
    return seeds


def parse_size(size: object, source: str) -> int | Literal["auto"]:
    """A number of items side by side, or the word `auto`.

    Raises:
        ConfigError: it is neither.
    """
    if size == "auto":
        return "auto"
    number = parse_value(size) if isinstance(size, str) else size
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ConfigError(
            f"must be auto, or a whole number of at least 1, got {short(size)}", source=source
        )
    return int(number)


def parse_part(text: str | None, source: str) -> tuple[int, int]:
    """`2/8` as part 2 of 8; the whole where nothing is given.

    Raises:
        ConfigError: it has another form, or there is no such part.
    """
    if text is None:
        return 1, 1
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(
            f"needs part i of n, counted from 1, such as 2/8; got {text!r}", source=source
        )
    return int(found[1]), int(found[2])


def grids(value: Any, before: Any) -> Any:
    """`10`, `10,25`, `auto` or `none` as numbers of steps, or the word."""
    if not isinstance(value, str) or value == "auto":
        return value
    if value == "none":
        return []
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdigit() for part in parts):
        raise ConfigError(
            f"needs numbers of steps such as 10 or 10,25, or auto, or none; got {short(value)}"
        )
    return [int(part) for part in parts]


def named_or_none(value: Any, before: Any) -> Any:
    """Names, where `none` stands for no plugin at all."""
    return [name for name in value if name != "none"]


def number_or_word(value: Any, before: object) -> Any:
    """What may be a number or `auto`."""
    return parse_value(value) if isinstance(value, str) else value


def weighted(texts: Sequence[str], before: object) -> list[dict[str, Any]]:
    """Each `NAME` or `NAME=WEIGHT` as a table."""
    tables = []
    for text in texts:
        name, equals, weight = text.partition("=")
        table: dict[str, Any] = {"use": name}
        if equals:
            table["weight"] = parse_value(weight)
        tables.append(table)
    return tables


def weighted_or_none(texts: Sequence[str], before: object) -> list[dict[str, Any]]:
    """As `weighted`; the word `none` stands for no plugin."""
    return weighted([text for text in texts if text != "none"], before)


def warm_start_table(text: str, before: object) -> dict[str, Any]:
    """`best-of-8` or `NAME=COUNT` as a table: a number at the end stands for the n of a name."""
    match = re.fullmatch(r"(?P<name>.+)=(?P<count>\d+)|(?P<stem>.+-)(?P<n>\d+)", str(text))
    if match is None:
        raise ConfigError(f"needs the form best-of-8 or NAME=COUNT, got {short(text)}")
    if match["stem"]:
        return {"optimizer": {"use": f"{match['stem']}n"}, "iterations": int(match["n"])}
    return {"optimizer": {"use": match["name"]}, "iterations": int(match["count"])}


def first_seed(seed: object, before: object) -> list[int]:
    """The seeds of a run of one sample per prompt."""
    return [_whole(seed, least=0)]


def seeds_from_the_first(count: object, seeds: Any) -> list[int]:
    """So many seeds, counted on from the first of those at the place so far.

    Raises:
        ConfigError: it is no such number; `auto` is none, since what a run draws is not for a
            machine's memory to decide.
    """
    if count == "auto":
        raise ConfigError(
            "is how many samples are drawn, which should not depend on what memory is free; give a "
            "number (dno plan ... --batch auto tells how many fit), or run a list of prompts and "
            "seeds, side by side as they fit: dno batch FILE --batch auto"
        )
    count = _whole(parse_value(count) if isinstance(count, str) else count, least=1)
    try:
        first = _whole(listed(seeds)[0], least=0)
    except ConfigError as error:
        raise error.inside("seeds") from None
    return [first + index for index in range(count)]


def listed(seeds: Any) -> list[Any]:
    """Seeds as a list: a file may have one by itself."""
    if isinstance(seeds, (list, tuple)) and seeds:
        return list(seeds)
    return [seeds]


def _whole(value: object, *, least: int) -> int:
    if not isinstance(value, Integral) or value < least:
        raise ConfigError(f"must be a whole number of at least {least}, got {short(value)}")
    return int(value)
