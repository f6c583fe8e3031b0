"""Align a diffusion model at inference time by optimising its noise.

    >>> import dno
    >>> result = dno.optimize("a black cat", reward="brightness")  # doctest: +SKIP

Names below are imported on first use, so that `import dno` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dno.api import optimize
    from dno.core.function import FunctionSampler
    from dno.core.result import Result, Status, StepRecord
    from dno.errors import ConfigError, DNOError, RunError
    from dno.runs.run import resume, run
    from dno.runs.run_config import RunConfig

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "DNOError",
    "FunctionSampler",
    "Result",
    "RunConfig",
    "RunError",
    "Status",
    "StepRecord",
    "optimize",
    "resume",
    "run",
]

_HOMES: Final = {
    "ConfigError": "errors",
    "DNOError": "errors",
    "FunctionSampler": "core.function",
    "Result": "core.result",
    "RunConfig": "runs.run_config",
    "RunError": "errors",
    "Status": "core.result",
    "StepRecord": "core.result",
    "optimize": "api",
    "resume": "runs.run",
    "run": "runs.run",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dno' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dno.{_HOMES[name]}"), name)
