"""What others may see of a run: its words without the folders of the machine that it ran on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dno.wording import LONGEST_MESSAGE, clean

_INSIDE: Final = r"[^\s/\\\"'`<>|:;,()\[\]{}=]"
# From the root, from a drive or from somebody's home; addresses on the web have a colon before.
_PATH: Final = re.compile(
    rf"(?<![\w:/\\.~-])(?:~{_INSIDE}*|[A-Za-z]:)?[/\\]+(?:{_INSIDE}+[/\\]+)*(?={_INSIDE})"
)
_WHOLE: Final = re.compile(r"~|/|\\\\|[A-Za-z]:[/\\]")


def without_paths(text: str, folders: Iterable[Path] = ()) -> str:
    """The text with no more of each absolute path than its last part.

    Args:
        text: a message, or a value.
        folders: known ones, which are found although their names may have blanks in them.
    """
    for folder in folders:
        if len(folder.parts) > 1:
            text = text.replace(f"{folder}/", "").replace(f"{folder}\\", "")
    return _PATH.sub("", text)


def shown(text: str, folders: Iterable[Path] = (), limit: int = LONGEST_MESSAGE) -> str:
    """Somebody's text for a page: no paths, nothing that could not be displayed, not endless."""
    told = clean(without_paths(text, folders))
    return told if len(told) <= limit else f"{told[:limit]} ... ({len(text):,} characters)"


def shown_value(value: Any) -> Any:
    """A value of a configuration with paths reduced to their last part, in lists and tables too."""
    if isinstance(value, Mapping):
        return {clean(str(key)): shown_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown_value(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if _WHOLE.match(value):
        return clean(re.split(r"[/\\]", value.rstrip("/\\"))[-1])
    return shown(value)


def folders_in(value: Any) -> Iterator[Path]:
    """The folders of all paths that a configuration names."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from folders_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from folders_in(inner)
    elif isinstance(value, str) and value.startswith("/"):
        yield Path(value).parent
