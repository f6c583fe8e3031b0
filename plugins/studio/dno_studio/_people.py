"""Who may use the page, where a password is asked for."""

from __future__ import annotations

import logging
import os
import shlex
import stat
from pathlib import Path

from dno.plugin import ConfigError

VARIABLE = "DNO_UI_AUTH"
"""Environment variable with one user:password."""
_FORM = "write user:password"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_log = logging.getLogger("dno")


def people_of(file: Path | None) -> dict[str, str] | None:
    """Password of each user, of a file and the environment; None where neither names any.

    They are never taken from the command line, which everybody on a machine can read; of a file
    that others may read or write, the log warns. Blanks around a user and around a password, a
    byte-order mark and lines that begin with # mean nothing.

    Raises:
        ConfigError: the file cannot be read, or a line of it or the variable has another form.
    """
    people: dict[str, str] = {}
    told = os.environ.get(VARIABLE)
    if told is not None:
        _add(people, told, VARIABLE)
    if file is not None:
        try:
            # With the mark that Windows' editors begin a file with, or without.
            lines = file.read_text("utf-8-sig").splitlines()
            mode = file.stat().st_mode
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(f'"{file}" cannot be read: {reason}', at="--auth-file") from None
        _warn_of(file, mode)
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                _add(people, line, f'--auth-file: line {number} of "{file}"')
        if not people:
            raise ConfigError(f'"{file}" names nobody; {_FORM}, one a line', at="--auth-file")
    return people or None


def _warn_of(file: Path, mode: int) -> None:
    """Say that others on this machine can read a file, where modes mean something."""
    if os.name == "posix" and mode & _OTHERS:
        _log.warning(
            'others on this machine may read or change "%s", with the passwords in it; '
            "keep it to yourself: chmod 600 %s",
            file,
            shlex.quote(str(file)),
        )


def _add(people: dict[str, str], line: str, place: str) -> None:
    user, colon, password = line.partition(":")
    user = user.strip()
    password = password.strip()
    # What is wrong is not shown: it may be a password.
    if not colon or not user or not password:
        raise ConfigError(f"has another form; {_FORM}", at=place)
    if user in people:
        raise ConfigError(f"names {user} a second time", at=place)
    people[user] = password
