"""What others wrote, made fit to be shown: names, values and messages that are not ours.

A model's folder, a run that somebody sent, a server or a plugin may hold anything: sequences that
a terminal obeys, text that reads backwards, values of a thousand pages.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Final

LONGEST: Final = 200
"""Characters of somebody else's value that a message shows."""
LONGEST_MESSAGE: Final = 1000
"""Characters of a whole message."""

# Controls of both sets (lines and tabs apart), line and paragraph separators, what overrides or
# embeds the direction of writing, annotations, and halves of characters. Marks of direction and
# joiners stay: languages and emoji need them.
_UNSHOWN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]"
)
_LARGEST_SHOWN: Final = 10**60


def clean(text: str) -> str:
    r"""The text with each character that a terminal would obey as its escape, such as `\x1b`."""
    return _UNSHOWN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cut(text: str, limit: int = LONGEST) -> str:
    """The text on one line, without what is in its middle where it is longer than `limit`."""
    # Of a long text, no more is looked at than can be shown.
    if len(text) > 4 * limit:
        text = f"{text[: 2 * limit]} {text[-2 * limit :]}"
        line = " ".join(text.split())
        return _without_middle(line, limit, must=True)
    return _without_middle(" ".join(text.split()), limit)


def _without_middle(line: str, limit: int, *, must: bool = False) -> str:
    if len(line) <= limit and not must:
        return line
    tail = limit // 4
    head = max(limit - tail - 5, 1)
    return f"{line[:head]} ... {line[-tail:]}"


def message(text: str) -> str:
    """A whole message, clean, its middle left out where it is longer than any of ours."""
    if len(text) > 4 * LONGEST_MESSAGE:
        text = f"{text[: 2 * LONGEST_MESSAGE]}{text[-2 * LONGEST_MESSAGE :]}"
    return _without_middle(clean(text), LONGEST_MESSAGE)


class _Short(reprlib.Repr):
    """As `repr`, but of large values only as much as tells what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = LONGEST
        self.maxother = LONGEST
        self.maxlong = 60

    def repr1(self, x: object, level: int) -> str:
        """The representation of one value."""
        shape = getattr(x, "shape", None)
        if shape is not None and not isinstance(x, type) and hasattr(x, "dtype"):
            size = "x".join(map(str, shape)) or "no dimensions"
            return f"<{type(x).__name__} of {size}>"
        if isinstance(x, int) and abs(x) > _LARGEST_SHOWN:
            # Python itself refuses to write out the largest.
            return f"<a whole number of {x.bit_length()} bits>"
        return super().repr1(x, level)


def short(value: object, limit: int = LONGEST) -> str:
    """A value of somebody else's as `repr` shows it, clean, on one line, at most about `limit`
    long.
    """
    try:
        shown = _Short().repr(value)
        sized = isinstance(value, (str, list, tuple, set, Mapping))
        many = len(value) if sized else 0  # type: ignore[arg-type]
    # Whatever it is, its own code runs here.
    except Exception:
        return f"<{type(value).__name__}>"
    told = clean(cut(shown, limit))
    if isinstance(value, str) and many > limit:
        return f"{told} ({many:,} characters)"
    if not isinstance(value, str) and many > 6:
        return f"{told} ({many:,} in all)"
    return told


def named(text: object, limit: int = LONGEST) -> str:
    """Text of somebody else's, such as a path, clean and on one line of at most `limit`."""
    return clean(cut(str(text), limit))


def said(error: BaseException, limit: int = LONGEST) -> str:
    """What an error says, clean, on one line of at most `limit`; its type where it says nothing."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return named(text, limit) or type(error).__name__


def reason(error: BaseException) -> str:
    """As `said`; of an error of the system only what went wrong, for whoever names the file."""
    if isinstance(error, OSError) and error.strerror:
        return named(error.strerror)
    return said(error)
