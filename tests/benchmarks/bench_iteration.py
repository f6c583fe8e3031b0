"""What one iteration costs, in plain samples, and what it keeps in memory; on the embedded model.

    python tests/benchmarks/bench_iteration.py [--steps 50] [--repeat 5] [--threads 1]

Prints JSON. Times are medians of interleaved repeats in one process, so their ratios hold on a busy
machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from dno_builtin.samplers.ddim import DDIM
from torch import Tensor

from dno.registry.configs import BuildContext


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ctx = BuildContext(torch.device("cpu"), torch.float32)
    options: dict[str, dict[str, Any]] = {
        "keep": {},
        "recompute": {"memory": "recompute"},
        "last_10": {"last_steps": min(10, args.steps)},
    }
    maps = {
        name: DDIM(steps=args.steps, **changes).build(ctx).bind(["a black cat"], [0])
        for name, changes in options.items()
    }
    copies = DDIM(steps=args.steps).build(ctx).bind(["a black cat"] * 4, [0] * 4)

    def plain() -> None:
        with torch.no_grad():
            maps["keep"](maps["keep"].noise_BN)

    def four_copies() -> None:
        with torch.no_grad():
            copies(copies.noise_BN)

    def iteration(name: str) -> Callable[[], None]:
        def run() -> None:
            noise_BN = maps[name].noise_BN.clone().requires_grad_()
            maps[name](noise_BN).mean().backward()

        return run

    jobs = {"plain": plain, "four_copies": four_copies, **{name: iteration(name) for name in maps}}
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
        "iteration_in_samples": {name: round(median[name] / median["plain"], 2) for name in maps},
        "four_copies_side_by_side_in_samples": round(median["four_copies"] / median["plain"], 2),
        "kept_MB": {
            name: round(kept_bytes(lambda z=one: z(z.noise_BN.clone().requires_grad_())) / 1e6, 1)
            for name, one in maps.items()
        },
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
