"""Other libraries' errors, in few words."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its class's name where it says nothing."""
    words = str(error).strip() or type(error).__name__
    return words.splitlines()[0]
