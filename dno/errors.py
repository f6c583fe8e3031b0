"""What can go wrong, told in one sentence each: what was given, what is wrong, how to mend it."""

from __future__ import annotations

from functools import partial
from typing import Any

from dno.wording import message


class DNOError(Exception):
    """Base of every error that this package raises on purpose.

    Its text can be shown on any terminal, whatever names and values it was made of.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(message(str(text)))


class ConfigError(DNOError, ValueError):
    """The request itself is wrong; nothing was run.

    Args:
        problem: what was given, what is wrong with it and how to mend it, as one sentence.
        at: dotted place of the value in a run configuration, such as `rewards.0.weight`.
        source: where that value came from: a file name or a command-line option.
    """

    def __init__(self, problem: str, *, at: str = "", source: str = "") -> None:
        self.problem = message(problem)
        self.at = message(at)
        self.source = message(source)
        # In Python an option may be called as its place is.
        where = dict.fromkeys((self.source, self.at))
        super().__init__(": ".join(part for part in (*where, self.problem) if part))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.problem, at=self.at, source=self.source), ()

    def inside(self, place: str, source: str = "") -> ConfigError:
        """The same error, seen from the configuration that holds this one at `place`."""
        at = ".".join(part for part in (place, self.at) if part)
        return type(self)(self.problem, at=at, source=source or self.source)


class UnknownPluginError(ConfigError, LookupError):
    """No installed plugin has that name, or more than one has."""


class PluginLoadError(ConfigError, ImportError):
    """An installed plugin could not be imported, or is not what its entry point says."""


class RunFolderError(ConfigError, OSError):
    """A run folder is in use, incomplete, or cannot be written."""


class RunError(DNOError, RuntimeError):
    """A run cannot go on: a wrong shape, a value that is not finite, a full disk."""
