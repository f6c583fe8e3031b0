"""Align a diffusion model at inference time by optimising its noise.

    >>> import dno
    >>> result = dno.optimize("a black cat", reward="brightness")  # doctest: +SKIP

Names below are imported on first use, so that `import dno` stays cheap.
"""

from __future__ import annotations

import importlib

# As typing has it, which takes longer to import than all else here: `dno` minds signals from its
# first lines on.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Final

    from dno.api import (
        Comparison,
        Session,
        Study,
        again,
        batch,
        compare,
        load,
        optimize,
        resume,
        run,
    )
    from dno.core.function import FunctionSampler
    from dno.core.pil import pil_reward
    from dno.core.result import Outcome, Snapshot, Status, StepRecord
    from dno.errors import ConfigError, DNOError, RunError
    from dno.report.result import Result
    from dno.runs.leaderboard import leaderboard
    from dno.runs.pairs import compare_runs
    from dno.runs.run_config import RunConfig
    from dno.runs.saved import SavedRun, list_runs, open_run

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "ConfigError",
    "DNOError",
    "FunctionSampler",
    "Outcome",
    "Result",
    "RunConfig",
    "RunError",
    "SavedRun",
    "Session",
    "Snapshot",
    "Status",
    "StepRecord",
    "Study",
    "again",
    "batch",
    "compare",
    "compare_runs",
    "leaderboard",
    "list_runs",
    "load",
    "open_run",
    "optimize",
    "pil_reward",
    "resume",
    "run",
]

_HOMES: Final = {
    "api": (
        "Comparison",
        "Session",
        "Study",
        "again",
        "batch",
        "compare",
        "load",
        "optimize",
        "resume",
        "run",
    ),
    "core.function": ("FunctionSampler",),
    "core.pil": ("pil_reward",),
    "core.result": ("Outcome", "Snapshot", "Status", "StepRecord"),
    "errors": ("ConfigError", "DNOError", "RunError"),
    "report.result": ("Result",),
    "runs.leaderboard": ("leaderboard",),
    "runs.pairs": ("compare_runs",),
    "runs.run_config": ("RunConfig",),
    "runs.saved": ("SavedRun", "list_runs", "open_run"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"dno.{home}"), name)
    raise AttributeError(f"module 'dno' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
