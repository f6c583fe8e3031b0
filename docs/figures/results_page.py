"""From the runs of results.py: the tables and figures of results.md, and the CSVs beside it.

    python docs/figures/results_page.py --work runs/results

Nothing is run here. The page, docs/explanation/results.md, keeps its prose: tables go between
`<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import ANIMALS, CASES, SEEDS, Case
from transformers import ResNetForImageClassification

from dno.plugin import find_model

PAGE = Path(__file__).parents[1] / "explanation" / "results.md"
PROMPTS = len(ANIMALS)
T_QUANTILE = 2.093024  # 97.5 % of Student's t with PROMPTS - 1 = 19 degrees of freedom
Z_QUANTILE = 1.959964  # 97.5 % of N(0, 1)
ROUNDING = 1e-9
RESAMPLED = 2000
"""Bootstrap samples of the prompts."""
ANIMAL_LABELS = 45  # the judge names animals first, then colours
JUDGE_SEES = 32  # pixels a side, enlarged twice
KEPT = ("p_norm", "p_spectrum", "p_together", "p_channels", "p_draw_norms")
"""Tests whose figures the shell keeps by construction; all others are free."""
GAINS = (0.05, 0.10, 0.20)
LEVELS = (0.05, 0.01)
Row = dict[str, Any]
Values = Mapping[tuple[str, int], float]
"""A value of each (prompt, seed)."""


@dataclass(frozen=True)
class Rule:
    """A way to climb, as a row of a table."""

    label: str
    case: str
    colour: str = "#777777"
    line: str = "-"


OURS_AT = (3, 6, 12, 24)
OUR_COLOUR = "#D55E00"


def _rules(reward: str) -> list[Rule]:
    """The rules of one reward at 50 steps, as far as they were run."""
    known = {case.name for case in CASES}
    rules = [
        Rule(f"ours, {count} coarse iterations", f"{reward}-ours-{count}", OUR_COLOUR)
        for count in OURS_AT
    ]
    rules += [
        Rule("ours, on 50 steps", f"{reward}-ours-fine", "#CC79A7"),
        Rule("published: AdamW, γ = 1", f"{reward}-paper", "#000000"),
        Rule("Adam 0.03, γ = 0", f"{reward}-adam-free", "#0072B2"),
        Rule("Adam 0.03, γ = 0, coarse", f"{reward}-adam-free-coarse", "#0072B2", "--"),
        Rule("ReNO's rule", f"{reward}-reno", "#009E73"),
        Rule("ReNO's rule, coarse", f"{reward}-reno-coarse", "#009E73", "--"),
        Rule("Langevin", f"{reward}-langevin", "#56B4E9"),
        Rule("best of n", f"{reward}-best-of-n", "#E69F00"),
        Rule("local search", f"{reward}-local-search", "#E69F00", "--"),
        Rule("trust region", f"{reward}-trust-region", "#E69F00", ":"),
    ]
    return [rule for rule in rules if rule.case in known]


def _short(prefix: str) -> list[Rule]:
    return [
        Rule("ours", f"{prefix}-ours", OUR_COLOUR),
        Rule("published: AdamW, γ = 1", f"{prefix}-paper", "#000000"),
        Rule("Adam 0.03, γ = 0", f"{prefix}-adam-free", "#0072B2"),
        Rule("ReNO's rule", f"{prefix}-reno", "#009E73"),
    ]


REWARDS = ("brightness", "darkness", "clip", "taste")
TABLES = {
    **{reward: _rules(reward) for reward in REWARDS},
    "steps-20": _short("steps-20"),
    "eta-0": _short("eta-0"),
}
OF_REWARD = {
    "brightness": "brightness (mean pixel)",
    "darkness": "darkness (1 − mean pixel)",
    "clip": "CLIP (cosine)",
    "taste": "taste (Bradley–Terry score)",
}
COMPARED = 12
"""Coarse iterations of ours that are set beside the other rules."""


def interval(values: Values) -> tuple[float, float]:
    """Mean and half-width of its 95 % t interval over the prompts.

    Seeds of one prompt are averaged first.
    """
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    means = [float(np.mean(seeds)) for seeds in by_prompt.values()]
    if len(means) != PROMPTS:
        raise ValueError(f"the quantile is for {PROMPTS} prompts, not {len(means)}")
    return float(np.mean(means)), T_QUANTILE * float(np.std(means, ddof=1)) / math.sqrt(PROMPTS)


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent trials."""
    z2 = Z_QUANTILE**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_interval(values: Values) -> tuple[float, float, float]:
    """Share of ones and its Wilson interval, for as many trials as agreement in prompts leaves.

    That number is the share's binomial variance over its variance between prompts, times the number
    of values; never more than the number of values.
    """
    share, half = interval(values)
    independent = share * (1 - share) / len(values)
    clustered = (half / T_QUANTILE) ** 2
    part = min(1.0, independent / clustered) if clustered else 1.0
    return share, *wilson(share, len(values) * part)


def difference(ours: Values, theirs: Values) -> Values:
    """Ours less theirs, where both have a value."""
    return {item: ours[item] - theirs[item] for item in ours if item in theirs}


@dataclass(frozen=True)
class Run:
    """One seed of a case: its prompts side by side."""

    case: Case
    seed: int
    facts: Mapping[str, Any]
    pictures: Mapping[str, np.ndarray]
    """`B x 3 x H x W` bytes, at the start, the best and the last noise."""

    @classmethod
    def read(cls, case: Case, seed: int, work: Path) -> Run | None:
        """The run in `work`; None where it is not there."""
        path = work / case.name / f"seed-{seed}.json"
        if not path.exists():
            return None
        with np.load(path.with_suffix(".npz")) as pictures:
            return cls(case, seed, json.loads(path.read_text()), dict(pictures))

    def gains(self) -> np.ndarray:
        """The best gain so far of each sample, by record; records of a coarse grid have none."""
        reward_TB = np.array(self.facts["reward"])
        counts_TB = np.array(self.facts["healthy"]) & self.fine()[:, None]
        gain_TB = np.where(counts_TB, reward_TB - reward_TB[0], -np.inf)
        gain_TB[0] = 0.0
        best: np.ndarray = np.maximum.accumulate(gain_TB, axis=0)
        return best

    def fine(self) -> np.ndarray:
        """Which records were made on the sampler's own grid."""
        return np.array([grid is None for grid in self.facts["grid"]])

    def costs(self) -> np.ndarray:
        """Seconds an image until each record's reward is known, without the step from there."""
        seconds_T = np.array(self.facts["seconds"])
        before_T = np.concatenate([[0.0], seconds_T[:-1]])
        # The last record is made without a gradient.
        looked = seconds_T[-1] - before_T[-1]
        costs: np.ndarray = (before_T + looked) / PROMPTS
        return costs

    def ended(self) -> np.ndarray:
        """The record at which each sample was done: alone, it would not have gone on.

        Samples whose gain was lost at a hand-over are moved on the fine grid until it is back; the
        others are only looked at beside them.
        """
        last = len(self.facts["seconds"]) - 1
        grids = self.facts["grid"]
        coarse = [t for t, grid in enumerate(grids) if grid is not None]
        if not coarse:
            return np.full(PROMPTS, last)
        ended_B = np.full(PROMPTS, coarse[-1] + 1)
        reward_TB = np.array(self.facts["reward"])
        for t in range(coarse[-1] + 2, last + 1):
            moved_B = reward_TB[t] != reward_TB[t - 1]
            ended_B[moved_B] = t
        return ended_B

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Costs, `T`, and gains so far, `T x B`, of what a run of any length would give.

        A run that is handed over has one such point, besides the start.
        """
        costs_T, gains_TB = self.costs(), self.gains()
        if all(grid is None for grid in self.facts["grid"]):
            return costs_T, gains_TB
        spent_B = costs_T[self.ended()]
        ends = [costs_T[0], float(spent_B.mean())]
        return np.array(ends), np.stack([gains_TB[0], gains_TB[-1]])

    def rows(self, judge: ResNetForImageClassification) -> Iterator[Row]:
        """A row for each prompt."""
        seen = {when: judged(judge, self.pictures[when]) for when in ("start", "best")}
        costs_T, ended_B = self.costs(), self.ended()
        for i, prompt in enumerate(self.case.prompts()):
            row: Row = {"case": self.case.name, "prompt": prompt, "seed": self.seed}
            for when in ("start", "best", "last"):
                row[f"reward_{when}"] = self.facts[when]["reward"][i]
            row["gain"] = row["reward_best"] - row["reward_start"]
            row["seconds"] = float(costs_T[ended_B[i]])
            row["moved"] = self.facts["moved"][i]
            for when in ("start", "best"):
                for name, values in self.facts[when]["monitors"].items():
                    row[f"{name.lower()}_{when}"] = values[i]
                row[f"log_p_{when}"] = min(v[i] for v in self.facts[when]["log_p"].values())
            _, colour, animal = prompt.split()
            for k, (what, asked) in enumerate((("animal", animal), ("colour", colour))):
                row |= {f"{what}_{when}": int(seen[when][i][k] == asked) for when in seen}
            for when in ("start", "best"):
                figures = self.facts[when]["figures"]
                row |= {f"{p}_{when}": figures[p][i] for p in figures if p.startswith("p_")}
            yield row


def judged(judge: ResNetForImageClassification, pictures: np.ndarray) -> list[tuple[str, str]]:
    """The animal and the colour that the judge sees in each picture, `B x 3 x H x W` bytes."""
    samples = torch.from_numpy(pictures).float() / 127.5 - 1
    with torch.no_grad():
        seen = torch.nn.functional.adaptive_avg_pool2d(samples, JUDGE_SEES)
        large = torch.nn.functional.interpolate(
            seen, scale_factor=2, mode="bilinear", align_corners=False
        )
        animals, colours = judge(large).logits.tensor_split([ANIMAL_LABELS], dim=1)
    names = judge.config.id2label
    found = zip(animals.argmax(1).tolist(), colours.argmax(1).tolist(), strict=True)
    return [(names[animal], names[ANIMAL_LABELS + colour]) for animal, colour in found]


@dataclass(frozen=True)
class Curve:
    """What a rule gives for how many seconds an image."""

    costs_T: np.ndarray
    gains_TP: np.ndarray
    """Means over seeds, by point and prompt."""

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Curve:
        """The means of one case's runs, as far as all of them go."""
        curves = [run.curve() for run in runs]
        length = min(len(costs) for costs, _ in curves)
        costs_T = np.mean([costs[:length] for costs, _ in curves], axis=0)
        return cls(costs_T, np.mean([gains[:length] for _, gains in curves], axis=0))

    @classmethod
    def through(cls, curves: Sequence[Curve]) -> Curve:
        """The start of the first, then the ends of all: runs of several lengths as one rule."""
        costs = [curves[0].costs_T[0], *(curve.costs_T[-1] for curve in curves)]
        gains = [curves[0].gains_TP[0], *(curve.gains_TP[-1] for curve in curves)]
        return cls(np.array(costs), np.stack(gains))

    def seconds_to(self, gain: float, prompts: np.ndarray) -> float:
        """When the mean gain of these prompts gets there; inf where it does not."""
        mean_T = np.maximum.accumulate(self.gains_TP[:, prompts].mean(axis=1))
        # A rule's own end is a goal too, and may differ by rounding.
        gain -= ROUNDING
        if mean_T[-1] < gain:
            return math.inf
        after = int(np.argmax(mean_T >= gain))
        if after == 0:
            return float(self.costs_T[0])
        rise = mean_T[after] - mean_T[after - 1]
        part = (gain - mean_T[after - 1]) / rise
        between = self.costs_T[after] - self.costs_T[after - 1]
        return float(self.costs_T[after - 1] + part * between)

    def gain_at(self, seconds: float) -> np.ndarray:
        """Mean gain of each prompt for so many seconds an image, `P`."""
        found = [np.interp(seconds, self.costs_T, gains_T) for gains_T in self.gains_TP.T]
        return np.array(found)


def resampled(value: Callable[[np.ndarray], float]) -> tuple[float, float, float]:
    """A value of all prompts, and its 95 % bootstrap interval over prompts."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, PROMPTS, (RESAMPLED, PROMPTS))
    values = np.sort([value(prompts) for prompts in drawn])
    low, high = values[round(0.025 * RESAMPLED)], values[round(0.975 * RESAMPLED) - 1]
    return value(np.arange(PROMPTS)), float(low), float(high)


class Curves:
    """The curves of all cases, over all their seeds or over some."""

    def __init__(self, runs: Mapping[tuple[str, int], Run]) -> None:
        self._runs = runs

    def seeds(self, case: str) -> tuple[int, ...]:
        """For which a case was run; one through all lengths of ours, where all of them were."""
        if case in self.names():
            return tuple(seed for name, seed in self._runs if name == case)
        lengths = [self.seeds(name) for name in self._lengths(case)]
        return tuple(seed for seed in SEEDS if lengths and all(seed in one for one in lengths))

    def names(self) -> list[str]:
        """Of the cases that were run."""
        return list(dict.fromkeys(name for name, _ in self._runs))

    def of(self, case: str, seeds: Sequence[int] | None = None) -> Curve:
        """A case's curve; of `<reward>-ours`, one through all lengths."""
        seeds = self.seeds(case) if seeds is None else seeds
        if case in self.names():
            return Curve.of([self._runs[case, seed] for seed in seeds])
        return Curve.through([self.of(name, seeds) for name in self._lengths(case)])

    def _lengths(self, ours: str) -> list[str]:
        lengths = [f"{ours}-{count}" for count in OURS_AT]
        return [name for name in lengths if name in self.names()]


class Tables:
    """Markdown tables from the rows of results.csv and the curves."""

    def __init__(self, rows: Sequence[Row], curves: Curves) -> None:
        self._by_case: dict[str, list[Row]] = {}
        for row in rows:
            self._by_case.setdefault(row["case"], []).append(row)
        self._curves = curves

    def values(self, case: str, key: str) -> Values:
        """What the case's rows say."""
        return {(row["prompt"], row["seed"]): float(row[key]) for row in self._by_case[case]}

    def _change(self, case: str, key: str) -> str:
        change = difference(self.values(case, f"{key}_best"), self.values(case, f"{key}_start"))
        mean, half = interval(change)
        return f"{mean:+.3f} ± {half:.3f}"

    def _share(self, case: str, key: str) -> str:
        share, low, high = share_interval(self.values(case, key))
        return f"{100 * share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"

    def _counts(self, case: str, when: str, *, free: bool) -> str:
        """How many tests of how many fell below each level."""
        values = [
            value
            for row in self._by_case[case]
            for name, value in row.items()
            if name.startswith("p_")
            and name.endswith(f"_{when}")
            and (name.removesuffix(f"_{when}") in KEPT) is not free
        ]
        return "/".join(str(sum(value < level for value in values)) for level in LEVELS)

    def climbed(self, rules: Sequence[Rule]) -> str:
        """What each rule reached, for how long, and what it did to noise and pictures."""
        first = self._by_case[rules[0].case]
        monitors = [key for key in ("clip", "colourfulness") if f"{key}_best" in first[0]]
        names = {"clip": "CLIP", "colourfulness": "colourfulness"}
        lines = _head(
            "rule",
            "seeds",
            "s an image",
            "gain",
            "samples that ended lower",
            *(f"held-out {names[key]}" for key in monitors),
            "animal right",
            "free tests < 0.05 / < 0.01",
            "the other five",
            "moved",
        )
        for rule in rules:
            rows = self._by_case[rule.case]
            gain, half = interval(self.values(rule.case, "gain"))
            cells = [
                f"{rule.label} (`{rule.case}`)",
                str(len({row["seed"] for row in rows})),
                f"{np.mean([row['seconds'] for row in rows]):.2f}",
                f"{gain:+.3f} ± {half:.3f}",
                str(sum(row["gain"] < 0 for row in rows)),
                *(self._change(rule.case, key) for key in monitors),
                self._share(rule.case, "animal_best"),
                self._counts(rule.case, "best", free=True),
                self._counts(rule.case, "best", free=False),
                f"{np.mean([row['moved'] for row in rows]):.0f}",
            ]
            lines.append(_line(cells))
        start = [
            "*the start*", "", "", "", "", *("" for _ in monitors),
            self._share(rules[0].case, "animal_start"),
            self._counts(rules[0].case, "start", free=True),
            self._counts(rules[0].case, "start", free=False), "0",
        ]  # fmt: skip
        lines.append(_line(start))
        return "\n".join(lines)

    def times(self, reward: str) -> str:
        """Seconds to equal gain, beside the published recipe's."""
        goals = [*GAINS, None] if reward != "taste" else [None]
        titles = [f"s to {gain:+.2f}" if gain else "s to the published end" for gain in goals]
        lines = _head("rule", *titles, "times faster to there", "gain at equal seconds, less ours")

        for rule in self._as_one(reward):
            # The same noise for all that are compared.
            compared = (rule.case, f"{reward}-paper", f"{reward}-ours")
            known = [self._curves.seeds(case) for case in compared]
            seeds = [seed for seed in SEEDS if all(seed in one for one in known)]
            if not seeds:
                continue
            curve = self._curves.of(rule.case, seeds)
            paper = self._curves.of(f"{reward}-paper", seeds)
            ours = self._curves.of(f"{reward}-ours", seeds)
            cells = [rule.label]
            for gain in goals:
                cells.append(_three(self._seconds(curve, paper, gain), "{:.2f}"))
            cells.append(_three(self._ratio(curve, paper), "{:.1f}"))
            is_ours = rule.case == f"{reward}-ours"
            cells.append("" if is_ours else self._less_ours(curve, ours))
            lines.append(_line(cells))
        return "\n".join(lines)

    def _as_one(self, reward: str) -> list[Rule]:
        """The rules, with the lengths of ours as one."""
        others = [rule for rule in _rules(reward) if not rule.case.removeprefix(f"{reward}-ours-")
                  .isdigit()]  # fmt: skip
        return [Rule("ours, coarse", f"{reward}-ours", OUR_COLOUR), *others]

    def _seconds(
        self, curve: Curve, paper: Curve, gain: float | None
    ) -> tuple[float, float, float]:
        def value(prompts: np.ndarray) -> float:
            goal = gain if gain else float(paper.gains_TP[-1, prompts].mean())
            return curve.seconds_to(goal, prompts)

        return resampled(value)

    def _ratio(self, curve: Curve, paper: Curve) -> tuple[float, float, float]:
        """The published recipe's seconds to its own end over the rule's to as much."""

        def value(prompts: np.ndarray) -> float:
            goal = float(paper.gains_TP[-1, prompts].mean())
            return paper.seconds_to(goal, prompts) / curve.seconds_to(goal, prompts)

        return resampled(value)

    def _less_ours(self, curve: Curve, ours: Curve) -> str:
        """The paired difference of gains where both have spent as much."""
        seconds = min(curve.costs_T[-1], ours.costs_T[-1])
        less_P = curve.gain_at(seconds) - ours.gain_at(seconds)
        half = T_QUANTILE * less_P.std(ddof=1) / math.sqrt(PROMPTS)
        return f"{less_P.mean():+.3f} ± {half:.3f} (at {seconds:.1f} s)"


def _head(*titles: str) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _three(values: tuple[float, float, float], form: str) -> str:
    """A value with its interval."""

    def shown(value: float) -> str:
        return form.format(value) if math.isfinite(value) else "never"

    value, low, high = values
    if not math.isfinite(value) or value == 0:
        return "–"
    return f"{shown(value)} ({shown(low)}–{shown(high)})"


def draw_climb(axis: Axes, reward: str, curves: Curves) -> None:
    """Mean gain against seconds an image."""
    for rule in (Rule("ours", f"{reward}-ours", OUR_COLOUR), *_rules(reward)):
        of_ours = rule.case.removeprefix(f"{reward}-ours-").isdigit()
        if of_ours or not curves.seeds(rule.case):
            continue
        curve = curves.of(rule.case)
        mean_T = curve.gains_TP.mean(axis=1)
        marker = "o" if rule.case == f"{reward}-ours" else ""
        axis.plot(
            curve.costs_T, mean_T, rule.line, color=rule.colour, label=rule.label, marker=marker,
            markersize=4, linewidth=2.4 if marker else 1.3,
        )  # fmt: skip
    axis.set_title(OF_REWARD[reward], fontsize=9)
    axis.set_xlabel("seconds an image (one CPU thread)", fontsize=8)
    axis.set_ylabel("mean gain", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def climbs(curves: Curves) -> Figure:
    """A panel a reward."""
    drawn = Figure(figsize=(9.2, 7.8), layout="constrained")
    axes = drawn.subplots(2, 2)
    for axis, reward in zip(axes.flat, REWARDS, strict=True):
        draw_climb(axis, reward, curves)
    # The first panel has every rule.
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center", ncols=4, fontsize=8, frameon=False,
    )  # fmt: skip
    return drawn


def cleanness(tables: Tables, rows: Sequence[Row]) -> Figure:
    """Gain against the share of samples whose noise some test rejects."""
    drawn = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = drawn.subplots()
    for rule in _rules("brightness"):
        found = [row for row in rows if row["case"] == rule.case]
        if not found:
            continue
        tests = [name for name in found[0] if name.startswith("p_") and name.endswith("_best")]
        rejected = [min(row[name] for name in tests) < 1e-3 for row in found]
        gain = float(np.mean([row["gain"] for row in found]))
        hollow = "none" if rule.line == "--" else rule.colour
        axis.scatter(100 * np.mean(rejected), gain, s=60, edgecolors=rule.colour, c=hollow)
        axis.annotate(
            rule.label, (100 * np.mean(rejected), gain), fontsize=7, xytext=(5, 3),
            textcoords="offset points",
        )  # fmt: skip
    axis.set_xlabel("samples with some test of Gaussianity below 0.001 (%)", fontsize=8)
    axis.set_ylabel("mean gain of brightness", fontsize=8)
    axis.set_xlim(-4, 125)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    return drawn


def strip(runs: Mapping[tuple[str, int], Run]) -> Figure:
    """Every second prompt of brightness, the first seed: the start, and where rules end."""
    names = (
        ("start", "brightness-paper", "start"),
        ("published", "brightness-paper", "best"),
        ("Adam, γ = 0", "brightness-adam-free", "last"),
        ("ReNO's rule, coarse", "brightness-reno-coarse", "last"),
        ("ours", f"brightness-ours-{COMPARED}", "best"),
    )
    shown = range(0, PROMPTS, 2)
    drawn = Figure(figsize=(9.6, 5.1), layout="constrained")
    axes = drawn.subplots(len(names), len(shown), squeeze=False)
    for line, (label, case, when) in zip(axes, names, strict=True):
        run = runs.get((case, SEEDS[0]))
        for axis, i in zip(line, shown, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if run is not None:
                axis.imshow(run.pictures[when][i].transpose(1, 2, 0), interpolation="nearest")
        line[0].set_ylabel(label, fontsize=8)
    return drawn


def filled(text: str, tables: Mapping[str, str]) -> str:
    """The page with these tables between their marks.

    Raises:
        ValueError: a table has no place, or its place has no end.
    """
    for name, table in tables.items():
        before, mark, rest = text.partition(f"<!-- table: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(f'the page has no place for the table "{name}"')
        table = re.sub(r"(?<=[ (])-(?=\d)", "−", table)
        text = f"{before}{mark}{table}\n{end}{after}"
    return text


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows with 4 significant digits; what a row has not, and nan, is left empty."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else f"{value:.4g}"

    titles = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(titles)
        writer.writerows([cell(row.get(name, "")) for name in titles] for row in rows)


def write_page(work: Path, *, partial: bool = False) -> None:
    """Write the tables, CSVs and figures.

    Raises:
        SystemExit: runs are missing, and the page is not to be partial.
    """
    found = {(case.name, seed): Run.read(case, seed, work) for case in CASES for seed in SEEDS}
    missing = [case for (case, _), run in found.items() if run is None]
    if missing and not partial:
        names = ", ".join(f"{case} ({missing.count(case)})" for case in dict.fromkeys(missing))
        raise SystemExit(
            f"runs of these cases are missing: {names}; make them: python docs/figures/results.py"
        )
    runs = {key: run for key, run in found.items() if run}
    if not runs:
        raise SystemExit(f"there is no run in {work}")
    model = find_model("emoji-judge")
    judge = ResNetForImageClassification.from_pretrained(model, dtype=torch.float32).eval()
    rows = [row for run in runs.values() for row in run.rows(judge)]
    curves = Curves(runs)

    write_csv(PAGE.with_suffix(".csv"), rows)
    write_csv(PAGE.with_name("results-curves.csv"), _curve_rows(curves))
    tables = Tables(rows, curves)
    known = {row["case"] for row in rows}
    texts = {
        name: tables.climbed(there)
        for name, rules in TABLES.items()
        if (there := [rule for rule in rules if rule.case in known])
    }
    for reward in REWARDS:
        if curves.seeds(f"{reward}-paper") and curves.seeds(f"{reward}-ours"):
            texts[f"{reward}-times"] = tables.times(reward)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), texts), encoding="utf-8")
    figures = {
        "climb": climbs(curves),
        "cleanness": cleanness(tables, rows),
        "strip": strip(runs),
    }
    for name, figure in figures.items():
        figure.savefig(PAGE.with_name(f"results-{name}.png"), dpi=100)


def _curve_rows(curves: Curves) -> list[Row]:
    cases = [*curves.names(), *(f"{reward}-ours" for reward in REWARDS)]
    known = {case: curves.of(case) for case in cases if curves.seeds(case)}
    return [
        {"case": case, "seconds": float(seconds), "gain": float(gain)}
        for case, curve in known.items()
        for seconds, gain in zip(curve.costs_T, curve.gains_TP.mean(axis=1), strict=True)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--partial", action="store_true", help="take the runs that are there")
    args = parser.parse_args()
    write_page(args.work, partial=args.partial)
