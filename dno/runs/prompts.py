"""Prompts as people have them: any text but for control characters, each told by its number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from dno.errors import ConfigError

_BREAKS: Final = "\t\r\n"
"""Control characters that part words, as a blank does."""


def prompt_texts(given: object) -> tuple[str, ...]:
    """Prompts, each on one line.

    Emoji and the joiners in them, marks of direction, soft hyphens and blanks of every width are
    text. Tabs and the ends of lines are blanks.

    Args:
        given: texts, in any kind of sequence.

    Raises:
        ConfigError: with the number of the prompt that is no text, is blank, or has a control
            character or half a character in it.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigError(f"should be text, or a list of texts, got {_kind(given)}")

    prompts = list(given)
    found = []
    for i, prompt in enumerate(prompts):
        who = f"prompt {i + 1} of {len(prompts)}" if len(prompts) > 1 else "the prompt"
        try:
            found.append(_one_line(who, prompt))
        except ConfigError as error:
            raise error.inside(str(i)) from None
    return tuple(found)


def _one_line(who: str, prompt: object) -> str:
    if not isinstance(prompt, str):
        raise ConfigError(f"{who} should be text, got {_kind(prompt)}")

    for i, character in enumerate(prompt):
        if character in _BREAKS:
            continue
        match unicodedata.category(character):
            case "Cc":
                what = f"the control character U+{ord(character):04X}"
            case "Cs":
                # What Python makes of bytes that are not UTF-8.
                what = f"half a character, the surrogate U+{ord(character):04X}"
            case _:
                continue
        raise ConfigError(f"{who} has {what} in it, as character {i + 1}; take it out")

    line = re.sub(f"[{_BREAKS}]+", " ", prompt.strip(_BREAKS))
    if not line.strip():
        raise ConfigError(f"{who} is blank; say what to draw")
    # Without what a subclass of str, such as numpy's, would add.
    return str(line)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
