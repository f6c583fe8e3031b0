"""Compare what climbs rewards without a gradient, at equal reward calls; see the how-to page.

    python docs/figures/black_box.py --work runs/black-box

Each method and reward is a study of 20 prompts x 3 seeds, which goes on where it was stopped;
`dno compare` sets those of one reward side by side, and so does this, on what all have finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from judge import judge
from torch import Tensor

import dno
from dno.report.tables import paired_table

ANIMALS = (
    "bat", "bee", "bird", "camel", "chicken", "deer", "dolphin", "fish", "fox", "goat", "gorilla",
    "horse", "lion", "llama", "mouse", "rabbit", "raccoon", "rat", "shark", "sheep",
)  # fmt: skip
"""Those that no option was chosen on."""
SEEDS = (11, 12, 13)


@dataclass(frozen=True)
class Method:
    """An optimizer, and the iterations that are 48 reward calls of it."""

    options: Mapping[str, Any]
    iterations: int = 47


METHODS = {
    "local-search": Method({"use": "local-search", "beta": 0.6}),
    "best-of-n": Method({"use": "best-of-n"}),
    "trust-region": Method({"use": "trust-region"}),
    "surrogate": Method(
        {"use": "surrogate", "warm_up": 8, "samples": 2, "size": 0.6, "step": 8.0, "ridge": 0.1}, 14
    ),
}
"""The first is the default, to which the others are compared."""


class Judge:
    """A black box: mean of the judge's probabilities of animal and colour, in whole tenths."""

    differentiable = False

    def __init__(self) -> None:
        self.model = judge()
        self.place = {name: int(index) for index, name in self.model.config.id2label.items()}

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """`B` scores of pictures of prompts of the form "a <colour> <animal>"."""
        small = torch.nn.functional.avg_pool2d(images, images.shape[-1] // 32)
        logits = self.model(pixel_values=small * 2 - 1).logits
        probability = torch.cat([logits[:, :45].softmax(1), logits[:, 45:].softmax(1)], dim=1)
        scores = []
        for row, prompt in zip(probability, prompts, strict=True):
            _, colour, animal = prompt.split()[:3]
            scores.append((row[self.place[animal]] + row[self.place[colour]]) / 2)
        return (torch.stack(scores) * 10).round() / 10


REWARDS: dict[str, tuple[Callable[[], Any], str]] = {
    "jpeg": (lambda: "jpeg", "a green {}"),
    "judge": (Judge, "a purple {}"),
}


def study(
    reward: str, method: str, out: Path, animals: Sequence[str], seeds: Sequence[int], most: int
) -> dno.Study:
    """One method on one reward: ten steps without guidance, of at most so many iterations."""
    make, form = REWARDS[reward]
    chosen = METHODS[method]
    return dno.batch(
        [form.format(animal) for animal in animals],
        seeds=seeds,
        out=out,
        keep="best",
        reward=make(),
        regularizer=[],
        sampler={"use": "ddim", "steps": 10, "guidance_scale": 1.0},
        optimizer=chosen.options,
        iterations=min(chosen.iterations, most),
        device="cpu",
        settings={"observers": [], "p_floor": 0.0},
    )


def tell(reward: str, work: Path) -> None:
    """How the methods compare on one reward, and how far their noise ever was from N(0, I)."""
    found = dno.compare_runs(*[work / reward / method for method in METHODS])
    print(f"\n{reward}: {found.sentence()}\n\n{paired_table(found).text()}\n")
    for way, items in found.items.items():
        least = min(item.log_p for item in items.values())
        unlikely = sum(item.unlikely for item in items.values())
        tests = sum(item.tests for item in items.values())
        print(f"{way}: least log P {least:.2f}, {unlikely} of {tests} p-values below 0.01")


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="default: runs/black-box[-quick]")
    parser.add_argument("--tell", action="store_true", help="print the tables and run nothing")
    parser.add_argument("--quick", action="store_true", help="two animals, one seed, 4 iterations")
    given = parser.parse_args(args)
    work = given.work or Path("runs/black-box-quick" if given.quick else "runs/black-box")
    animals = ANIMALS[:2] if given.quick else ANIMALS
    seeds = SEEDS[:1] if given.quick else SEEDS
    torch.set_num_threads(1)

    if not given.tell:
        # Seed by seed, so that all have finished some when the first seed is over.
        for count in range(1, len(seeds) + 1):
            for reward in REWARDS:
                for method in METHODS:
                    most = 4 if given.quick else 10_000
                    found = study(
                        reward, method, work / reward / method, animals, seeds[:count], most
                    )
                    if found.interrupted:
                        raise SystemExit(130)
    for reward in REWARDS:
        tell(reward, work)


if __name__ == "__main__":
    main()
