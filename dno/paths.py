"""Paths as people name them, and what is wrong with one told in a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from dno.errors import ConfigError
from dno.wording import named, reason, short

_LONGEST_NAME: Final = 255
"""Bytes of a name that most file systems take, in folders too that are yet to be made."""
_TOO_LONG: Final = "the name is too long; name a shorter one"
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR)


def user_path(given: str | os.PathLike[str], *, at: str = "", source: str = "") -> Path:
    """A path that somebody named, with `~` expanded; nothing need be there.

    Args:
        given: the path.
        at: its place in a configuration, for messages.
        source: the option that it was given to, for messages.

    Raises:
        ConfigError: it cannot be a path here: a name that is too long, `~` of nobody, a folder
            above it that may not be entered, a name that is not UTF-8 and so no file can hold.
    """
    try:
        text = os.fspath(given)
    except TypeError:
        problem = f"should be a path, got {short(given)}"
        raise ConfigError(problem, at=at, source=source) from None
    try:
        problem = _problem(text)
        if not problem:
            return Path(text).expanduser()
    except RuntimeError:
        user = named(Path(text).parts[0].removeprefix("~"), 40)
        problem = f'there is no user "{user}" here; write the path in full'
    raise ConfigError(f'"{named(text)}" cannot be used: {problem}', at=at, source=source)


def _problem(text: str) -> str:
    """Why nothing can be at a path; empty where something could."""
    if "\0" in text:
        return "it holds the character NUL; name another"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if any(len(name.encode()) > _LONGEST_NAME for name in Path(text).parts):
        return _TOO_LONG
    try:
        Path(text).expanduser().stat()
    except OSError as error:
        if error.errno in _NOT_THERE:
            return ""
        if error.errno == errno.ENAMETOOLONG:
            return _TOO_LONG
        if error.errno in (errno.EACCES, errno.EPERM):
            return "a folder above it may not be entered; ask its owner, or name another"
        if error.errno == errno.ELOOP:
            return "its links lead in a circle; mend them, or name another"
        return reason(error)
    return ""


def absolute(path: Path, base: Path) -> Path:
    """The path from the root, where a relative one starts at `base`."""
    whole = base / path
    # What is above a link is not what is above the folder that it leads to.
    return whole.resolve() if ".." in whole.parts else whole


def current_folder() -> Path:
    """Where relative paths start.

    Raises:
        ConfigError: it was removed.
    """
    try:
        return Path.cwd()
    except OSError:
        raise ConfigError("the current folder is gone; change to one that is there") from None
