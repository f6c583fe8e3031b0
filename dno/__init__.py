"""Align a diffusion model at inference time by optimising its noise.

    >>> import dno
    >>> result = dno.optimize("a black cat", reward="brightness")  # doctest: +SKIP

Names below are imported on first use, so that `import dno` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dno.errors import ConfigError, DNOError, RunError
    from dno.front.api import optimize
    from dno.front.function import FunctionSampler
    from dno.result import Result, Status, StepRecord
    from dno.run import resume, run
    from dno.run_config import RunConfig

__version__ = "0.1.0"

__all__ = ["ConfigError", "DNOError", "FunctionSampler", "Result", "RunConfig", "RunError", "Status", "StepRecord"]
__all__ += ["optimize", "resume", "run"]

_HOMES = {"optimize": "front.api", "FunctionSampler": "front.function", "RunConfig": "run_config", "run": "run"}
_HOMES |= {"resume": "run"} | dict.fromkeys(("ConfigError", "DNOError", "RunError"), "errors")
_HOMES |= dict.fromkeys(("Result", "Status", "StepRecord"), "result")


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dno' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dno.{_HOMES[name]}"), name)
