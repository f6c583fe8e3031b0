"""What people wrote into fields, if it can be carried out."""

from __future__ import annotations

from collections.abc import Sequence

from dno.plugin import ConfigError

LONGEST_PROMPT = 2000


def prompt_of(given: str) -> str:
    """A prompt.

    Raises:
        ConfigError: it is empty, or too long.
    """
    if not given.strip():
        raise ConfigError("write what to draw", at="prompt")
    if len(given) > LONGEST_PROMPT:
        raise ConfigError(f"at most {LONGEST_PROMPT} characters", at="prompt")
    return given


def model_of(given: str, models: Sequence[str]) -> str:
    """A model of those that are offered.

    Raises:
        ConfigError: it is none of them.
    """
    if given not in models:
        raise ConfigError("choose one of the list", at="model")
    return given


def number_of(name: str, given: float | None, least: int, most: int) -> int:
    """A whole number in a range.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(given, int | float) or not least <= given <= most:
        raise ConfigError(f"a whole number from {least} to {most}", at=name)
    return int(given)
