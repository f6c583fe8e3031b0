"""What libraries warn of while they load, heard in silence, so that it can be told once."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Final

from dno.registry.loading import quiet, telling_line

_LIBRARIES: Final = ("diffusers", "transformers", "peft")

_NOISE: Final = re.compile(
    "|".join(
        (
            # Of LoRA weights, each part that a file has nothing for; whether all of the file was
            # used is checked.
            "No LoRA keys associated to",
            "Already found a `peft_config` attribute",
            "Adapter cat.*active adapters",
            # No safety checker ever runs here; the documentation says so.
            "disabled the safety checker",
            "unauthenticated requests to the HF Hub",
            # Advice to those who write programs.
            "deprecated",
            "will be removed in",
            "`torch_dtype` is",
            "new embeddings will be initialized",
            "requires torchvision",
            r"kept in float32: \[\]",
            "low_cpu_mem_usage",
            "accelerate",
            "xFormers",
            "flash.attention",
            "`resume_download`",
            "fast image processor",
            "slow (image )?processor",
            "has no attribute `hf_device_map`",
            "add_prefix_space",
        )
    ),
    re.IGNORECASE,
)
"""What tells a user nothing about the weights that run."""

_STATUSES: Final = {
    "MISSING": "are MISSING in the files",
    "MISMATCH": "have other shapes in the files",
    "UNEXPECTED": "of the files have no place in the model",
}
"""Words of transformers' tables, and what they mean."""

# What is heard belongs to one load at a time: filters of warnings are the whole process's.
_lock = threading.RLock()


@contextlib.contextmanager
def hearing() -> Iterator[list[str]]:
    """As `quiet`; gives a list that has, once it is left, a line for each telling warning.

    Warnings that are not about what was loaded are left out, and each is heard once. One thread
    hears at a time, and others wait.
    """
    heard: list[str] = []
    with _lock, quiet(), contextlib.ExitStack() as undo:
        caught = undo.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        ear = _Ear()
        for library in _LIBRARIES:
            undo.enter_context(_listening(logging.getLogger(library), ear))
        try:
            yield heard
        finally:
            said = [*ear.said, *(str(warning.message) for warning in caught)]
            heard.extend(_telling(said))


class _Ear(logging.Handler):
    """Keeps what a library logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # A library's broken message is not the end of a load.
        with contextlib.suppress(Exception):
            self.said.append(record.getMessage())


@contextlib.contextmanager
def _listening(logger: logging.Logger, ear: logging.Handler) -> Iterator[None]:
    """A logger that tells one handler alone, and from warnings on."""
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers = [ear]
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def _telling(said: list[str]) -> Iterator[str]:
    known = set()
    for message in said:
        if _NOISE.search(message):
            continue
        for line in _lines(message):
            if line and line not in known:
                known.add(line)
                yield line


def _lines(message: str) -> list[str]:
    """What a message tells: a line, or the rows of a table of what a file lacks and has besides."""
    if "LOAD REPORT" not in message:
        return [telling_line(message)]

    found = []
    for status, meaning in _STATUSES.items():
        rows = []
        for line in message.splitlines():
            name, bar, rest = line.partition("|")
            if bar and status in rest:
                rows.append(name.strip())
        if rows:
            some = ", ".join(rows[:3])
            if len(rows) > 3:
                some += ", ..."
            found.append(telling_line(f"{len(rows)} weights {meaning}: {some}"))
    return found
