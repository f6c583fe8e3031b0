"""Show the method where all of it can be seen: noise and samples are points in the plane.

    python docs/figures/ring.py

A diffusion model of a ring of Gaussians, exact and untrained, is asked to go right, with gamma 0
and 1. Writes docs/images/ring.png and the table of docs/explanation/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Generator, Tensor

import dno
from dno.testing.toy import RingSampler

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "explanation" / "method.md", ROOT / "images" / "ring.png"
SAMPLES, ITERATIONS, LR = 8, 200, 0.03


def right(points: Tensor, prompts: Sequence[str]) -> Tensor:
    """The x-coordinate."""
    return points[:, 0]


def optimised(ring: RingSampler, regularizer: str, gamma: float) -> tuple[dno.Result, Tensor]:
    """The run, and the noise of all its evaluations: `iterations + 1 x B x N`."""
    path = []

    def watch(noise_BN: Tensor, generators: Sequence[Generator]) -> Tensor:
        path.append(noise_BN.detach().clone())
        return torch.zeros(len(noise_BN))

    result = dno.optimize(
        "a point",
        reward=right,
        sampler=ring,
        regularizer=[(regularizer, gamma), (watch, 0)],
        paper=True,
        iterations=ITERATIONS,
        lr=LR,
        batch=SAMPLES,
    )
    return result.raise_for_status(), torch.stack(path)


def from_nearest(ring: RingSampler, points: Tensor) -> Tensor:
    """Distance to the nearest mode's centre, in standard deviations of a mode."""
    return torch.cdist(points.double(), ring.centres()).amin(1) / ring.std


def row(ring: RingSampler, regularizer: str, gamma: float, result: dno.Result) -> str:
    """The table's line of one run."""

    def change(before: Tensor, after: Tensor, digits: int = 1) -> str:
        return f"{before.median():.{digits}f} → {after.median():.{digits}f}"

    first, last = result.initial, result.last
    cells = [
        f"{ring.eta:g}",
        str(first.noise_BN.shape[1]),
        regularizer,
        f"{gamma:g}",
        change(first.rewards["right"], last.rewards["right"], 2),
        change(from_nearest(ring, first.samples), from_nearest(ring, last.samples)),
        change(first.log_p[regularizer], last.log_p[regularizer]),
    ]
    return f"| {' | '.join(cells)} |"


def show_paths(axis: Axes, path_TB2: Tensor) -> None:
    """Each sample's way, from a hollow dot to a full one."""
    for i, way in enumerate(path_TB2.unbind(1)):
        colour = f"C{i}"
        axis.plot(*way.T.numpy(), color=colour, linewidth=1)
        axis.plot(*way[0].numpy(), "o", color=colour, markerfacecolor="white", markersize=5)
        axis.plot(*way[-1].numpy(), "o", color=colour, markersize=5)


def figure(ring: RingSampler, paths: dict[float, Tensor]) -> Figure:
    """Above the noise, below the samples it gives; a column a gamma."""
    drawn = Figure(figsize=(8, 5.6), layout="constrained")
    x, y = torch.linspace(-1.7, 2.3, 400), torch.linspace(-1.5, 1.5, 300)
    density = ring.log_density(torch.cartesian_prod(x, y).double()).view(400, 300).T.exp().numpy()
    sample = ring.bind(["a point"] * SAMPLES, range(SAMPLES))
    for (gamma, path), (above, below) in zip(paths.items(), drawn.subplots(2, 2).T, strict=True):
        for radius, share in ((1.177, "50 %"), (3.035, "99 %")):
            angle = torch.linspace(0, 2 * torch.pi, 200)
            above.plot(radius * angle.cos(), radius * angle.sin(), color="0.7", linewidth=0.8)
            above.annotate(
                share,
                (-0.71 * radius, 0.71 * radius),
                color="0.4",
                fontsize=8,
                ha="right",
                va="bottom",
            )
        show_paths(above, path)
        above.set(title=f"γ = {gamma:g}", xlim=(-4, 8.2), ylim=(-3.6, 3.6), aspect="equal")
        below.contourf(
            x.numpy(),
            y.numpy(),
            density,
            levels=[0.05, 0.2, 0.5, 0.8, 1.1, 1.4, 1.7, 2],
            cmap="Greys",
            vmax=3,
        )
        show_paths(below, torch.stack([sample(noise_BN) for noise_BN in path]))
        below.set(xlim=(-1.7, 2.3), ylim=(-1.5, 1.5), aspect="equal")
        if gamma == 0:
            above.set_ylabel("noise, and the shares of N(0, I)")
            below.set_ylabel("samples, and the data's density")
    return drawn


def main() -> None:
    table = [
        "| η | N | regularizer | γ | x from → to | standard deviations from the nearest mode "
        "| log P |",
        "|---|---|---|---|---|---|---|",
    ]
    paths = {}
    for ring, regularizer in ((RingSampler(eta=0), "norm"), (RingSampler(eta=1), "permutation")):
        for gamma in (0.0, 1.0):
            result, path = optimised(ring, regularizer, gamma)
            table.append(row(ring, regularizer, gamma, result))
            if ring.eta == 0:
                paths[gamma] = path
    figure(RingSampler(eta=0), paths).savefig(PICTURE, dpi=110)
    print("\n".join(table))
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition("<!-- ring table -->\n")
    after = rest[rest.index("<!-- end of ring table -->") :]
    PAGE.write_text(before + mark + "\n".join(table) + "\n" + after, encoding="utf-8")


if __name__ == "__main__":
    main()
