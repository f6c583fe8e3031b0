"""Measure what the permutation regularizer does to rewards that fight the prompt.

    python docs/figures/reward_hacking.py --work runs/reward-hacking

Brightness on "a black <animal>" and darkness on "a white <animal>", with gamma 0 and 1, each for 5
animals and 2 seeds side by side. Runs are kept below --work; those that are finished are not run
again. Writes the pictures, the CSV and the table of docs/explanation/reward-hacking.md.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import ResNetForImageClassification

from dno import Result, RunConfig, resume, run
from dno.plugin import find_model

PAGE = Path(__file__).parents[1] / "explanation" / "reward-hacking.md"
CASES = {"brightness": "a black {}", "darkness": "a white {}"}
ANIMALS = ("cat", "dog", "spider", "rabbit", "duck")
SHOWN = {"brightness": "spider", "darkness": "rabbit"}
PUBLISHED = {"optimizer": "adam", "constraints": [], "coarse": []}
ANIMAL_LABELS = 45  # the judge names animals first, then colours
DPI = 130
JUDGE_SEES = 32  # pixels a side, enlarged twice


def outcome(
    reward: str, prompts: tuple[str, ...], gamma: float, iterations: int, work: Path
) -> Result:
    """The run in `work`, made, resumed or measured again as needed."""
    out = work / f"{reward}-gamma-{gamma:g}"
    if (out / "run.toml").exists():
        return resume(out)
    config = RunConfig.parse(
        {
            "prompts": prompts,
            "seeds": [0, 1],
            "iterations": iterations,
            "rewards": [reward],
            **PUBLISHED,
            "regularizers": [{"use": "permutation", "weight": gamma}],
            "observers": ["progress", "curve"],
        }
    )
    return run(config, out)


def animal_seen(judge: ResNetForImageClassification, samples: Tensor) -> list[str]:
    """What the judge takes each picture for."""
    with torch.no_grad():
        seen = torch.nn.functional.adaptive_avg_pool2d(samples * 2 - 1, JUDGE_SEES)
        large = torch.nn.functional.interpolate(
            seen, scale_factor=2, mode="bilinear", align_corners=False
        )
        best = judge(large).logits[:, :ANIMAL_LABELS].argmax(1)
    return [judge.config.id2label[i] for i in best.tolist()]


def figure(results: dict[float, Result], reward: str) -> Figure:
    """Rows: the start, then where each gamma ends; a column a sample."""
    rows = [("start", next(iter(results.values())).initial)] + [
        (f"γ = {g:g}", r.last) for g, r in results.items()
    ]
    count = len(rows[0][1].samples)
    drawn = Figure(figsize=(count * 0.9 + 0.8, len(rows) * 0.95 + 0.3), layout="constrained")
    for (name, snapshot), axes in zip(
        rows, np.atleast_2d(drawn.subplots(len(rows), count)), strict=True
    ):
        for i, axis in enumerate(axes):
            axis.imshow(
                snapshot.samples[i].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest"
            )
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel(name)
    drawn.suptitle(f'{reward} on "{CASES[reward].format("...")}"', fontsize=10)
    return drawn


def before_after(shown: list[tuple[str, list[Tensor]]]) -> Figure:
    """A row a prompt: the plain sample, without the regularizer, with it."""
    drawn = Figure(figsize=(6.2, 2.25 * len(shown)), layout="constrained")
    titles = ("plain sample", "γ = 0", "γ = 1")
    for row, ((name, pictures), axes) in enumerate(
        zip(shown, drawn.subplots(len(shown), 3), strict=True)
    ):
        for axis, title, picture in zip(axes, titles, pictures, strict=True):
            axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(title if row == 0 else "", fontsize=10)
        axes[0].set_ylabel(name, fontsize=10)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/reward-hacking"))
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--animals", nargs="+", default=list(ANIMALS))
    args = parser.parse_args()
    judge = ResNetForImageClassification.from_pretrained(
        find_model("emoji-judge"), dtype=torch.float32
    ).eval()

    table = [
        "| reward | γ | reward from → to | final log P: median (least, most) | below −5 "
        "| judge sees the animal |",
        "|---|---|---|---|---|---|",
    ]
    pairs = []
    raw = [
        ["reward", "prompt", "seed", "gamma", "iteration", "reward_value", "log_p", "judge_sees"]
    ]
    for reward, form in CASES.items():
        prompts = tuple(form.format(animal) for animal in args.animals)
        results = {
            gamma: outcome(reward, prompts, gamma, args.iterations, args.work)
            for gamma in (0.0, 1.0)
        }
        for gamma, result in results.items():
            first, last = result.history[0], result.history[-1]
            log_p = sorted(last.log_p["permutation"])
            seen = {
                record: animal_seen(judge, s.samples)
                for record, s in ((0, result.initial), (1, result.last))
            }
            asked = [prompt.split()[-1] for prompt, _ in result.items]
            hits = [sum(a == b for a, b in zip(seen[i], asked, strict=True)) for i in (0, 1)]
            cells = [
                reward,
                f"{gamma:g}",
                f"{np.mean(first.rewards[reward]):.2f} → {np.mean(last.rewards[reward]):.2f}",
                f"{np.median(log_p):.2f} ({log_p[0]:.2f}, {log_p[-1]:.2f})",
                f"{sum(p < -5 for p in log_p)} of {len(log_p)}",
                f"{hits[0]} → {hits[1]} of {len(asked)}",
            ]
            table.append(f"| {' | '.join(cells)} |")
            for when, record in ((0, first), (1, last)):
                for i, (prompt, seed) in enumerate(result.items):
                    log_p_i = record.log_p["permutation"][i]
                    values = f"{record.rewards[reward][i]:.4f}", f"{log_p_i:.4f}"
                    raw.append(
                        [
                            reward,
                            prompt,
                            str(seed),
                            f"{gamma:g}",
                            str(record.iteration),
                            *values,
                            seen[when][i],
                        ]
                    )
        prompt = form.format(SHOWN[reward])
        place = results[0.0].items.index((prompt, 0))
        pictures = [
            results[0.0].initial.samples[place],
            *(result.last.samples[place] for result in results.values()),
        ]
        pairs.append((f'"{prompt}"\n{reward}', pictures))
        figure(results, reward).savefig(PAGE.with_name(f"reward-hacking-{reward}.png"), dpi=DPI)

    before_after(pairs).savefig(PAGE.with_name("before-after.png"), dpi=DPI)
    with PAGE.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows(raw)
    before, mark, rest = PAGE.read_text().partition("<!-- table -->\n")
    PAGE.write_text(
        before + mark + "\n".join(table) + "\n" + rest[rest.index("<!-- end of table -->") :]
    )
    print("\n".join(table))


if __name__ == "__main__":
    main()
