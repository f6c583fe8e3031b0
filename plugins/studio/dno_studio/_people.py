"""Who may use the page, where a password is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from dno.plugin import ConfigError

VARIABLE = "DNO_UI_AUTH"
"""Environment variable with one user:password."""
_FORM = "write user:password, one a line"


def people_of(file: Path | None) -> dict[str, str] | None:
    """Password of each user, of a file and the environment; None where neither names any.

    They are never taken from the command line, which everybody on a machine can read.

    Raises:
        ConfigError: the file cannot be read, or a line of it or the variable has another form.
    """
    people: dict[str, str] = {}
    told = os.environ.get(VARIABLE)
    if told is not None:
        _add(people, told, VARIABLE)
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(f'"{file}" cannot be read: {reason}', at="--auth-file") from None
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                _add(people, line, f'--auth-file: line {number} of "{file}"')
        if not people:
            raise ConfigError(f'"{file}" names nobody; {_FORM}', at="--auth-file")
    return people or None


def _add(people: dict[str, str], line: str, place: str) -> None:
    user, colon, password = line.strip().partition(":")
    # What is wrong is not shown: it may be a password.
    if not colon or not user or not password:
        raise ConfigError(f"has another form; {_FORM}", at=place)
    if user in people:
        raise ConfigError(f"names {user} a second time", at=place)
    people[user] = password
