"""Compare what climbs rewards without a gradient, at equal reward calls; see the how-to page.

    python docs/figures/black_box.py --work runs/black-box

Each seed and reward is run for 20 prompts by each method; finished rows are in `black-box.csv` of
the folder and are not run again. The table of seeds that all methods have finished is printed.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import dno_emoji
import torch
from dno_builtin.regularizers.gaussianity import Gaussianity
from torch import Tensor
from transformers import ResNetForImageClassification

import dno
from dno.plugin import BuildContext

ANIMALS = (
    "bat", "bee", "bird", "camel", "chicken", "deer", "dolphin", "fish", "fox", "goat", "gorilla",
    "horse", "lion", "llama", "mouse", "rabbit", "raccoon", "rat", "shark", "sheep",
)  # fmt: skip
"""Those that no option was chosen on."""
SEEDS = (11, 12, 13)
STUDENT = 2.093
"""97.5 % point of Student's t with 19 degrees of freedom."""
FIELDS = (
    "reward", "seed", "method", "animal", "start", "best", "calls", "network_evaluations",
    "cpu_seconds", "log_p", "p_under_05", "p_under_01", "start_p_under_05", "start_p_under_01",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """An optimizer, and the iterations that are 48 reward calls of it."""

    options: dict[str, Any]
    iterations: int = 47


METHODS = {
    "local-search": Method({"use": "local-search", "beta": 0.6}),
    "best-of-n": Method({"use": "best-of-n"}),
    "trust-region": Method({"use": "trust-region"}),
    "surrogate": Method(
        {"use": "surrogate", "warm_up": 8, "samples": 2, "size": 0.6, "step": 8.0, "ridge": 0.1}, 14
    ),
}
OURS = "local-search"
"""The default, to which the others are compared."""


class Judge:
    """A black box: mean of the judge's probabilities of animal and colour, in whole tenths."""

    differentiable = False

    def __init__(self) -> None:
        folder = Path(dno_emoji.__file__).parent / "judge"
        model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval()
        self.place = {name: int(index) for index, name in model.config.id2label.items()}

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


def session(reward: Any) -> dno.Session:
    """Models for one reward: ten steps without guidance."""
    return dno.load(
        reward=reward,
        regularizer=[],
        sampler={"use": "ddim", "steps": 10, "guidance_scale": 1.0},
        device="cpu",
        settings={"reports": []},
    )


def unlikely(noise_BN: Tensor, level: float) -> list[int]:
    """How many of each noise's twelve p-values are under a level."""
    draws = ((24, 8, 8),) * (noise_BN.shape[1] // (24 * 64))
    context = BuildContext(torch.device("cpu"), torch.float32, draws)
    figures = Gaussianity().build(context)(noise_BN, []).figures
    values = torch.stack([value for name, value in figures.items() if name.startswith("p_")])
    return (values < level).sum(0).tolist()


def rows_of(reward: str, seed: int, method: str, result: dno.Result, cpu: float) -> list[list[Any]]:
    """What the table keeps of a run, a row for each prompt."""
    meter = result.raise_for_status().meter()
    log_p_B = next(iter(result.best.log_p.values()))
    columns = [
        result.initial.score_B.tolist(),
        result.best.score_B.tolist(),
        [meter["reward_calls"]] * len(ANIMALS),
        [meter["network_evaluations"]] * len(ANIMALS),
        [cpu / len(ANIMALS)] * len(ANIMALS),
        log_p_B.tolist(),
        *(unlikely(result.best.noise_BN, level) for level in (0.05, 0.01)),
        *(unlikely(result.initial.noise_BN, level) for level in (0.05, 0.01)),
    ]
    values = zip(*columns, strict=True)
    return [[reward, seed, method, a, *v] for a, v in zip(ANIMALS, values, strict=True)]


def run_all(table: Path) -> None:
    """Run what the table has not yet."""
    done = {(row["reward"], row["seed"], row["method"]) for row in read(table)}
    sessions: dict[str, dno.Session] = {}
    cases = [(seed, reward, method) for seed in SEEDS for reward in REWARDS for method in METHODS]
    for seed, reward, method in cases:
        if (reward, str(seed), method) in done:
            continue
        make, form = REWARDS[reward]
        if reward not in sessions:
            sessions[reward] = session(make())
        chosen = METHODS[method]
        began = process_time()
        result = sessions[reward].optimize(
            [form.format(animal) for animal in ANIMALS],
            optimizer=chosen.options,
            iterations=chosen.iterations,
            seed=seed,
        )
        rows = rows_of(reward, seed, method, result, process_time() - began)
        write(table, rows)
        print(reward, seed, method, "done", flush=True)


def read(table: Path) -> list[dict[str, str]]:
    """The rows so far."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Put rows behind those that there are."""
    new = not table.exists()
    with table.open("a", newline="") as file:
        out = csv.writer(file)
        if new:
            out.writerow(FIELDS)
        out.writerows(rows)


def interval(values: Tensor) -> str:
    """A mean over prompts with its 95 % t interval."""
    half = STUDENT * values.std() / len(values) ** 0.5
    return f"{values.mean():+.3f} ± {half:.3f}"


def tell(rows: Sequence[dict[str, str]], reward: str) -> None:
    """The table of one reward, over the seeds that every method has finished."""
    gains: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["reward"] == reward:
            gain = float(row["best"]) - float(row["start"])
            gains.setdefault((row["method"], row["seed"]), {})[row["animal"]] = gain
    seeds = [str(s) for s in SEEDS if all((method, str(s)) in gains for method in METHODS)]
    if not seeds:
        return

    mean = {}
    for method in METHODS:
        by_seed = [[gains[method, seed][animal] for animal in ANIMALS] for seed in seeds]
        mean[method] = torch.tensor(by_seed).mean(0)
    print(f"\n{reward}, seeds {', '.join(seeds)}\n")
    print(f"| method | gain | {OURS} less it | higher, lower | network evaluations | CPU s "
          "| p < 0.05, 0.01 (start) | least log P |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for method in METHODS:
        mine = [
            row
            for row in rows
            if (row["reward"], row["method"]) == (reward, method) and row["seed"] in seeds
        ]
        difference = mean[OURS] - mean[method]
        against = "| "
        if method != OURS:
            higher, lower = int((difference > 0).sum()), int((difference < 0).sum())
            against = f"{interval(difference)} | {higher}, {lower}"
        seconds = sum(float(row["cpu_seconds"]) for row in mine) / len(mine)
        counts = [sum(int(row[name]) for row in mine) for name in FIELDS[-4:]]
        print(
            f"| `{method}` | {interval(mean[method])} | {against} "
            f"| {mine[0]['network_evaluations']} | {seconds:.1f} "
            f"| {counts[0]}, {counts[1]} ({counts[2]}, {counts[3]}) of {12 * len(mine)} "
            f"| {min(float(row['log_p']) for row in mine):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/black-box"))
    parser.add_argument("--tell", action="store_true", help="print the table and run nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    table = given.work / "black-box.csv"
    if not given.tell:
        run_all(table)
    for reward in REWARDS:
        tell(read(table), reward)


if __name__ == "__main__":
    main()
