"""From the CSVs of results.py: the tables and figures of results.md.

    python docs/figures/results_page.py

Nothing is run here. The page, docs/explanation/results.md, keeps its prose: tables go between
`<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cases import CASES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measured import Measured, Row

from dno.runs.intervals import over_prompts, t_quantile
from dno.runs.pace import Pace, Spread

PAGE = Path(__file__).parents[1] / "explanation" / "results.md"
ROWS = PAGE.with_suffix(".csv")
CURVES = PAGE.with_name("results-curves.csv")
STRIP = PAGE.with_name("results-strip.png")
Z_QUANTILE = 1.959964  # 97.5 % of N(0, 1)
KEPT = ("p_norm", "p_spectrum", "p_together", "p_channels", "p_draw_norms")
"""Tests whose figures the shell keeps by construction; all others are free."""
GAINS = (0.05, 0.10, 0.20)
LEVELS = (0.05, 0.01)
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
    mean = over_prompts(values)
    share = mean.mean
    prompts = len({prompt for prompt, _ in values})
    independent = share * (1 - share) / len(values)
    clustered = (mean.half / t_quantile(prompts - 1)) ** 2
    part = min(1.0, independent / clustered) if clustered else 1.0
    return share, *wilson(share, len(values) * part)


def through(lengths: Sequence[Pace]) -> Pace:
    """The start of the first, then the ends of all: runs of several lengths as one way."""
    shortest = lengths[0]
    seconds = [shortest.seconds[0], *(pace.end for pace in lengths)]
    gains = {
        prompt: [shortest.gains[prompt][0], *(pace.gains[prompt][-1] for pace in lengths)]
        for prompt in shortest.gains
    }
    return Pace(seconds, gains)


def paces_of(measured: Measured, reward: str) -> dict[str, Pace]:
    """The paces of a reward's rules at 50 steps, with the lengths of ours as one."""
    known = [(rule, measured.paces[rule.case]) for rule in _rules(reward)
             if rule.case in measured.paces]  # fmt: skip
    found = {rule.case: pace for rule, pace in known if not _is_length(rule)}
    lengths = [pace for rule, pace in known if _is_length(rule)]
    return {f"{reward}-ours": through(lengths), **found} if lengths else found


def _is_length(rule: Rule) -> bool:
    return rule.case.rpartition("-ours-")[2].isdigit()


def as_one(reward: str) -> list[Rule]:
    """The rules of a reward at 50 steps, with the lengths of ours as one."""
    others = [rule for rule in _rules(reward) if not _is_length(rule)]
    return [Rule("ours, coarse", f"{reward}-ours", OUR_COLOUR), *others]


def number(row: Row, key: str) -> float:
    """What a row says; `reward.` stands for the one that it climbs."""
    if key.startswith("reward."):
        when = key.removeprefix("reward.")
        (key,) = [n for n in row if n.startswith("rewards.") and n.endswith(f".{when}")]
    return float(row[key])


def gain(row: Row) -> float:
    """Best less start of what is climbed."""
    return number(row, "reward.best") - number(row, "reward.initial")


def by_item(rows: Sequence[Row], key: str) -> Values:
    """What each item's row says."""
    return {(row["prompt"], int(row["seed"])): number(row, key) for row in rows}


def change(rows: Sequence[Row], key: str) -> str:
    """How the best differs from the start, with its interval."""
    best = by_item(rows, f"{key}.best")
    start = by_item(rows, f"{key}.initial")
    less = over_prompts({item: best[item] - start[item] for item in best})
    return f"{less.mean:+.3f} ± {less.half:.3f}"


def tests(row: Row, when: str) -> dict[str, float]:
    """The p-values of a row's noise at the start or at the best."""
    ending = f".{when}"
    names = [name for name in row if name.startswith("p_") and name.endswith(ending)]
    return {name.removesuffix(ending): number(row, name) for name in names}


def counts(rows: Sequence[Row], when: str, *, free: bool) -> str:
    """How many tests fell below each level."""
    values = [
        value
        for row in rows
        for name, value in tests(row, when).items()
        if (name in KEPT) is not free
    ]
    return "/".join(str(sum(value < level for value in values)) for level in LEVELS)


def share(rows: Sequence[Row], when: str) -> str:
    """In how many pictures the judge sees the animal."""
    part, low, high = share_interval(by_item(rows, f"monitors.animal.{when}"))
    return f"{100 * part:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def mean_of(rows: Sequence[Row], key: str) -> float:
    """The mean over rows."""
    return math.fsum(number(row, key) for row in rows) / len(rows)


def climbed(rules: Sequence[Rule], measured: Measured) -> str:
    """What each rule reached, for how long, and what it did to noise and pictures."""
    names = {"monitors.clip": "CLIP", "monitors.Colourfulness": "colourfulness"}
    start = measured.of(rules[0].case)
    monitors = [key for key in names if f"{key}.best" in start[0]]
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
        rows = measured.of(rule.case)
        cells = [
            f"{rule.label} (`{rule.case}`)",
            str(len({row["seed"] for row in rows})),
            f"{mean_of(rows, 'seconds'):.2f}",
            change(rows, "reward"),
            str(sum(gain(row) < 0 for row in rows)),
            *(change(rows, key) for key in monitors),
            share(rows, "best"),
            counts(rows, "best", free=True),
            counts(rows, "best", free=False),
            f"{mean_of(rows, 'moved'):.0f}",
        ]
        lines.append(_line(cells))
    cells = [
        "*the start*", "", "", "", "", *("" for _ in monitors),
        share(start, "initial"),
        counts(start, "initial", free=True),
        counts(start, "initial", free=False), "0",
    ]  # fmt: skip
    return "\n".join([*lines, _line(cells)])


def times(reward: str, measured: Measured) -> str:
    """Seconds to equal gain, beside the published recipe's."""
    goals = GAINS if reward != "taste" else ()
    titles = [f"s to {goal:+.2f}" for goal in goals]
    lines = _head(
        "rule", *titles, "s to the published end", "times faster to there",
        "gain at equal seconds, less ours",
    )  # fmt: skip
    paces = paces_of(measured, reward)
    paper = paces[f"{reward}-paper"]
    ours = paces[f"{reward}-ours"]
    for rule in as_one(reward):
        pace = paces.get(rule.case)
        if pace is None:
            continue
        cells = [rule.label, *(_known(pace.seconds_to(goal), "{:.2f}") for goal in goals)]
        cells.append(_known(pace.seconds_to_end_of(paper), "{:.2f}"))
        cells.append(_known(pace.times_faster(paper), "{:.1f}"))
        less, seconds = pace.less(ours)
        beside = f"{less.mean:+.3f} ± {less.half:.3f} (at {seconds:.1f} s)"
        cells.append("" if pace is ours else beside)
        lines.append(_line(cells))
    return "\n".join(lines)


def _known(spread: Spread, form: str) -> str:
    """A value with its interval; a dash where it is never reached."""
    reached = math.isfinite(spread.value) and spread.value > 0
    return spread.shown(form) if reached else "–"


def _head(*titles: str) -> list[str]:
    return [_line(titles), "|" + "---|" * len(titles)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables(measured: Measured) -> dict[str, str]:
    """Every table of which something was measured, in Markdown."""
    found: dict[str, str] = {}
    for name, rules in TABLES.items():
        there = [rule for rule in rules if rule.case in measured.paces]
        if there:
            found[name] = climbed(there, measured)
    for reward in REWARDS:
        paces = paces_of(measured, reward)
        if f"{reward}-paper" in paces and f"{reward}-ours" in paces:
            found[f"{reward}-times"] = times(reward, measured)
    return found


def draw_climb(axis: Axes, reward: str, measured: Measured) -> None:
    """Mean gain against seconds an image."""
    paces = paces_of(measured, reward)
    for rule in as_one(reward):
        pace = paces.get(rule.case)
        if pace is None:
            continue
        ours = rule.case == f"{reward}-ours"
        axis.plot(
            pace.seconds, pace.mean, rule.line, color=rule.colour,
            label="ours" if ours else rule.label, marker="o" if ours else "",
            markersize=4, linewidth=2.4 if ours else 1.3,
        )  # fmt: skip
    axis.set_title(OF_REWARD[reward], fontsize=9)
    axis.set_xlabel("seconds an image (one CPU thread)", fontsize=8)
    axis.set_ylabel("mean gain", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def climbs(measured: Measured) -> Figure:
    """A panel a reward."""
    drawn = Figure(figsize=(9.2, 7.8), layout="constrained")
    axes = drawn.subplots(2, 2)
    for axis, reward in zip(axes.flat, REWARDS, strict=True):
        draw_climb(axis, reward, measured)
    # The first panel has every rule.
    drawn.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center", ncols=4, fontsize=8, frameon=False,
    )  # fmt: skip
    return drawn


def cleanness(measured: Measured) -> Figure:
    """Gain against the share of samples whose noise some test rejects."""
    drawn = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = drawn.subplots()
    for rule in _rules("brightness"):
        found = measured.of(rule.case)
        if not found:
            continue
        rejected = [min(tests(row, "best").values()) < 1e-3 for row in found]
        place = (100 * sum(rejected) / len(found), math.fsum(map(gain, found)) / len(found))
        hollow = "none" if rule.line == "--" else rule.colour
        axis.scatter(*place, s=60, edgecolors=rule.colour, c=hollow)
        axis.annotate(rule.label, place, fontsize=7, xytext=(5, 3), textcoords="offset points")
    axis.set_xlabel("samples with some test of Gaussianity below 0.001 (%)", fontsize=8)
    axis.set_ylabel("mean gain of brightness", fontsize=8)
    axis.set_xlim(-4, 125)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
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
        text = f"{before}{mark}{shown(table)}\n{end}{after}"
    return text


def shown(table: str) -> str:
    """A table with signs of minus in place of hyphens."""
    return re.sub(r"(?<=[ (])-(?=\d)", "−", table)


def write_page(measured: Measured) -> None:
    """Write the tables and figures."""
    text = filled(PAGE.read_text(encoding="utf-8"), tables(measured))
    PAGE.write_text(text, encoding="utf-8")
    climbs(measured).savefig(PAGE.with_name("results-climb.png"), dpi=100)
    cleanness(measured).savefig(PAGE.with_name("results-cleanness.png"), dpi=100)


if __name__ == "__main__":
    write_page(Measured.read(ROWS, CURVES))
