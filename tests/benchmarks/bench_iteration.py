"""What one iteration costs, in plain samples, and what it keeps in memory; on the embedded model.

    python tests/benchmarks/bench_iteration.py [--steps 50] [--repeat 5] [--threads 1]

Prints JSON. Times are medians of interleaved repeats in one process, so their ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from dno_builtin.samplers.ddim import DDIM
from torch import Tensor

from dno.config import BuildContext


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Memory that autograd holds between forward and backward, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ctx = BuildContext(torch.device("cpu"), torch.float32)
    maps = {
        memory: DDIM(steps=args.steps, memory=memory).build(ctx).bind(["a black cat"], [0])
        for memory in ("keep", "recompute")
    }

    def plain() -> None:
        with torch.no_grad():
            maps["keep"](maps["keep"].noise_BN)

    def iteration(memory: str) -> Callable[[], None]:
        def run() -> None:
            noise_BN = maps[memory].noise_BN.clone().requires_grad_()
            maps[memory](noise_BN).mean().backward()

        return run

    jobs = {"plain": plain, "keep": iteration("keep"), "recompute": iteration("recompute")}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(args.repeat + 1):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    figures: dict[str, object] = {
        "steps": args.steps,
        "threads": args.threads,
        "seconds": {name: round(value, 2) for name, value in median.items()},
        "iteration_in_samples": {name: round(median[name] / median["plain"], 2) for name in ("keep", "recompute")},
        "kept_MB": {
            memory: round(kept_bytes(lambda z=one: z(z.noise_BN.clone().requires_grad_())) / 1e6, 1)  # type: ignore[misc]
            for memory, one in maps.items()
        },
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
