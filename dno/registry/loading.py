"""What plugins need to load models: silence, one telling line, and no network where none may be."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from dno.wording import clean

_lock = threading.Lock()
_inside: list[int] = []
"""The thread of each one who is inside."""
_undo: ExitStack | None = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or progress bars from diffusers and transformers.

    It may be entered again inside, and by several threads at once: the first to enter silences, and
    the last to leave gives back what there was.
    """
    global _undo
    me = threading.get_ident()
    with _lock:
        if not _inside:
            _undo = _silence()
        _inside.append(me)
    try:
        yield
    finally:
        with _lock:
            _inside.remove(me)
            if not _inside:
                assert _undo is not None
                _undo.close()


def _forked() -> None:
    """In a child process, where no thread goes on but the one that forked."""
    global _lock
    _lock = threading.Lock()
    me = threading.get_ident()
    others = [thread for thread in _inside if thread != me]
    for thread in others:
        _inside.remove(thread)
    if others and not _inside and _undo is not None:
        _undo.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _silence() -> ExitStack:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    undo = ExitStack()
    undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    for library in libraries:
        undo.callback(library.set_verbosity, library.get_verbosity())
        if library.is_progress_bar_enabled():
            undo.callback(library.enable_progress_bar)
        library.set_verbosity_error()
        library.disable_progress_bar()
    return undo


_LONGEST_LINE: Final = 240
"""Characters of what somebody else says that are passed on."""

_TELLS_NOTHING: Final = re.compile(
    "|".join(
        (
            # Advice that would run the code of a pickle.
            r"weights_only",
            r"arbitrary code execution",
            r"trust_remote_code",
            r"open an issue",
            r"/issues/new",
            # What a table of a library says around its rows.
            r"^[-=+|\s]*$",
            r"^Traceback \(most recent",
            r"^Error\(s\) in loading state_dict for",
            r"LOAD REPORT",
            r"^Key +\|",
        )
    )
)
"""Lines and sentences that do not say what is wrong, or should not be followed."""

_VALUES: Final = re.compile(r"(?:Parameter containing:\s*)?\btensor\(\[?.*", re.DOTALL)
"""A tensor's numbers, to the end of the message."""


_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: BaseException) -> str:
    """The first telling line of what an error says, or its type where it says nothing.

    Leads such as "Error(s) in loading state_dict for X:" are passed over, advice to load pickles
    without `weights_only` and the numbers of tensors are left out, and a long line is cut.
    """
    return clean(telling_line(str(error))) or type(error).__name__


def telling_line(message: str) -> str:
    """The first telling line of a message, see `first_line`; empty where there is none."""
    said = _VALUES.sub("(a tensor)", _COLOURS.sub("", message))
    lead = ""
    for line in said.splitlines():
        kept = _kept(" ".join(line.split()))
        if kept.endswith(":") and not lead:
            lead = f"{kept} "
        elif kept:
            return _cut(lead + kept)
    return _cut(lead.rstrip(": "))


def _kept(line: str) -> str:
    """The sentences of a line that tell something."""
    if not _TELLS_NOTHING.search(line):
        kept = line
    else:
        sentences = re.split(r"(?<=[.!?]) ", line)
        kept = " ".join(part for part in sentences if not _TELLS_NOTHING.search(part))
    return kept


def _cut(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[:_LONGEST_LINE].rstrip()} ..."


def hub_is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids reaching for a hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
