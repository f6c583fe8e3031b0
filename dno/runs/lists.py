"""Lists of prompts as people have them: a line each, tables, and the files of known benchmarks."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dno.errors import ConfigError
from dno.runs.prompts import prompt_texts
from dno.runs.run_config import RunConfig
from dno.runs.shorthands import known_options
from dno.runs.spellings import parse_value
from dno.wording import reason

PROMPT: Final = ("prompt", "prompts", "text", "caption")
"""What columns of prompts are called, in any case: the second in DrawBench, the last in COCO."""
ENDINGS: Final = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")
_GREATEST: Final = 200_000_000
"""Bytes above which a file is no list of prompts."""


@dataclass(frozen=True)
class Row:
    """One prompt of a list, and what its row sets."""

    prompt: str
    place: str
    """Where it stands, for messages: `prompts.csv, row 3`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options by name, such as `steps`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Anything else by its dotted place, such as `rewards.0.weight`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Columns that set nothing, such as a category."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, by its ending.

    `.txt` has a prompt a line. `.csv`, `.tsv` and `.parquet` have a column of prompts, and so have
    the objects of `.jsonl` and `.json`, which may also be a list of prompts alone or a table of
    columns. A column that is called as an option is set it; one with a dot, such as
    `optimizer.step`, sets that place; others are labels.

    Raises:
        ConfigError: there is no such file, it is no such list, or a row has no prompt.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(
            f"is no list of prompts; give a file of one of the kinds {', '.join(ENDINGS)}",
            source=str(path),
        )
    if ending == ".parquet":
        _check_file(path)
        return rows_of(_parquet(path), path.name)
    return rows_of(_RECORDS[ending](_text(path), str(path)), path.name)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError("there is no such file", source=str(path))
    if path.stat().st_size > _GREATEST:
        raise ConfigError("is too large for a list of prompts", source=str(path))


def _text(path: Path) -> str:
    """The text of a file as any editor saves it: UTF-8, whatever its lines end with."""
    _check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {reason(error)}", source=str(path)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"line {line} is no UTF-8 text, its byte 0x{data[error.start]:02x} is none of it; save "
            "the list as UTF-8",
            source=str(path),
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file for one run, which has the same options for all of them.

    Any ending that `read_rows` does not know means a prompt a line.

    Raises:
        ConfigError: there is no such file, a line of it is no prompt, or a row sets an option.
    """
    if path.suffix.lower() in ENDINGS:
        rows = read_rows(path)
    else:
        rows = rows_of(_lines(_text(path), str(path)), path.name)

    prompts: list[str] = []
    for row in rows:
        set_by_it = [*row.options, *row.settings]
        if set_by_it:
            raise ConfigError(
                f"sets {', '.join(set_by_it)}, and a run has one value for all prompts; dno batch "
                "takes such a list",
                source=row.place,
            )
        try:
            prompts.extend(prompt_texts([row.prompt]))
        except ConfigError as error:
            raise ConfigError(error.problem, source=row.place) from None
    return prompts


def rows_from(prompts: Any) -> list[Row]:
    """The rows of what Python has at hand.

    Args:
        prompts: the path of a file; a list of prompts, or of tables with a prompt each; a table of
            columns; or a data frame (anything with `to_dict`).

    Raises:
        ConfigError: it is none of these, or a row has no prompt.
    """
    if isinstance(prompts, Path) or (isinstance(prompts, str) and prompts.endswith(ENDINGS)):
        return read_rows(Path(prompts))
    if hasattr(prompts, "to_dict"):
        prompts = prompts.to_dict(orient="list")
    if isinstance(prompts, Mapping):
        prompts = list(by_columns(prompts, "prompts"))
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ConfigError(
            "should be a list of prompts, a table of columns, a data frame, or the path of a file",
            source="prompts",
        )
    records = [(f"entry {number}", entry) for number, entry in enumerate(prompts, start=1)]
    return rows_of(records, "prompts")


def rows_of(records: Sequence[tuple[str, Any]], name: str) -> list[Row]:
    """Rows from prompts or tables, each with the place where it stands.

    Raises:
        ConfigError: there is none, or one has no prompt.
    """
    rows = [_row(record, f"{name}, {place}") for place, record in records]
    if not rows:
        raise ConfigError("holds no prompt", source=name)
    return rows


def configured(row: Row, seed: int, configure: Callable[[Row, int], RunConfig]) -> RunConfig:
    """The configuration of one row and seed.

    Raises:
        ConfigError: it cannot be; with the row's place, where the row's prompt is no prompt, or the
            row sets anything by itself.
    """
    try:
        return configure(row, seed)
    except ConfigError as error:
        if error.at.split(".")[0] == "prompts":
            raise ConfigError(error.problem, source=row.place) from None
        if not row.options and not row.settings:
            raise
        where = ": ".join(part for part in (error.source, error.at) if part)
        raise ConfigError(f"{where}: {error.problem}", source=row.place) from None


def _row(record: Any, place: str) -> Row:
    if isinstance(record, str):
        return Row(record.strip(), place)
    if not isinstance(record, Mapping):
        raise ConfigError("is neither a prompt nor a table with one", source=place)

    columns = {str(name).strip(): value for name, value in record.items()}
    prompts = [name for name in columns if name.lower() in PROMPT]
    if not prompts:
        raise ConfigError(
            f"has no column of prompts; call it {PROMPT[0]}; there are {', '.join(columns)[:200]}",
            source=place,
        )
    prompt = columns.pop(prompts[0])
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError("has no prompt", source=place)
    return _with_columns(prompt.strip(), columns, place)


def _with_columns(prompt: str, columns: Mapping[str, Any], place: str) -> Row:
    """A row whose columns are told apart: options, settings, labels."""
    known = known_options(command_line=False)
    fields = RunConfig.model_fields
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for name, value in columns.items():
        head, dot, _ = name.partition(".")
        if value is None or value == "":
            continue
        if name in known:
            options[name] = _read(value)
        elif dot and head in fields:
            settings[name] = _read(value)
        elif dot:
            near = difflib.get_close_matches(head, list(fields), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"the column {name!r} leads to no option; {hint}columns that set nothing must have "
                "no dot in their name",
                source=place,
            )
        else:
            labels[name] = str(value)
    return Row(prompt, place, options, settings, labels)


def _read(value: Any) -> Any:
    """A cell as a configuration has it: text of a table as TOML would read it."""
    return parse_value(value) if isinstance(value, str) else value


Records = list[tuple[str, Any]]


def _lines(text: str, source: str) -> Records:
    lines = enumerate(text.splitlines(), start=1)
    return [(f"line {number}", line) for number, line in lines if line.strip()]


def _table(text: str, source: str, delimiter: str) -> Records:
    # Cells may hold line breaks, so that rows are counted and not lines.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: Records = []
    try:
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise ConfigError(f"row {number} has more cells than the heading", source=source)
            found.append((f"row {number}", row))
    except csv.Error as error:
        number = len(found) + 1
        raise ConfigError(f"row {number} is no row of a table: {error}", source=source) from None
    return found


def _comma(text: str, source: str) -> Records:
    return _table(text, source, ",")


def _tab(text: str, source: str) -> Records:
    return _table(text, source, "\t")


def _json_lines(text: str, source: str) -> Records:
    return [(place, _json(line, f"{source}, {place}")) for place, line in _lines(text, source)]


def _json_list(text: str, source: str) -> Records:
    found = _json(text, source)
    if isinstance(found, Mapping):
        found = list(by_columns(found, source))
    if not isinstance(found, list):
        raise ConfigError("should hold a list of prompts, or of tables with one", source=source)
    return [(f"entry {number}", entry) for number, entry in enumerate(found, start=1)]


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is no JSON: {error}", source=source) from None


def by_columns(columns: Mapping[str, Any], source: str) -> Iterator[dict[str, Any]]:
    """Rows from a table of columns, all equally long.

    Raises:
        ConfigError: they are not.
    """
    lengths = {len(column) for column in columns.values() if isinstance(column, (list, tuple))}
    if len(lengths) != 1 or not all(isinstance(c, (list, tuple)) for c in columns.values()):
        raise ConfigError("should hold columns that are equally long lists", source=source)
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _parquet(path: Path) -> Records:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(
            'needs pyarrow to be read; try: pip install "dno[parquet]"', source=str(path)
        ) from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise ConfigError(f"is no Parquet file: {error}", source=str(path)) from None
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


_RECORDS: Final = {
    ".txt": _lines,
    ".csv": _comma,
    ".tsv": _tab,
    ".json": _json_list,
    ".jsonl": _json_lines,
}
