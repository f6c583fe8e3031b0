"""The one place that all the command line's own output passes."""

from __future__ import annotations

import sys
from typing import Any, Final, TextIO

from dno.wording import clean, cut

_LONGEST_LINE: Final = 1200
"""Characters of a line on standard error, more than any message of ours has."""


def say(text: object = "", *, err: bool = False) -> None:
    """Print a line, or several, with nothing in them that a terminal would obey.

    Args:
        text: what to print; what the stream's encoding lacks is written as its escape.
        err: whether to print on standard error.
    """
    stream = sys.stderr if err else sys.stdout
    lines = str(text).split("\n")
    if err:
        lines = [line if len(line) <= _LONGEST_LINE else cut(line, _LONGEST_LINE) for line in lines]
    stream.write(f"{_encodable(clean(chr(10).join(lines)), stream)}\n")
    stream.flush()


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say_mistake(error: Any) -> None:
    """Print what the parser of the command line found wrong, with the command's usage."""
    import io

    text = io.StringIO()
    error.show(file=text)
    for line in text.getvalue().rstrip("\n").split("\n"):
        say(line if len(line) <= 400 else cut(line, 400), err=True)
