"""Reward a CPU second of each rule against the published recipe, on the embedded model.

Each rule is this project's own; configurations, and numbers of iterations that cost about the same,
are those of `docs/figures/cases.py`. Rules take turns on the same blocks of prompts; intervals
are over prompts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measuring import Figure, Size, exact, resampled

sys.path.append(str(Path(__file__).parents[3] / "docs" / "figures"))

from cases import ANIMALS, FORMS
from rules import COARSE, OURS, PAPER, RENO, Clock, Options, search, settings

from dno import RunConfig
from dno.runs.load import Loaded, load
from dno.runs.run import run

RULES: dict[str, tuple[str, int, Options]] = {
    "paper": ("published recipe", 8, PAPER),
    "ours": ("`ascent` on the shell, 10 steps first", 12, {**OURS, **COARSE}),
    "reno": ("ReNO's rule", 7, RENO),
    "best_of_n": ("best of n", 13, search("best-of-n")),
    "local_search": ("local search", 13, search("local-search")),
}
"""In words, with iterations."""
REWARD = "brightness"
SEED = 10


@dataclass
class Reached:
    """What a rule reached so far."""

    gains: list[float] = field(default_factory=list)
    """By prompt."""
    seconds: list[float] = field(default_factory=list)
    """A prompt's share of its block's."""


def climb(loaded: Loaded | None, config: RunConfig, clock: Clock, reached: Reached) -> None:
    """Make one run, and note what it gained."""
    result = run(config, loaded=loaded).raise_for_status()
    # Not of the score, in which the published recipe's reward counts twice.
    rise = result.best.rewards[REWARD] - result.initial.rewards[REWARD]
    reached.gains += rise.nan_to_num(0.0).tolist()
    count = len(result.items)
    reached.seconds += [clock.seconds[-1] / count] * count


def measure(size: Size) -> Iterator[Figure]:
    """Gains, seconds, and gains a second over those of the published recipe."""
    reached = {name: Reached() for name in RULES}
    loaded: Loaded | None = None
    names = list(RULES)
    prompts = [FORMS[REWARD].format(animal) for animal in ANIMALS[: size.prompts]]
    for turn, start in enumerate(range(0, len(prompts), size.block)):
        # Another one first each time.
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            _, iterations, options = RULES[name]
            clock = Clock()
            plain = settings(
                options,
                reward=REWARD,
                iterations=max(1, math.ceil(size.climb * iterations)),
                steps=max(size.steps, 20),
                observers=[clock],
            )
            block = prompts[start : start + size.block]
            config = RunConfig.parse({**plain, "prompts": block, "seeds": [SEED]})
            loaded = loaded or load(config)
            climb(loaded, config, clock, reached[name])

    yield from figures(reached)


def figures(reached: dict[str, Reached]) -> Iterator[Figure]:
    """What the rules reached, as figures."""
    paper = reached["paper"]
    for name, (text, _, _) in RULES.items():
        found = reached[name]
        count = len(found.gains)

        def gain(chosen: Sequence[int], found: Reached = found) -> float:
            return sum(found.gains[i] for i in chosen) / len(chosen)

        def rate(chosen: Sequence[int], found: Reached = found) -> float:
            return sum(found.gains[i] for i in chosen) / sum(found.seconds[i] for i in chosen)

        def against(chosen: Sequence[int], found: Reached = found) -> float:
            published = rate(chosen, paper)
            return rate(chosen, found) / published if published > 0 else math.inf

        yield resampled(f"rivals.{name}.gain", f"{text}: gain of {REWARD}", count, gain, "")
        mean_seconds = sum(found.seconds) / count
        yield exact(f"rivals.{name}.seconds", f"{text}: cost an image", mean_seconds, "CPU s")
        if name != "paper":
            words = f"{text}: gain a second"
            unit = "times the published"
            yield resampled(f"rivals.{name}.rate", words, count, against, unit)
