"""What libraries say went wrong."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that libraries add."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
