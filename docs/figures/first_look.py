"""The picture that README opens with: plain samples, and what two ways to climb make of them.

    python docs/figures/first_look.py

Each way is a run as `dno optimize` makes it; the published one takes so many iterations as come
nearest to the evaluations of the network that the default one takes. Prompts and seeds were not
chosen by their looks. Writes docs/images/first-look.png, and tells the figures below it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

import dno

PICTURE = Path(__file__).parents[1] / "images" / "first-look.png"
ROWS = (
    ("a black cat", "brightness"),
    ("a white rabbit", "darkness"),
    ("a green frog", "clip"),
)
SEED = 0
PUBLISHED_ITERATIONS = 5


def main() -> None:
    torch.set_num_threads(1)
    drawn = Figure(figsize=(5.6, 5.9), layout="constrained")
    grid = drawn.subplots(len(ROWS), 3)
    for line, (prompt, reward) in zip(grid, ROWS, strict=True):
        ours = dno.optimize(prompt, reward=reward, seed=SEED)
        paper = dno.optimize(
            prompt, reward=reward, seed=SEED, paper=True, iterations=PUBLISHED_ITERATIONS
        )
        shown = {
            "plain sample": ours.initial,
            "published recipe": paper.best,
            "default": ours.best,
        }
        for axis, (title, snapshot) in zip(line, shown.items(), strict=True):
            axis.imshow(snapshot.images[0], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(f"{reward} {float(snapshot.rewards[reward][0]):.2f}", fontsize=9)
            if line is grid[0]:
                axis.set_title(title, fontsize=10)
        line[0].set_ylabel(prompt, fontsize=10)
        for name, result in (("default", ours), ("published", paper)):
            print(f"{prompt}, {name}:", result.verdict(), sep="\n")
    drawn.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
