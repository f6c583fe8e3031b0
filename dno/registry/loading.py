"""What plugins need to load models: silence, one telling line, and no network where none may be."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from dno.wording import named

_lock = threading.Lock()
_inside = 0
_undo: ExitStack | None = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or progress bars from diffusers and transformers.

    It may be entered again inside, and by several threads at once: the first to enter silences, and
    the last to leave gives back what there was.
    """
    global _inside, _undo
    with _lock:
        if not _inside:
            _undo = _silence()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                assert _undo is not None
                _undo.close()


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


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    text = str(error).strip()
    return named(text.splitlines()[0]) if text else type(error).__name__


def hub_is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids reaching for a hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
