"""When a run has spent enough, and what it spent."""

from __future__ import annotations

import sys
from collections.abc import Container
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dno.core.result import StepRecord

_UNITS: Final = {
    "seconds": "s",
    "network_evaluations": "network evaluations",
    "reward_calls": "calls",
}

Count = Annotated[int | None, Field(ge=1)]


class Budget(BaseModel):
    """What a run may spend besides its iterations; the first limit that is met stops it, after the
    iteration in hand.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    seconds: Annotated[float | None, Field(gt=0)] = None
    """Wall-clock time of the loop; loading the model is not counted."""
    network_evaluations: Count = None
    """Forward passes of the denoising network for each sample; guidance makes two of one step."""
    reward_calls: Count = None
    """Times that optimised rewards are asked about each sample."""
    target: float | None = None
    """Stop when the weighted sum of the rewards of every sample's best image has reached this."""
    log_p: Annotated[float | None, Field(le=0)] = None
    """Stop when log P of every sample has fallen below this."""

    def met(self, record: StepRecord, score_B: Tensor, failed: Container[int] = ()) -> str | None:
        """Which limit an iteration has met, as a clause; None to go on.

        Args:
            record: the iteration's.
            score_B: the weighted rewards of each sample's best evaluation so far; -inf before the
                first healthy one.
            failed: samples that could not go on, by row; no limit waits for them.
        """
        going = [row for row in range(len(score_B)) if row not in failed]
        for name, unit in _UNITS.items():
            limit = getattr(self, name)
            if limit is not None and getattr(record, name) >= limit:
                return f"its budget of {limit:g} {unit} is spent"
        if self.target is not None and bool((score_B[going] >= self.target).all()):
            return f"the rewards reached {self.target:g}"
        log_p = record.least_log_p
        least = self.log_p
        if least is not None and log_p is not None and all(log_p[row] < least for row in going):
            return f"log P fell below {least:g}"
        return None


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held at once, on the device if it is a CUDA one.

    0 where nobody can tell.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
