"""The measurements of docs/explanation/results.md, on the embedded model.

    python docs/figures/results.py --work runs/results

Each case below is run for 20 prompts x 3 seeds; a run takes the prompts of one seed side by side.
What a run gave is kept in a file, so that the command, stopped and started again, goes on where it
was, and several processes may share the work. When all runs are there the page is written.

Costs are seconds of one CPU thread. The iterations below were chosen so that the rules of a table
cost about as much as eight iterations of the published recipe; they, the prompts, the seeds and all
settings were written down before the first of these runs. The trust region's case was added when
the others had been seen, with that search's defaults.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rules import (
    ADAM_FREE,
    COARSE,
    OURS,
    PAPER,
    RENO,
    UNREPAIRED,
    Clock,
    Options,
    search,
    settings,
)
from taste import Colourfulness, taste

from dno import Result, RunConfig, run

ANIMALS = (
    "bat", "bee", "bird", "camel", "chicken", "deer", "dolphin", "fish", "fox", "goat", "gorilla",
    "horse", "lion", "llama", "mouse", "rabbit", "rat", "sheep", "spider", "tiger",
)  # fmt: skip
"""None of these was used to choose a setting."""
SEEDS = (10, 11, 12)
FORMS = {
    "brightness": "a black {}",
    "darkness": "a white {}",
    "clip": "a green {}",
    "taste": "a brown {}",
}
"""What each reward is asked to climb on; the first two fight their prompts."""


@dataclass(frozen=True)
class Case:
    """One setting, run for every prompt and seed."""

    name: str
    reward: str
    iterations: int
    options: Options = field(default_factory=dict)
    steps: int = 50
    eta: float = 1.0

    def prompts(self) -> list[str]:
        """What is drawn, side by side."""
        return [FORMS[self.reward].format(animal) for animal in ANIMALS]

    def config(self, seed: int, work: Path, clock: object) -> RunConfig:
        """The run of one seed."""
        reward: Any = taste(work / "taste.safetensors") if self.reward == "taste" else self.reward
        monitors: list[Any] = [] if self.reward == "clip" else ["clip"]
        if self.reward == "taste":
            monitors.append(Colourfulness())
        return RunConfig.parse(
            settings(
                self.options,
                prompts=self.prompts(),
                seed=seed,
                reward=reward,
                iterations=self.iterations,
                steps=self.steps,
                eta=self.eta,
                monitors=monitors,
                observers=[clock],
            )
        )


def cases() -> Iterator[Case]:
    """Every case, those of one table one after the other."""
    for reward in ("brightness", "darkness", "clip", "taste"):
        yield Case(f"{reward}-paper", reward, 8, PAPER)
        for iterations in (3, 6, 12, 24) if reward != "taste" else (6, 12):
            yield Case(f"{reward}-ours-{iterations}", reward, iterations, {**OURS, **COARSE})
        yield Case(f"{reward}-adam-free", reward, 7, ADAM_FREE)
    for reward in ("brightness", "clip"):
        yield Case(f"{reward}-reno", reward, 7, RENO)
        yield Case(f"{reward}-best-of-n", reward, 13, search("best-of-n"))
        for name, rule in (("adam-free", ADAM_FREE), ("reno", RENO)):
            free = {**rule, **COARSE, **UNREPAIRED}
            yield Case(f"{reward}-{name}-coarse", reward, 12, free)
    yield Case("brightness-ours-fine", "brightness", 7, OURS)
    yield Case("brightness-local-search", "brightness", 13, search("local-search"))
    yield Case("brightness-trust-region", "brightness", 13, search("trust-region"))
    yield Case("brightness-langevin", "brightness", 7, search("langevin"))

    # Twenty steps, where a coarser grid is not worth it, and one draw of noise.
    for name, rule in (("paper", PAPER), ("adam-free", ADAM_FREE), ("reno", RENO), ("ours", OURS)):
        yield Case(f"steps-20-{name}", "brightness", 12, rule, steps=20)
    for name, rule in (("paper", PAPER), ("adam-free", ADAM_FREE), ("reno", RENO)):
        yield Case(f"eta-0-{name}", "brightness", 7, rule, eta=0.0)
    yield Case("eta-0-ours", "brightness", 12, {**OURS, **COARSE}, eta=0.0)


CASES = tuple(cases())


def finish(case: Case, seed: int, work: Path) -> None:
    """Make one run, unless it is there or another process makes it."""
    folder = work / case.name
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / f"seed-{seed}.json"
    claim = folder / f"seed-{seed}.claim"
    if found.exists() or not _claimed(claim):
        return

    clock = Clock()
    result = run(case.config(seed, work, clock)).raise_for_status()
    np.savez_compressed(
        folder / f"seed-{seed}.npz",
        start=_bytes(result.initial.samples),
        best=_bytes(result.best.samples),
        last=_bytes(result.last.samples),
    )
    part = folder / f"seed-{seed}.part"
    part.write_text(json.dumps(_facts(result, clock)))
    part.replace(found)
    rise = (result.best.score_B - result.initial.score_B).mean()
    print(f"{case.name} seed {seed}: rose by {rise:.3f} in {clock.seconds[-1]:.0f} s", flush=True)


def _claimed(claim: Path) -> bool:
    """Whether this process may make a run: no living one does."""
    try:
        holder = int(claim.read_text())
    except (FileNotFoundError, ValueError):
        holder = 0
    if holder and Path(f"/proc/{holder}").exists():
        return holder == os.getpid()
    claim.write_text(str(os.getpid()))
    return True


def _bytes(samples: torch.Tensor) -> np.ndarray:
    return (samples * 255).round().byte().numpy()


def _facts(result: Result, clock: Clock) -> dict[str, Any]:
    """What the page needs of a run, as JSON can hold it."""
    (climbed,) = result.climbed
    history = result.history
    moved_B = (result.best.noise_BN - result.initial.noise_BN).norm(dim=1)
    facts: dict[str, Any] = {
        "seconds": clock.seconds,
        "grid": [record.grid for record in history],
        "reward": [record.rewards[climbed] for record in history],
        "healthy": [record.healthy for record in history],
        "network_evaluations": [record.network_evaluations for record in history],
        "moved": moved_B.tolist(),
    }
    ends = {"start": result.initial, "best": result.best, "last": result.last}
    for name, snapshot in ends.items():
        facts[name] = {
            "reward": snapshot.rewards[climbed].tolist(),
            "monitors": _lists(snapshot.monitors),
            "log_p": _lists(snapshot.log_p),
            "figures": _lists(snapshot.figures),
        }
    return facts


def _lists(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    names = [case.name for case in CASES]
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=names, help="no page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)

    # Seed by seed, so that what else the machine does falls on all cases alike.
    for seed in SEEDS:
        for case in CASES:
            wanted = not args.only or case.name in args.only
            if wanted:
                finish(case, seed, args.work)
    if not args.only:
        from results_page import write_page

        write_page(args.work)


if __name__ == "__main__":
    main()
