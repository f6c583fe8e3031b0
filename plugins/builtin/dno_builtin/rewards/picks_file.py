"""Files of picks: which of some pictures somebody liked best, a line a pick.

The first line says what the numbers are, each other line is a pick or takes one back:

    {"dno": "picks", "version": 1, "features": "colours", "numbers": 41}
    {"chosen": [0.1, ...], "others": [[0.3, ...], [0.2, ...], [0.0, ...]]}
    {"undo": true}

Lines are only ever added, so that the first lines of a file mean the same for ever.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from dno.plugin import ConfigError, RunError

VERSION: Final = 1
LARGEST: Final = 256 * 2**20
"""Bytes of a file that is still read."""

Numbers = tuple[float, ...]
"""Features of one picture."""


@dataclass(frozen=True)
class Kind:
    """What the numbers of a file are features of."""

    features: str
    """What computes them: colours or clip."""
    numbers: int
    """How many a picture has."""
    probe: Numbers = ()
    """Of a model: its features of a picture that is always the same, by which it is known again."""

    def line(self) -> dict[str, Any]:
        """What the first line of a file holds."""
        told: dict[str, Any] = {
            "dno": "picks",
            "version": VERSION,
            "features": self.features,
            "numbers": self.numbers,
        }
        return told | ({"probe": list(self.probe)} if self.probe else {})


@dataclass(frozen=True)
class Pick:
    """The features of the picture that was liked best, and of those beside it."""

    chosen: Numbers
    others: tuple[Numbers, ...]


@dataclass(frozen=True)
class Picks:
    """What a file holds."""

    kind: Kind
    picks: tuple[Pick, ...]
    """Those that nobody took back, in order."""
    lines: int
    """How many lines were read, the first among them."""


def read_picks(path: Path, lines: int | None = None) -> Picks:
    """All picks of a file, or those of its first lines.

    A last line without a line break is one that a writer that was killed did not write to its end,
    and is passed over.

    Args:
        path: the file.
        lines: how many of its lines to read, counted as `head -n` does; None for all.

    Raises:
        ConfigError: there is no such file, a line of it is damaged, or it has fewer lines.
    """
    whole = _lines(path)
    if lines is not None and len(whole) < lines:
        raise ConfigError(
            f'"{path}" has {len(whole)} lines, and {lines} are asked for; it is not the file that '
            "it was, or leave `lines` out",
            at="lines",
        )
    read = whole[:lines]
    if not read:
        raise ConfigError(f'"{path}" holds no picks: it is empty', at="file")

    kind = _kind(read[0], path)
    picks: list[Pick] = []
    for number, line in enumerate(read[1:], 2):
        values = _object(line, path, number)
        if values.get("undo") is True:
            if not picks:
                _damaged(path, number, "it takes a pick back, and none is left before it")
            picks.pop()
            continue
        picks.append(_pick(values, kind, path, number))
    return Picks(kind, tuple(picks), len(read))


def add_pick(path: Path, kind: Kind, pick: Pick) -> None:
    """Add a pick to a file, which is made with its folder where it is not there.

    The line is written at once, and is on the disk when this returns.

    Raises:
        ConfigError: the file is damaged, or holds picks of another kind.
        RunError: it cannot be written.
    """
    _add(path, kind, {"chosen": list(pick.chosen), "others": list(map(list, pick.others))})


def undo_pick(path: Path) -> None:
    """Take the last pick of a file back, by a line that says so.

    Raises:
        ConfigError: the file is damaged, or no pick is left in it.
        RunError: it cannot be written.
    """
    saved = read_picks(path)
    if not saved.picks:
        raise ConfigError(f'"{path}" holds no pick to take back', at="file")
    _add(path, saved.kind, {"undo": True})


def _add(path: Path, kind: Kind, values: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    with os.fdopen(descriptor, "r+b", buffering=0) as file, _held(descriptor):
        there = _whole_bytes(path)
        text = _json(values)
        if there:
            same_kind(read_picks(path).kind, kind, path)
        else:
            text = _json(kind.line()) + text
        try:
            # What a killed writer left of a line that was never a pick.
            os.ftruncate(descriptor, len(there))
            file.write(text)
            os.fsync(descriptor)
        except OSError as error:
            # A full disk takes a part.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, len(there))
            raise _unwritable(path, error) from error


def same_kind(found: Kind, wanted: Kind, path: Path) -> None:
    """Raise `ConfigError` where a file's numbers are of another kind than those that are wanted."""
    if found.features != wanted.features:
        raise ConfigError(
            f'"{path}" holds features "{found.features}", not "{wanted.features}"; ask for '
            f'features = "{found.features}", or name another file',
            at="features",
        )
    if found.numbers != wanted.numbers:
        raise ConfigError(
            f'"{path}" holds {found.numbers} features of each picture, and there should be '
            f"{wanted.numbers}; {_other(found)}",
            at="model" if found.probe else "file",
        )
    if wanted.probe and _apart(found.probe, wanted.probe) > _APART:
        raise ConfigError(
            f'"{path}" holds features of another model than this one; {_other(found)}', at="model"
        )


_APART: Final = 0.1
"""Farther apart than that, as a share of their length, features of one picture are of two models;
those that one model computes in bfloat16 and in float32 are within it."""


def _other(found: Kind) -> str:
    return "name the model that it was made with" if found.probe else "name another file"


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other):
        return math.inf
    return math.dist(one, other) / max(math.hypot(*other), 1e-12)


def _whole_bytes(path: Path) -> bytes:
    """The file up to its last line break."""
    if not path.is_file():
        raise ConfigError(f'there is no file "{path}"', at="file")
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f'"{path}" is larger than {LARGEST // 2**20} MB', at="file")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f'"{path}" cannot be read: {error.strerror or error}', at="file"
        ) from None
    return data[: data.rfind(b"\n") + 1]


def _lines(path: Path) -> list[bytes]:
    return _whole_bytes(path).split(b"\n")[:-1]


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line, parse_constant=_no_number)
    # Lists in lists without end are no JSON either.
    except (ValueError, RecursionError):
        _damaged(path, number, "it is no JSON")
    if not isinstance(values, dict):
        _damaged(path, number, "it is no table")
    return values


def _kind(line: bytes, path: Path) -> Kind:
    try:
        values = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("dno") != "picks":
        raise ConfigError(
            f'"{path}" is no file of picks: its first line does not say so', at="file"
        )
    if values.get("version") != VERSION:
        raise ConfigError(
            f'"{path}" is of version {_shown(values.get("version"))}, and this dno reads version '
            f"{VERSION}; use the dno that wrote it",
            at="file",
        )
    features = values.get("features")
    numbers = values.get("numbers")
    if not isinstance(features, str) or type(numbers) is not int or numbers < 1:
        _damaged(path, 1, "it names no features, or not how many numbers they are")
    probe = values.get("probe", [])
    return Kind(features, numbers, _numbers(probe, numbers, path, 1) if probe else ())


def _pick(values: dict[str, Any], kind: Kind, path: Path, number: int) -> Pick:
    others = values.get("others")
    if "chosen" not in values or not isinstance(others, list) or not others:
        _damaged(path, number, "it says neither what was chosen and what was not, nor undo")
    chosen = _numbers(values["chosen"], kind.numbers, path, number)
    beside = tuple(_numbers(other, kind.numbers, path, number) for other in others)
    return Pick(chosen, beside)


def _numbers(values: Any, count: int, path: Path, number: int) -> Numbers:
    if not isinstance(values, list) or len(values) != count:
        _damaged(path, number, f"it should have {count} numbers for each picture")
    for value in values:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not _finite(value):
            _damaged(path, number, f"{_shown(value)} is no finite number")
    return tuple(map(float, values))


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _damaged(path: Path, number: int, why: str) -> NoReturn:
    raise ConfigError(f'line {number} of "{path}" is damaged: {why}', at="file")


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


def _shown(value: object) -> str:
    return re.sub(r"[^ -~]", "?", repr(value))[:40]


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f'"{path}" cannot be written: {error.strerror or error}')


@contextlib.contextmanager
def _held(descriptor: int) -> Iterator[None]:
    """Keep other writers out, where the system can; closing the file lets them in."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    # On some network drives nothing can be locked.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
