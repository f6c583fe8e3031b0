"""The rules that are compared, as configurations: the published recipe, its rivals, and ours.

`results.py` measures what they reach, and `tests/benchmarks` what they reach in a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from dno.core.events import RunStarted, StepDone
from dno.plugin import hookimpl

Options = Mapping[str, Any]

# What moves the noise, and what holds it.
PAPER: Options = {
    "optimizer": {
        "use": "torch",
        "cls": "AdamW",
        "options": {"lr": 0.01, "weight_decay": 0.01},
    },
    "regularizers": [{"use": "permutation", "weight": 1.0}],
}
ADAM_FREE: Options = {"optimizer": {"use": "adam", "lr": 0.03}, "regularizers": []}
RENO: Options = {"optimizer": {"use": "sgd"}, "regularizers": []}
OURS: Options = {
    "optimizer": {"use": "ascent", "step": 5.0},
    "regularizers": [],
    "constraints": [{"use": "shell"}],
}
COARSE: Options = {"coarse": 10}
UNREPAIRED: Options = {"repair": 0}


def search(name: str, **options: Any) -> Options:
    """A rule that draws its noise from N(0, I) itself."""
    return {"optimizer": {"use": name, **options}, "regularizers": []}


def settings(
    options: Options,
    *,
    reward: Any,
    iterations: int,
    steps: int = 50,
    eta: float = 1.0,
    monitors: Sequence[Any] = (),
    observers: Sequence[Any] = (),
) -> dict[str, Any]:
    """The configuration of a rule's runs, but for prompts and seeds.

    Args:
        options: the rule.
        reward: what is climbed, as configurations name it.
        iterations: steps of the rule.
        steps: of denoising.
        eta: how much noise each of them adds.
        monitors: what else is asked of the pictures.
        observers: who looks on.
    """
    # The authors' brightness and darkness are means in [-1, 1], twice as large as ours.
    doubled = options is PAPER and reward in ("brightness", "darkness")
    plain: dict[str, Any] = {
        "iterations": iterations,
        "rewards": [{"use": reward, "weight": 2.0 if doubled else 1.0}],
        "monitors": list(monitors),
        "observers": list(observers),
        "sampler": {"use": "ddim", "steps": steps, "eta": eta},
        "constraints": [],
        "coarse": [],
        # By log P alone, so that rules which leave N(0, I) in other ways hand back what they
        # reached, and are judged by it.
        "p_floor": 0.0,
        "device": "cpu",
    }
    return {**plain, **options}


class Clock:
    """An observer that reads the process's CPU time after each evaluation."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """Loading and binding are over."""
        self._began = time.process_time()

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        """An evaluation, and the step from it, are done."""
        self.seconds.append(time.process_time() - self._began)
