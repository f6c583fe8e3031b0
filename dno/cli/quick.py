"""What each of our Typer apps is made with, so that no command waits for what it does not need."""

from __future__ import annotations

from typing import Any, Final

QUICK: Final[dict[str, Any]] = {
    # Rich takes a tenth of a second to import, for help and for tracebacks alike.
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
