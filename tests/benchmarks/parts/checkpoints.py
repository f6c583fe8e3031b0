"""What keeping a run in its folder costs an iteration, at its start and long after.

`record` is a checkpoint that only takes note of the new state, `save` one that writes it; where
both stay flat, what a run costs does not depend on how long it has been going on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from measuring import Figure, Size, middle

from dno.core.result import Snapshot, StepRecord
from dno.core.stages import LoopState
from dno.runs.run_config import RunConfig
from dno.runs.storage import RunFolder

CONFIG = RunConfig.parse({"prompts": "x", "rewards": "brightness"})
EVERY = 20
"""Iterations from one writing to the next."""
_NAMES = ("p_mean", "p_norm", "p_spectrum", "p_covariance", "p_third", "p_fourth")


def first_state() -> LoopState:
    """A state as a run of one sample on the embedded model has it: 1.5 MB of tensors."""
    noise_BN = torch.randn(1, 78_336)
    snapshot = Snapshot(
        noise_BN=noise_BN,
        samples=torch.rand(1, 3, 64, 64),
        score_B=torch.zeros(1),
        iteration_B=torch.zeros(1),
        rewards={"brightness": torch.zeros(1)},
        monitors={},
        log_p={"permutation": torch.zeros(1)},
        figures={name: torch.rand(1) for name in _NAMES},
    )
    moments = {"mean": noise_BN.clone(), "square": noise_BN.clone(), "step": torch.tensor(1)}
    return LoopState(0, noise_BN, moments, initial=snapshot, best=snapshot)


def record_at(iteration: int) -> StepRecord:
    """A record with as much in it as most have."""
    value = (torch.rand(()).item(),)
    return StepRecord(
        iteration=iteration,
        grid=None,
        reward=value,
        objective=value,
        rewards={"brightness": value},
        monitors={},
        penalties={"permutation": value},
        log_p={"permutation": value},
        gamma=None,
        figures=dict.fromkeys(_NAMES, value),
        healthy=(True,),
        best=value,
        grad_norm=value,
        seconds=0.01 * iteration,
        network_evaluations=50 * iteration,
        reward_calls=iteration,
    )


def measure(size: Size) -> Iterator[Figure]:
    """Times of a checkpoint in the first and in the last tenth of a run."""
    state = first_state()
    times: dict[str, list[float]] = {"record": [], "save": []}
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place, "run")) as folder:
        for iteration in range(1, size.checkpoints + 1):
            record = record_at(iteration - 1)
            saves = iteration % EVERY == 0
            began = time.process_time()
            # As the loop does it.
            state = replace(state, iteration=iteration, history=(*state.history, record))
            folder.save_state(state, CONFIG, every=0.0 if saves else 1e9)
            times["save" if saves else "record"].append(1e3 * (time.process_time() - began))

    words = {"record": "noting a state", "save": "writing a state"}
    for name, values in times.items():
        tenth = max(1, len(values) // 10)
        for when, part in (("first", values[:tenth]), ("last", values[-tenth:])):
            text = f"{words[name]}, {when} tenth of {size.checkpoints} iterations"
            yield middle(f"checkpoints.{name}.{when}", text, part, "CPU ms")
