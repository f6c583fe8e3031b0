"""What keeping a run in its folder costs an iteration, as the run goes on; on the toy sampler.

    python tests/benchmarks/bench_checkpoints.py [--iterations 5000] [--block 250]

Prints JSON: seconds of a checkpoint of each kind by iteration, each the median over the last block.
`record` is a checkpoint that only takes note of the new state, `save` one that writes it; where
both stay flat, what a run costs does not depend on how long it has been going on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dno.core.result import Snapshot, StepRecord
from dno.core.stages import LoopState
from dno.runs.run_config import RunConfig
from dno.runs.storage import RunFolder

CONFIG = RunConfig.parse({"prompts": "x", "rewards": "brightness"})
_NAMES = ("p_mean", "p_norm", "p_spectrum", "p_covariance", "p_third", "p_fourth")


def first_state() -> LoopState:
    """A state as a run of one sample on the embedded model has it: 600 kB of tensors."""
    noise_BN = torch.randn(1, 12_800)
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--block", type=int, default=250)
    args = parser.parse_args()
    torch.set_num_threads(1)

    state = first_state()
    block: dict[str, list[float]] = {"record": [], "save": []}
    figures: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place, "run")) as folder:
        for iteration in range(1, args.iterations + 1):
            record = record_at(iteration - 1)
            saves = iteration % 25 == 0
            began = time.perf_counter()
            # As the loop does it.
            state = replace(state, iteration=iteration, history=(*state.history, record))
            folder.save_state(state, CONFIG, every=0.0 if saves else 1e9)
            block["save" if saves else "record"].append(time.perf_counter() - began)
            if iteration % args.block == 0:
                figures[iteration] = {
                    name: float(f"{statistics.median(times):.3g}") for name, times in block.items()
                }
                block = {"record": [], "save": []}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
