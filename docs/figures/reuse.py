"""The measurements of docs/how-to/trade-exactness.md: what reusing deep features saves and costs.

    python docs/figures/reuse.py --work runs/reuse

On the embedded model, one thread, about ten minutes. What was measured is kept in files, so that
the command, stopped and started again, goes on where it was. Everything that is compared is
measured in turns in one process. When all is there the page's tables are written.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rules import COARSE, OURS, Clock, Options, settings
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dno import RunConfig, run
from dno.plugin import BuildContext
from dno.registry.registry import REWARDS, SAMPLERS
from dno.runs.intervals import interval

PAGE = Path(__file__).parents[1] / "how-to" / "trade-exactness.md"
ANIMALS = (
    "bat", "bee", "bird", "camel", "chicken", "deer", "dolphin", "fish", "fox", "goat", "gorilla",
    "horse", "lion", "llama", "mouse", "rabbit", "rat", "sheep", "spider", "tiger",
)  # fmt: skip
PROMPTS = tuple(f"a black {animal}" for animal in ANIMALS)
SEED = 31
EVERY = (2, 3, 5)
STEPS = (50, 20, 10)
TOGETHER = 4
"""Prompts that a climb takes side by side."""
CONTEXT = BuildContext(torch.device("cpu"), torch.float32)
WEIGHTLESS = BuildContext(torch.device("cpu"), torch.bfloat16, weightless=True)
MODELS = {"SD 1.5, 512 px": ("sd-1.5", 512), "SDXL, 1024 px": ("sdxl", 1024)}
REWARD = "brightness"

Map = Callable[[Tensor], Tensor]
Reward = Callable[[Tensor, Sequence[str]], Tensor]
Facts = dict[str, Any]
Rated = tuple[list[float], list[float]]
"""Gains, and the seconds that they took."""


@functools.cache
def sampler(steps: int, every: int) -> Any:
    """The embedded model, everything kept.

    It has been asked once: a network's first gradient is looked through for cuts, and costs more.
    """
    made = SAMPLERS.load("ddim")(steps=steps, reuse=every, memory="keep").build(CONTEXT)
    first = made.bind(["a cat"], [0])
    first(first.noise_BN.clone().requires_grad_())
    return made


def bound(prompts: Sequence[str], steps: int, every: int) -> Any:
    """The sampler bound to prompts and the seed."""
    return sampler(steps, every).bind(prompts, [SEED] * len(prompts))


# How near the gradient is, and what it costs.


def look(sample: Any, reward: Reward, prompt: str) -> tuple[float, Tensor, float]:
    """Reward and gradient where the seed starts, and CPU seconds."""
    began = time.process_time()
    leaf_BN = sample.noise_BN.clone().requires_grad_()
    value_B = reward(sample(leaf_BN), [prompt])
    (slope_BN,) = torch.autograd.grad(value_B.sum(), leaf_BN)
    return value_B.item(), slope_BN.flatten(), time.process_time() - began


def measure_gradients(work: Path) -> None:
    """A file for each prompt and number of steps."""
    reward = REWARDS.load(REWARD)().build(CONTEXT)
    for steps in STEPS:
        for prompt in PROMPTS:
            found = work / f"gradient-{steps}-{prompt.replace(' ', '-')}.json"
            if found.exists():
                continue
            facts: Facts = {}
            maps = {every: bound([prompt], steps, every) for every in (1, *EVERY)}
            looks = {every: look(maps[every], reward, prompt) for every in maps}
            value, slope, seconds = looks[1]
            for every in EVERY:
                other, other_slope, other_seconds = looks[every]
                facts[str(every)] = {
                    "cosine": cosine_similarity(slope, other_slope, dim=0).item(),
                    "off": abs(other - value),
                    "price": other_seconds / seconds,
                }
            keep(found, facts)
            print(found.name, facts, flush=True)


# Whether it climbs better.


@dataclass(frozen=True)
class Climb:
    """One way to climb."""

    name: str
    told: str
    """What the table calls it."""
    iterations: int
    every: int = 1
    options: Options = field(default_factory=dict)


PAIRS = (
    (
        Climb("default", "the default: 15 on 10 steps, handed over", 15, 1, {**OURS, **COARSE}),
        Climb("default-2", "the same, `reuse` 2", 15, 2, {**OURS, **COARSE}),
    ),
    (
        Climb("all", "6 on all 50 steps", 6, 1, OURS),
        Climb("all-2", "the same, `reuse` 2", 6, 2, OURS),
    ),
)
"""Each climb, and the same with features reused."""


def measure_climbs(work: Path, pair: Sequence[Climb]) -> None:
    """A file for each of two ways to climb, and few prompts."""
    reward = REWARDS.load(REWARD)().build(CONTEXT)
    for first in range(0, len(PROMPTS), TOGETHER):
        prompts = PROMPTS[first : first + TOGETHER]
        # In turns, the other one first each time.
        turn = first // TOGETHER % 2
        for climb in (pair[turn], pair[1 - turn]):
            found = work / f"climb-{climb.name}-at-{first}.json"
            if not found.exists():
                facts = climbed(climb, prompts, reward)
                keep(found, facts)
                print(found.name, facts["gain"], facts["seconds"], flush=True)


def climbed(climb: Climb, prompts: Sequence[str], reward: Reward) -> Facts:
    """What one climb gained, by the sampler's own picture and by the plain sampler's."""
    clock = Clock()
    options = settings(
        climb.options,
        prompts=prompts,
        seed=SEED,
        reward=REWARD,
        iterations=climb.iterations,
        observers=[clock],
    )
    options["sampler"]["reuse"] = climb.every
    result = run(RunConfig.parse(options)).raise_for_status()

    plain = bound(prompts, 50, 1)
    with torch.no_grad():
        start_B = reward(plain(result.initial.noise_BN), prompts)
        best_B = reward(plain(result.best.noise_BN), prompts)
    return {
        "gain": (result.best.score_B - result.initial.score_B).tolist(),
        "plain": (best_B - start_B).tolist(),
        "seconds": clock.seconds[-1] / len(prompts),
        "clock": [seconds / len(prompts) for seconds in clock.seconds],
        "trace": [list(record.rewards[REWARD]) for record in result.history],
        "grid": [record.grid for record in result.history],
    }


def keep(file: Path, facts: Facts) -> None:
    """Write a file whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(facts))
    part.replace(file)


# What full-size networks compute, from their configurations alone.


def measure_arithmetic(work: Path) -> None:
    """A file for each model of full size, none of whose weights are needed."""
    for name, (folder, size) in MODELS.items():
        found = work / f"arithmetic-{folder}.json"
        if found.exists():
            continue
        flop = {}
        for every in (1, *EVERY):
            sampler = SAMPLERS.load("ddim")(
                model=str(Path(__file__).parent / "models" / folder),
                height=size,
                width=size,
                reuse=every,
                memory="keep",
            ).build(WEIGHTLESS)
            flop[str(every)] = sampler.bind(["a black cat"], [0]).footprint.flop
        keep(found, {"name": name, "flop": flop})
        print(found.name, flop, flush=True)


# The page's tables.


def told(values: Sequence[float], digits: int) -> str:
    """A mean and its 95 % interval."""
    found = interval(list(values))
    return f"{found.mean:.{digits}f} ± {found.half:.{digits}f}"


def gradient_table(work: Path) -> str:
    """How near the gradient is, and what it costs."""
    lines = [
        "| steps | `reuse` | time of an iteration | cosine of the gradient: mean | median | least "
        "| reward off: mean | most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for steps in STEPS:
        facts = [json.loads(file.read_text()) for file in sorted(work.glob(f"gradient-{steps}-*"))]
        assert len(facts) == len(PROMPTS), f"{steps} steps are not measured yet"
        for every in EVERY:
            rows = [fact[str(every)] for fact in facts]
            cosines = [row["cosine"] for row in rows]
            off = [row["off"] for row in rows]
            lines.append(
                f"| {steps} | {every} | {told([row['price'] for row in rows], 2)} "
                f"| {told(cosines, 2)} | {statistics.median(cosines):.3f} | {min(cosines):.2f} "
                f"| {sum(off) / len(off):.4f} | {max(off):.3f} |"
            )
    return "\n".join(lines)


def climb_table(work: Path) -> str:
    """Whether it climbs better: gains of the picture that the plain sampler draws."""
    lines = [
        "| climb | CPU s a prompt | gain, own picture | gain, plain picture "
        "| plain gain a second, over that without |",
        "|---|---|---|---|---|",
    ]
    for climb in (climb for pair in PAIRS for climb in pair):
        files = sorted(work.glob(f"climb-{climb.name}-at-*.json"))
        facts = [json.loads(file.read_text()) for file in files]
        assert len(facts) * TOGETHER == len(PROMPTS), f"{climb.name} is not measured yet"
        gains = [gain for fact in facts for gain in fact["gain"]]
        plain = [gain for fact in facts for gain in fact["plain"]]
        seconds = [fact["seconds"] for fact in facts for _ in range(TOGETHER)]
        if climb.every == 1:
            reference = plain, seconds
        ratio = ratio_of_rates((plain, seconds), reference) if climb.every > 1 else "1"
        lines.append(
            f"| {climb.told} | {sum(seconds) / len(seconds):.1f} | {told(gains, 3)} "
            f"| {told(plain, 3)} | {ratio} |"
        )
    return "\n".join(lines)


def ratio_of_rates(ours: Rated, theirs: Rated) -> str:
    """Gain a second over another climb's, with a 95 % bootstrap interval over the prompts."""
    values = torch.tensor([*ours, *theirs], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(values.shape[1], (2000, values.shape[1]), generator=generator)
    sums = values[:, draws].sum(dim=2)
    ratios = (sums[0] / sums[1]) / (sums[2] / sums[3])
    whole = values.sum(dim=1)
    middle = (whole[0] / whole[1]) / (whole[2] / whole[3])
    low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def arithmetic_table(work: Path) -> str:
    """Floating-point operations of an iteration."""
    heads = " | ".join(f"`reuse` {every}" for every in EVERY)
    lines = [f"| model | TFLOP | {heads} |", f"|---|---|{'---|' * len(EVERY)}"]
    for folder, _ in MODELS.values():
        facts = json.loads((work / f"arithmetic-{folder}.json").read_text())
        full = facts["flop"]["1"]
        shares = " | ".join(f"{facts['flop'][str(every)] / full:.2f}" for every in EVERY)
        lines.append(f"| {facts['name']} | {full / 1e12:.0f} | {shares} |")
    return "\n".join(lines)


def write_tables(work: Path) -> None:
    """Put each table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {
        "gradients": gradient_table(work),
        "arithmetic": arithmetic_table(work),
        "climbs": climb_table(work),
    }
    for name, table in tables.items():
        marks = rf"(?<=<!-- table of {name} -->\n).*?(?=\n<!-- end of the table -->)"
        text = re.sub(marks, lambda _, table=table: f"\n{table}\n", text, flags=re.S)
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/reuse"))
    climbs = {pair[0].name: pair for pair in PAIRS}
    parts = ("gradients", "arithmetic", *climbs)
    parser.add_argument("--only", choices=parts, help="measure a part, and write no tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)

    if args.only in (None, "gradients"):
        measure_gradients(args.work)
    if args.only in (None, "arithmetic"):
        measure_arithmetic(args.work)
    for part, pair in climbs.items():
        if args.only in (None, part):
            measure_climbs(args.work, pair)
    if args.only is None:
        write_tables(args.work)


if __name__ == "__main__":
    main()
