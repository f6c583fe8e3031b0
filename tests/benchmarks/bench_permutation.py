"""How much faster is the permutation regularizer than autograd through one gather a permutation?

Prints one JSON object: median seconds of value and gradient of either way, in turns in one process,
and how far the values are apart when both look at the same permutations.

    python tests/benchmarks/bench_permutation.py --entries 835584
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import torch
from dno_builtin.regularizers._permutation import draw_shuffle
from dno_builtin.regularizers.permutation import Permutation
from torch import Tensor

from dno.plugin import BuildContext, Penalty


def gathers(noise: Tensor, tables: list[Tensor]) -> Tensor:
    """-R of one sample's noise, term by term."""
    total = noise.new_zeros(())
    for table in tables:
        rows = noise[table.to(noise.device)]
        m, k = rows.shape
        mean = rows.mean(0).norm()
        spectral = torch.linalg.matrix_norm(rows.T @ rows / m - torch.eye(k).to(noise), ord=2)
        excess = ((1 + spectral).sqrt() - 1 - math.sqrt(k / m)).clamp(min=0)
        total = total - (math.log(2) - m * mean**2 / (2 * k)).clamp(max=0)
        total = total - (math.log(2) - m * excess**2 / 2).clamp(max=0)
    return total / len(tables)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--entries", type=int, default=835_584, help="N; that of SD 1.5 at 50 steps by default"
    )
    parser.add_argument("--permutations", type=int, default=100)
    parser.add_argument("--vector-length", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gather-rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    n, k, b, device = args.entries, args.vector_length, args.permutations, torch.device(args.device)
    generator = torch.Generator().manual_seed(0)
    # Off the shell, so that no way is spared the gradient.
    noise = (1.05 * torch.randn(n, generator=generator)).to(device).requires_grad_()
    config = Permutation(permutations=b, vector_length=k, unpermuted=False)
    regularizer = config.build(BuildContext(device=device, dtype=torch.float32))

    def closed(seed: int) -> Tensor:
        found = regularizer(noise[None], [torch.Generator().manual_seed(seed)])
        assert isinstance(found, Penalty)
        return found.value_B.sum()

    def plain(seed: int) -> Tensor:
        drawn = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(n, generator=drawn) for _ in range(b)]
        return gathers(noise, [order[: n // k * k].view(-1, k) for order in orders])

    def seconds(way: object, seed: int) -> float:
        assert callable(way)
        noise.grad = None
        start = time.perf_counter()
        way(seed).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(closed, 0)
    times: dict[str, list[float]] = {"closed": [], "gathers": []}
    for seed in range(max(args.rounds, args.gather_rounds)):
        if seed < args.rounds:
            times["closed"].append(seconds(closed, seed))
        if seed < args.gather_rounds:
            times["gathers"].append(seconds(plain, seed))

    few = min(b, 5)
    same = draw_shuffle(n, k, few, torch.Generator().manual_seed(0)).tables()
    config = Permutation(permutations=few, vector_length=k, unpermuted=False)
    found = config.build(BuildContext(device=device, dtype=torch.float64))(
        noise.detach().double()[None], [torch.Generator().manual_seed(0)]
    )
    assert isinstance(found, Penalty)
    expected = gathers(noise.detach().double(), list(same))
    closed_s, gathers_s = (statistics.median(values) for values in times.values())
    report = {
        "entries": n,
        "permutations": b,
        "vector_length": k,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "closed_seconds": round(closed_s, 5),
        "gathers_seconds": round(gathers_s, 4),
        "ratio": round(gathers_s / closed_s, 1),
        "relative_difference": abs(found.value_B.item() / expected.item() - 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
