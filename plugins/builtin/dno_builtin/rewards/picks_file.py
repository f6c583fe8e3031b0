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
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from dno.plugin import ConfigError, RunError

VERSION: Final = 1
LARGEST: Final = 256 * 2**20
"""Bytes of a file that is still read."""
FARTHEST: Final = 1e6
"""Features are no farther from 0 than that: those of colours are below 100, and embeddings of
length 1."""

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

    Of a last line without a line break, which a writer that was killed did not write to its end,
    what is no whole line is passed over; one that only lacks its line break is a line like others.

    Args:
        path: the file.
        lines: how many of its lines to read, counted as `head -n` does; None for all.

    Raises:
        ConfigError: there is no such file, a line of it is damaged, or it has fewer lines.
    """
    return _parsed(_read(path), path, lines)


def count_lines(path: Path) -> int | None:
    """How many lines of a file `read_picks` reads, whatever they hold; None where there is no such
    file, or it cannot be read.
    """
    try:
        return len(_split(_read(path)).lines)
    except ConfigError:
        return None


def _parsed(data: bytes, path: Path, lines: int | None = None) -> Picks:
    split = _split(data)
    if split.rest and not (split.lines or _may_begin_a_file(split.rest)):
        raise _another(path)
    whole = split.lines
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


@dataclass(frozen=True)
class _Split:
    """The bytes of a file, as lines."""

    lines: list[bytes]
    """Whole ones; the last need not end in a line break."""
    rest: bytes
    """What follows them, which is no whole line."""
    broken: bool
    """Whether the last whole line ends in a line break, as it should; so where there is none."""


def _split(data: bytes) -> _Split:
    *lines, last = data.split(b"\n")
    if not last:
        return _Split(lines, b"", broken=True)
    # No beginning of a table is a table, so what is one was written to its end.
    if _is_table(last):
        return _Split([*lines, last], b"", broken=False)
    return _Split(lines, last, broken=True)


def _is_table(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _may_begin_a_file(rest: bytes) -> bool:
    """Whether a writer of any kind may have been killed just there in its first line."""
    begins = _json(Kind("", 0).line()).split(b'""')[0]
    return rest.startswith(begins) or begins.startswith(rest)


def add_pick(path: Path, kind: Kind, pick: Pick) -> None:
    """Add a pick to a file, which is made with its folder where it is not there.

    The line is written at once, and is on the disk when this returns.

    Raises:
        ConfigError: the file is damaged, is no file of picks, or holds picks of another kind.
        RunError: it cannot be written.
        ValueError: the pick's features are not what the file would be read with.
    """
    for row in (pick.chosen, *pick.others):
        if len(row) != kind.numbers or not all(map(_is_feature, row)):
            raise ValueError(
                f"a picture's features are {kind.numbers} finite numbers, of {FARTHEST:.0f} at most"
            )
    text = _json({"chosen": list(pick.chosen), "others": list(map(list, pick.others))})
    _append(path, text, kind)


def undo_pick(path: Path) -> None:
    """Take the last pick of a file back, by a line that says so.

    Raises:
        ConfigError: the file is missing or damaged, or no pick is left in it.
        RunError: it cannot be written.
    """
    _append(path, _json({"undo": True}), None)


def _append(path: Path, text: bytes, kind: Kind | None) -> None:
    """Add a line to a file.

    Args:
        path: the file.
        text: the line.
        kind: of its pick; None where it takes one back, for which the file is not made.
    """
    with _opened(path, new=kind is not None) as descriptor:
        # What is read is what is written to, and stays so while it is held.
        data = _bytes(descriptor, path)
        keep = data
        if kind is None or not _is_begun(data, kind):
            saved = _parsed(data, path)
            if kind is not None:
                same_kind(saved.kind, kind, path)
            elif not saved.picks:
                raise ConfigError(f'"{path}" holds no pick to take back', at="file")
            split = _split(data)
            # What a killed writer left of a line that was never a pick.
            keep = data.removesuffix(split.rest)
            text = text if split.broken else b"\n" + text
        else:
            keep = b""
            text = _json(kind.line()) + text
        try:
            os.ftruncate(descriptor, len(keep))
            _write(descriptor, text)
            os.fsync(descriptor)
        except OSError as error:
            # A full disk takes a part.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, len(keep))
            raise _unwritable(path, error) from error


def _is_begun(data: bytes, kind: Kind) -> bool:
    """Whether a file holds nothing yet but the beginning of its first line, or not even that."""
    head = _json(kind.line()).rstrip(b"\n")
    return data != head and head.startswith(data)


def _write(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


@contextlib.contextmanager
def _opened(path: Path, *, new: bool) -> Iterator[int]:
    """A file to be read and added to, held so that nobody else adds to it.

    Args:
        path: the file.
        new: whether it is made, with its folder, where it is not there.
    """
    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not new and not path.is_file():
        raise _missing(path)
    try:
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags | (os.O_CREAT if new else 0), 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    with os.fdopen(descriptor, "r+b", buffering=0), _held(descriptor):
        yield descriptor


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


def _read(path: Path) -> bytes:
    # A pipe might never end, and to open it might take as long.
    if not path.is_file():
        raise _missing(path)
    try:
        with path.open("rb", buffering=0) as file:
            return _bytes(file.fileno(), path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _bytes(descriptor: int, path: Path) -> bytes:
    """All bytes of a file that is open."""
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise _missing(path)
        if about.st_size > LARGEST:
            raise ConfigError(f'"{path}" is larger than {LARGEST // 2**20} MB', at="file")
        os.lseek(descriptor, 0, os.SEEK_SET)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from None


def _missing(path: Path) -> ConfigError:
    return ConfigError(f'there is no file "{path}"', at="file")


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f'"{path}" cannot be read: {error.strerror or error}', at="file")


def _another(path: Path) -> ConfigError:
    return ConfigError(f'"{path}" is no file of picks: its first line does not say so', at="file")


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
        raise _another(path)
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
        if abs(value) > FARTHEST:
            _damaged(path, number, f"{_shown(value)} is no feature, {FARTHEST:.0f} at most")
    return tuple(map(float, values))


def _is_feature(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= FARTHEST


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
