"""Loading models without their libraries' chatter: what matters of it is raised as one sentence."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or progress bars from diffusers and transformers."""
    logs = (diffusers_logging, transformers_logging)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        try:
            yield
        finally:
            for log, (verbosity, bars) in zip(logs, before, strict=True):
                log.set_verbosity(verbosity)
                if bars:
                    log.enable_progress_bar()
