"""Are the p-values of the Gaussianity report uniform over true Gaussian noise?

    python docs/figures/calibrate_gaussianity.py --draws 20 --shape 4 8 8 --rows 2000
    python docs/figures/calibrate_gaussianity.py --draws 51 --shape 4 64 64 --rows 300

Prints, for each figure, Kolmogorov's distance of its p-values from the uniform law times the root
of their number (above 1.95 in 1 of 1,000 cases), and how many lie under three levels.
"""

from __future__ import annotations

import argparse
import math

import torch
from dno_builtin.regularizers._figures import FIGURES
from dno_builtin.regularizers._gaussianity import log_p_values

LEVELS = (0.05, 0.01, 0.001)


def p_values(draws: tuple[tuple[int, ...], ...], rows: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    entries = sum(map(math.prod, draws))
    found = []
    for _ in range(rows):
        noise_N = torch.randn(entries, generator=generator, dtype=torch.float64)
        found.append(log_p_values(noise_N, draws))
    return {name: torch.stack([row[name] for row in found]).exp() for name in FIGURES}


def line(name: str, p: torch.Tensor) -> str:
    if (p == 1).all():
        return f"{name:14s} untested"
    n = len(p)
    steps = (torch.arange(n) + 0.5) / n
    distance = (p.sort().values - steps).abs().max().item() + 0.5 / n
    below = [f"{(p < level).sum().item():6d} of {level * n:6.1f}" for level in LEVELS]
    return f"{name:14s} {distance * math.sqrt(n):8.2f}   {'  '.join(below)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=20, help="Gaussian draws of one row")
    parser.add_argument("--shape", type=int, nargs="+", default=[4, 8, 8], help="of a draw")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    draws = (tuple(args.shape),) * args.draws
    levels = "  ".join(f"under {level:<5} (expected)" for level in LEVELS)
    print(f"{'figure':14s} distance   {levels}")
    for name, p in p_values(draws, args.rows, args.seed).items():
        print(line(name, p))


if __name__ == "__main__":
    main()
