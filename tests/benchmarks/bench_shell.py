"""What putting noise back on the Gaussian shell costs, beside the published penalty and an FFT.

    python tests/benchmarks/bench_shell.py [--draws 51] [--shape 4,64,64] [--repeat 9] [--threads 1]

Prints one JSON object: seconds of each way, in turns in one process, so that their ratios hold on a
busy machine. CPU seconds leave out the time that other processes had. `far` is noise beyond its
reach, which may be put back more than once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from dno_builtin.constraints.shell import Shell
from dno_builtin.optimizers.ascent import Ascent
from dno_builtin.regularizers.permutation import Permutation
from torch import Tensor

from dno.plugin import BuildContext, Penalty, Slopes, gaussian_noise


class Linear:
    """An objective with one gradient everywhere."""

    def __init__(self, grad_BN: Tensor) -> None:
        self.grad_BN = grad_BN

    def slopes(self, noise_BN: Tensor) -> Slopes:
        nothing_B = torch.zeros(len(noise_BN))
        value_B = (self.grad_BN * noise_BN).sum(1)
        return Slopes(value_B, self.grad_BN, nothing_B, torch.zeros_like(noise_BN))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=51)
    parser.add_argument("--shape", default="4,64,64", help="of one draw")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    device = torch.device(args.device)
    shape = tuple(int(side) for side in args.shape.split(","))
    draws = (shape,) * args.draws
    context = BuildContext(device=device, dtype=torch.float32, draws=draws)
    start_BN = gaussian_noise(draws, [0]).to(device)
    direction_BN = gaussian_noise(draws, [1]).to(device)
    direction_BN = direction_BN / direction_BN.norm()

    shell = Shell().build(context)
    kept = shell.init(start_BN)
    ascent = Ascent().build(context)
    memory = ascent.init(start_BN)
    permutation = Permutation().build(context)

    def near() -> None:
        shell.retract(start_BN + 5 * direction_BN, kept)

    def far() -> None:
        shell.retract(start_BN + 100 * direction_BN, kept)

    def step() -> None:
        ascent.step(Linear(direction_BN), start_BN, memory)  # type: ignore[arg-type]

    def penalty() -> None:
        noise_BN = start_BN.clone().requires_grad_()
        found = permutation(noise_BN, [torch.Generator().manual_seed(0)])
        assert isinstance(found, Penalty)
        found.value_B.sum().backward()

    def transform() -> None:
        maps = start_BN.view(-1, *shape)
        torch.fft.irfft2(torch.fft.rfft2(maps), s=shape[-2:])

    jobs = {"near": near, "far": far, "ascent": step, "penalty": penalty, "fft": transform}
    wall: dict[str, list[float]] = {name: [] for name in jobs}
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(args.repeat + 1):
        for name, job in jobs.items():
            began = time.perf_counter()
            began_cpu = time.process_time()
            job()
            if device.type == "cuda":
                torch.cuda.synchronize()
            cpu[name].append(time.process_time() - began_cpu)
            wall[name].append(time.perf_counter() - began)

    cpu_median = {name: statistics.median(times[1:]) for name, times in cpu.items()}
    wall_median = {name: statistics.median(times[1:]) for name, times in wall.items()}
    report = {
        "entries": start_BN.numel(),
        "threads": args.threads,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "cpu_seconds": {name: round(value, 4) for name, value in cpu_median.items()},
        "wall_seconds": {name: round(value, 4) for name, value in wall_median.items()},
        "near_in_penalties": round(wall_median["near"] / wall_median["penalty"], 2),
        "near_in_ffts": round(wall_median["near"] / wall_median["fft"], 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
