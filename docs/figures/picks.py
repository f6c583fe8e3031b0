"""Does a taste that nobody wrote down rise, when somebody only picks one of four pictures?

Simulated people pick, ten times, the one of four pictures that their hidden taste scores highest.
No way to answer them ever sees the taste: it sees which picture was picked. Ways are compared by
what people hold at the end, their last pick, in standard deviations of the plain pictures of the
prompt.

A way of three digits is so many of the four that climb what was learnt from the noise that was
picked last, that climb it from fresh noise, and that are plain; 121 is what `dno ui` does.
`parent` shows the last pick and three neighbours of its noise, and learns nothing; `luck` shows
plain pictures, of which the best that was seen is kept.

python docs/figures/picks.py --ways luck parent 121 220
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dno_builtin.rewards._colours import colours
from dno_builtin.rewards._picks import fit, numbers
from dno_builtin.rewards.picks_file import Pick
from torch import Tensor

import dno
from dno.plugin import BuildContext
from dno.registry.registry import REWARDS

PROMPTS = ("a cat", "a house")
ROUNDS = 10
SHOWN = 4
STEPS = 10
ITERATIONS = 5
ANGLE = 0.5
"""Radians by which a neighbour's noise is turned away from its parent's."""
PLAIN = 96
"""Plain pictures of each prompt, by which a taste is measured."""
CSV = Path(__file__).parents[1] / "explanation" / "picks.csv"


def colourful(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Colourfulness of Hasler and Süsstrunk."""
    red, green, blue = images.flatten(2).unbind(1)
    first = red - green
    second = (red + green) / 2 - blue
    spread = (first.var(1) + second.var(1)).sqrt()
    return spread + 0.3 * (first.mean(1).square() + second.mean(1).square()).sqrt()


def warm(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Red less blue."""
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def heavy_below(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Dark below, bright above."""
    half = images.shape[2] // 2
    return images[:, :, :half].mean((1, 2, 3)) - images[:, :, half:].mean((1, 2, 3))


def said(words: str) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """What the embedded CLIP model finds of words that nobody wrote into the prompt."""
    clip: Any = REWARDS.load("clip")().build(BuildContext(torch.device("cpu"), torch.float32))
    return lambda images, prompts: clip(images, [words] * len(images))


@dataclass
class Person:
    """Somebody who picks."""

    prompt: str
    taste: Callable[[Tensor, Sequence[str]], Tensor]
    picks: list[Pick]
    held: Tensor
    """Noise of the last pick."""
    score: float = -math.inf


def people(tastes: Sequence[Any], size: int) -> list[Person]:
    """One for each prompt and taste."""
    return [Person(prompt, taste, [], torch.zeros(size)) for prompt in PROMPTS for taste in tastes]


def noise_for(person: Person, way: str, generator: torch.Generator) -> tuple[Tensor, list[bool]]:
    """Noise of the next four pictures, and which of them are to climb."""
    size = len(person.held)
    fresh = torch.randn(SHOWN, size, generator=generator)
    if way == "luck" or not person.picks:
        return fresh, [False] * SHOWN
    if way == "parent":
        turned = torch.cos(torch.tensor(ANGLE)) * person.held + ANGLE_SIN * fresh
        turned[0] = person.held
        return turned, [False] * SHOWN
    own, climbing, plain = (int(digit) for digit in way)
    assert own + climbing + plain == SHOWN
    fresh[:own] = person.held
    return fresh, [True] * (own + climbing) + [False] * plain


ANGLE_SIN = torch.sin(torch.tensor(ANGLE))


class Climbed:
    """Each picture's own person's score; 0 for those that do not climb."""

    def __init__(self, weights_BF: Tensor) -> None:
        self.weights_BF = weights_BF

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores."""
        assert len(images) == len(self.weights_BF)
        return (colours(images) * self.weights_BF).sum(dim=1)


def round_of(crowd: list[Person], way: str, generator: torch.Generator, iterations: int) -> None:
    """Show everybody four pictures, and have them pick."""
    noises = []
    weights = []
    for person in crowd:
        noise, climbs = noise_for(person, way, generator)
        noises.append(noise)
        model = fit(person.picks, 1.0).weights_F.float() if any(climbs) else torch.zeros(41)
        weights += [model if climb else torch.zeros(41) for climb in climbs]
    weights_BF = torch.stack(weights)
    climbing = bool(weights_BF.any())

    prompts = [*PROMPTS]
    count = SHOWN * len(crowd) // len(prompts)
    result = dno.optimize(
        prompts,
        reward=Climbed(weights_BF),
        steps=STEPS,
        iterations=iterations if climbing else 0,
        coarse="none",
        batch=count,
        device="cpu",
        start=torch.cat(noises),
    )
    best = result.best
    images = best.samples.detach()
    for i, person in enumerate(crowd):
        rows = slice(SHOWN * i, SHOWN * (i + 1))
        # What is seen has eight bits.
        shown = (images[rows] * 255).round() / 255
        liked = person.taste(shown, [person.prompt] * SHOWN)
        first = int(liked.argmax())
        features = numbers(colours(shown))
        others = [one for row, one in enumerate(features) if row != first]
        person.picks.append(Pick(features[first], tuple(others)))
        if way == "luck" and person.score > float(liked[first]):
            # Whoever only looks on keeps the best of all that was seen.
            continue
        person.held = best.noise_BN[rows][first].detach()
        person.score = float(liked[first])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", nargs="+", default=["luck", "parent", "121"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)

    tastes = {
        "colourful": colourful,
        "warm": warm,
        "dark below": heavy_below,
        "green, says CLIP": said("green"),
        "smiling, says CLIP": said("a smiling face"),
    }
    session = dno.load(reward="brightness", steps=STEPS, iterations=0, device="cpu")
    plain = {p: session.optimize(p, seed=1000, batch=PLAIN).initial for p in PROMPTS}
    size = plain[PROMPTS[0]].noise_BN.shape[1]
    usual = {
        (prompt, name): taste(plain[prompt].samples, [prompt] * PLAIN)
        for prompt in PROMPTS
        for name, taste in tastes.items()
    }

    lines = ["way,prompt,taste,seed,picks,taste_in_deviations"]
    for way in options.ways:
        ends = []
        for seed in range(options.seeds):
            generator = torch.Generator().manual_seed(seed)
            crowd = people([*tastes.values()], size)
            names = [(prompt, name) for prompt in PROMPTS for name in tastes]
            for number in range(options.rounds):
                round_of(crowd, way, generator, options.iterations)
                units = [
                    (person.score - float(usual[key].mean())) / float(usual[key].std())
                    for person, key in zip(crowd, names, strict=True)
                ]
                told = " ".join(f"{unit:.1f}" for unit in units)
                mean = sum(units) / len(units)
                print(f"{way} seed {seed} pick {number + 1}: {mean:.2f} ({told})", flush=True)
                lines += [
                    f'{way},{prompt},"{name}",{seed},{number + 1},{unit:.3f}'
                    for (prompt, name), unit in zip(names, units, strict=True)
                ]
            ends += units
        print(f"{way}: {sum(ends) / len(ends):.2f} after {options.rounds}", flush=True)
        # After each way, so that what took long is kept.
        CSV.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
