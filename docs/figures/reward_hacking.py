"""Measure what the permutation regularizer does to rewards that fight the prompt.

    python docs/figures/reward_hacking.py --work runs/reward-hacking

Brightness on "a black <animal>" and darkness on "a white <animal>", with gamma 0 and 1, each for 5
animals and 2 seeds: four studies, of which the items of a seed run side by side. The command goes
on where it was stopped. Writes the pictures, the CSV and the table of
docs/explanation/reward-hacking.md; `--quick` only prints the table of one animal, two iterations.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judge import seen
from matplotlib.figure import Figure
from PIL.Image import Image

import dno

PAGE = Path(__file__).parents[1] / "explanation" / "reward-hacking.md"
CSV = PAGE.with_suffix(".csv")
CASES = {"brightness": "a black {}", "darkness": "a white {}"}
ANIMALS = ("cat", "dog", "spider", "rabbit", "duck")
SEEDS = (0, 1)
GAMMAS = (0.0, 1.0)
SHOWN = {"brightness": "spider", "darkness": "rabbit"}
DPI = 130

Row = Mapping[str, str]
"""What one picture is, with the columns of the CSV."""
Runs = Mapping[tuple[str, int], dno.SavedRun]
"""Those of a study, by prompt and seed."""


def study(
    reward: str, gamma: float, work: Path, animals: Sequence[str], iterations: int
) -> dict[tuple[str, int], dno.SavedRun]:
    """The runs of one reward and gamma, made as far as they are not there.

    Raises:
        SystemExit: they were interrupted, or one failed.
    """
    found = dno.batch(
        [CASES[reward].format(animal) for animal in animals],
        seeds=SEEDS,
        out=work / f"{reward}-gamma-{gamma:g}",
        size=len(animals),
        reward=reward,
        optimizer="adam",
        regularizer={"use": "permutation", "weight": gamma},
        constraint=[],
        iterations=iterations,
        settings={"coarse": [], "observers": []},
    )
    if found.interrupted:
        raise SystemExit(130)
    if found.failed:
        raise SystemExit(f"failed: {', '.join(found.failed)}")
    runs = {run.items[0]: run for run in found.runs()}
    # As they were asked for.
    return {(row["prompt"], row["seed"]): runs[row["prompt"], row["seed"]] for row in found.rows}


def rows_of(reward: str, gamma: float, runs: Runs) -> Iterator[Row]:
    """Where each run begins and ends."""
    for place, picture in ((0, "initial"), (-1, "last")):
        for (prompt, seed), run in runs.items():
            record = run.history[place]
            ((animal, _),) = seen(_tensor(run.pictures(picture)[0]))
            yield {
                "reward": reward,
                "prompt": prompt,
                "seed": str(seed),
                "gamma": f"{gamma:g}",
                "iteration": str(record.iteration),
                "reward_value": f"{record.rewards[reward][0]:.4f}",
                "log_p": f"{record.log_p['permutation'][0]:.4f}",
                "judge_sees": animal,
            }


def _tensor(picture: Image) -> torch.Tensor:
    """`1 x 3 x H x W` in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def table(rows: Sequence[Row]) -> str:
    """What became of each reward and gamma, in Markdown."""
    lines = [
        "| reward | γ | reward from → to | final log P: median (least, most) | below −5 "
        "| judge sees the animal |",
        "|---|---|---|---|---|---|",
    ]
    for reward, gamma in dict.fromkeys((row["reward"], row["gamma"]) for row in rows):
        own = [row for row in rows if (row["reward"], row["gamma"]) == (reward, gamma)]
        first = [row for row in own if row["iteration"] == "0"]
        last = [row for row in own if row["iteration"] != "0"]
        rewards = [
            statistics.fmean(float(row["reward_value"]) for row in part) for part in (first, last)
        ]
        log_p = sorted(float(row["log_p"]) for row in last)
        hits = [
            sum(row["judge_sees"] == row["prompt"].split()[-1] for row in part)
            for part in (first, last)
        ]
        cells = [
            reward,
            gamma,
            f"{rewards[0]:.2f} → {rewards[1]:.2f}",
            f"{statistics.median(log_p):.2f} ({log_p[0]:.2f}, {log_p[-1]:.2f})",
            f"{sum(value < -5 for value in log_p)} of {len(log_p)}",
            f"{hits[0]} → {hits[1]} of {len(log_p)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(by_gamma: Mapping[float, Runs], reward: str) -> Figure:
    """Rows: the start, then where each gamma ends; a column a sample."""
    (_, first), *_ = by_gamma.items()
    rows = [("start", first, "initial")]
    rows += [(f"γ = {gamma:g}", runs, "last") for gamma, runs in by_gamma.items()]
    size = (len(first) * 0.9 + 0.8, len(rows) * 0.95 + 0.3)
    drawn = Figure(figsize=size, layout="constrained")
    axes = drawn.subplots(len(rows), len(first), squeeze=False)
    for (name, runs, when), line in zip(rows, axes, strict=True):
        for axis, run in zip(line, runs.values(), strict=True):
            _show(axis, run.pictures(when)[0])
        line[0].set_ylabel(name)
    drawn.suptitle(f'{reward} on "{CASES[reward].format("...")}"', fontsize=10)
    return drawn


def before_after(shown: Sequence[tuple[str, Sequence[Image]]]) -> Figure:
    """A row a prompt: the plain sample, without the regularizer, with it."""
    drawn = Figure(figsize=(6.2, 2.25 * len(shown)), layout="constrained")
    titles = ("plain sample", "γ = 0", "γ = 1")
    for row, ((name, pictures), axes) in enumerate(
        zip(shown, drawn.subplots(len(shown), 3, squeeze=False), strict=True)
    ):
        for axis, title, picture in zip(axes, titles, pictures, strict=True):
            _show(axis, picture)
            axis.set_title(title if row == 0 else "", fontsize=10)
        axes[0].set_ylabel(name, fontsize=10)
    return drawn


def _show(axis: Any, picture: Image) -> None:
    axis.imshow(np.asarray(picture), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def pictures_of(reward: str, by_gamma: Mapping[float, Runs]) -> tuple[str, list[Image]]:
    """The prompt that is shown large: its start, and where each gamma ends."""
    prompt = CASES[reward].format(SHOWN[reward])
    runs = [runs[prompt, SEEDS[0]] for runs in by_gamma.values()]
    ends = [run.pictures("last")[0] for run in runs]
    return f'"{prompt}"\n{reward}', [runs[0].pictures("initial")[0], *ends]


def write_page(found: Mapping[str, Mapping[float, Runs]], rows: Sequence[Row]) -> None:
    """The pictures, the CSV and the table."""
    for reward, by_gamma in found.items():
        drawn = figure(by_gamma, reward)
        drawn.savefig(PAGE.with_name(f"reward-hacking-{reward}.png"), dpi=DPI)
    shown = [pictures_of(reward, by_gamma) for reward, by_gamma in found.items()]
    before_after(shown).savefig(PAGE.with_name("before-after.png"), dpi=DPI)

    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    after = rest[rest.index("<!-- end of table -->") :]
    PAGE.write_text(f"{before}{mark}{table(rows)}\n{after}", encoding="utf-8")


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="default: runs/reward-hacking[-quick]")
    parser.add_argument("--quick", action="store_true", help="a little of it, and no page")
    given = parser.parse_args(args)
    work = given.work or Path(f"runs/reward-hacking{'-quick' if given.quick else ''}")
    animals, iterations = (ANIMALS[:1], 2) if given.quick else (ANIMALS, 60)

    found = {
        reward: {gamma: study(reward, gamma, work, animals, iterations) for gamma in GAMMAS}
        for reward in CASES
    }
    rows = [
        row
        for reward, by_gamma in found.items()
        for gamma, runs in by_gamma.items()
        for row in rows_of(reward, gamma, runs)
    ]
    if not given.quick:
        write_page(found, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
