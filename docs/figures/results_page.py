"""From the run folders of results.py: results.md's tables, its figures, and the CSVs beside it.

    python docs/figures/results_page.py --work runs/results

Nothing is run here. The page, docs/explanation/results.md, keeps its prose: tables go between
`<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers import ResNetForImageClassification

from dno import SavedRun, Status, StepRecord, open_run
from dno.plugin import find_model

PAGE = Path(__file__).parents[1] / "explanation" / "results.md"
PROMPTS = 20  # side by side in a run
T_QUANTILE = 2.093024  # 97.5 % of Student's t with PROMPTS - 1 = 19 degrees of freedom
Z_QUANTILE = 1.959964  # 97.5 % of N(0, 1)
FLOOR = -4.6
ANIMAL_LABELS = 45  # the judge names animals first, then colours
JUDGE_SEES = 32  # pixels a side, enlarged twice
WHEN = ("initial", "best", "last")
P_VALUES = ("p_mean", "p_norm", "p_covariance", "p_spectrum")
Row = dict[str, Any]
Values = Mapping[tuple[str, int], float]
"""A value of each (prompt, seed)."""

COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
)  # Okabe and Ito's; the first is a figure's default setting
RISE = {"brightness": "brightness", "darkness": "darkness", "CLIP": "clip"}
ETA = {"η = 1": "brightness", "η = 0.5": "eta-0.5", "η = 0": "eta-0"}
FREE = {"η = 1": "brightness-gamma-0", "η = 0": "eta-0-gamma-0"}
BRIGHT = {"γ = 1": "brightness", "γ = 0": "brightness-gamma-0", "γ auto": "brightness-gamma-auto"}
DARK = {"γ = 1": "darkness", "γ = 0": "darkness-gamma-0", "γ auto": "darkness-gamma-auto"}
JPEG = {"Hybrid-2": "jpeg-hybrid-2", "Hybrid-1": "jpeg-hybrid-1", "ZO-SGD": "jpeg-zo"}
WIDE = {f"{label}, μ = 0.1": f"{case}-wide" for label, case in JPEG.items()}
SEARCH = {
    "Adam": "clip",
    "best of n": "clip-best-of-n",
    "local search": "clip-local-search",
    "Langevin": "clip-langevin",
}
STEP_COUNTS = {"20 steps": "brightness", "5 steps": "steps-5", "50 steps": "steps-50"}
GAMMA = {
    f"{reward}, {name}": case
    for reward, settings in {"brightness": BRIGHT, "darkness": DARK}.items()
    for name, case in settings.items()
}
SECTIONS = {
    "rise": RISE,
    "eta": ETA | {f"{label}, γ = 0": case for label, case in FREE.items()},
    "gamma": GAMMA,
    "jpeg": JPEG | WIDE,
    "optimizers": SEARCH,
    "steps": STEP_COUNTS,
}
"""Of each section, its settings and their cases."""
PAIRS = {
    "eta": [
        ("brightness", "eta-0.5", "gain"),
        ("brightness", "eta-0", "gain"),
        ("eta-0.5", "eta-0", "gain"),
        ("brightness-gamma-0", "eta-0-gamma-0", "rise"),
    ],
    "gamma": [
        (ours, theirs, key)
        for one, none, auto in (BRIGHT.values(), DARK.values())
        for ours, theirs in ((one, none), (auto, none), (auto, one))
        for key in ("reward_last", "clip_last", "animal_last")
    ],
    "jpeg": [
        ("jpeg-hybrid-2", "jpeg-hybrid-1", "gain"),
        ("jpeg-hybrid-2", "jpeg-zo", "gain"),
        ("jpeg-hybrid-1", "jpeg-zo", "gain"),
        ("jpeg-hybrid-2-wide", "jpeg-hybrid-1-wide", "gain"),
        ("jpeg-hybrid-2-wide", "jpeg-zo-wide", "gain"),
        ("jpeg-hybrid-1-wide", "jpeg-zo-wide", "gain"),
    ],
    "optimizers": [
        ("clip", f"clip-{name}", "reward_best")
        for name in ("best-of-n", "local-search", "langevin")
    ],
    "steps": [("steps-5", "brightness", "gain"), ("steps-50", "brightness", "gain")],
}
"""Of each section, two cases and what is compared: the first less the second."""
QUANTITIES = {
    "gain": "reward, best less start", "rise": "reward, last less start",
    "reward_best": "reward, best", "reward_last": "reward, last",
    "clip_last": "held-out CLIP, last", "animal_last": "animal right, last",
}  # fmt: skip
Panel = tuple[Mapping[str, str], str, str, str]
"""Settings, x, y, and what y is."""
LUMA, DARKNESS, COSINE = "brightness (mean pixel)", "darkness (1 − mean pixel)", "CLIP (cosine)"
PANELS: dict[str, list[list[Panel]]] = {
    "rise": [
        [
            ({"": case}, x, "reward", what)
            for case, what in zip(RISE.values(), (LUMA, DARKNESS, COSINE), strict=True)
        ]
        for x in ("iteration", "seconds")
    ],
    "eta": [
        [(ETA, "iteration", "reward", f"{LUMA}, γ = 1"), (FREE, "iteration", "reward", "γ = 0")]
    ],
    "gamma": [
        [(BRIGHT, "iteration", "reward", LUMA), (DARK, "iteration", "reward", DARKNESS)],
        [
            (settings, "iteration", "log_p", "mean log P (natural log)")
            for settings in (BRIGHT, DARK)
        ],
    ],
    "jpeg": [
        [
            (JPEG, "reward_calls", "reward", "− JPEG size (kB), μ = 0.01"),
            (WIDE, "reward_calls", "reward", "μ = 0.1"),
        ]
    ],
    "optimizers": [
        [
            (SEARCH, x, "best_so_far", f"best so far, {COSINE}")
            for x in ("seconds", "network_evaluations")
        ]
    ],
    "steps": [
        [
            (STEP_COUNTS, x, "best_so_far", f"best so far, {LUMA}")
            for x in ("seconds", "network_evaluations")
        ]
    ],
}
"""Figures, as rows of panels."""


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
    return share, *wilson(
        share, len(values) * min(1.0, independent / clustered if clustered else 1.0)
    )


def difference(ours: Values, theirs: Values) -> Values:
    """Ours less theirs, where both have a value."""
    return {item: ours[item] - theirs[item] for item in ours if item in theirs}


def found_at(best_TB: np.ndarray) -> np.ndarray:
    """For each record and sample, the record in which the best so far was found.

    The first one while there is none.
    """
    before = np.vstack([np.full_like(best_TB[:1], -np.inf), best_TB[:-1]])
    places = np.where(best_TB > before, np.arange(len(best_TB))[:, None], 0)
    return np.maximum.accumulate(places, axis=0)


@dataclass(frozen=True)
class Run:
    """One run folder: T records of B samples."""

    saved: SavedRun
    case: str
    seed: int
    prompts: Sequence[str]
    reward: str

    @classmethod
    def read(cls, folder: Path) -> Run | None:
        """The run, if it has ended well."""
        if not (folder / "run.toml").exists():
            return None
        saved = open_run(folder)
        if saved.status not in (Status.FINISHED, Status.STOPPED):
            return None
        return cls(
            saved=saved,
            case=folder.parent.name,
            seed=int(folder.name.removeprefix("seed-")),
            prompts=saved.values["prompts"],
            reward=saved.values["rewards"][0]["use"],
        )

    @property
    def history(self) -> Sequence[StepRecord]:
        """The records."""
        return self.saved.history

    def series(self, kind: str, name: str) -> np.ndarray:
        """`T x B` values of a reward or figure; nan where there are none."""
        blank = (math.nan,) * len(self.prompts)
        return np.array([getattr(record, kind).get(name, blank) for record in self.history])

    def log_p(self) -> np.ndarray:
        """`T x B` values of the permutations' log P, which every case measures."""
        return self.series("log_p", "permutation")

    def clip(self) -> np.ndarray:
        """`T x B` values of the held-out CLIP, or of the CLIP that is climbed."""
        return self.series("rewards" if self.reward == "clip" else "monitors", "clip")

    def found(self) -> np.ndarray:
        """`found_at` of the run's own best."""
        return found_at(np.array([record.best for record in self.history]))

    def unevenness(self) -> float:
        """Of its iterations' times, the 90 % quantile over the 10 % one: 1 on an idle machine."""
        low, high = np.quantile(
            np.diff([record.seconds for record in self.history[:-1]]), (0.1, 0.9)
        )
        return float(high / low)

    def pictures(self, when: str) -> np.ndarray:
        """`B x H x W x 3` bytes."""
        return np.stack([np.asarray(picture) for picture in self.saved.pictures(when)])

    def rows(self, judge: ResNetForImageClassification) -> Iterator[Row]:
        """A row for each prompt."""
        count = len(self.prompts)
        at = {
            "initial": np.zeros(count, int),
            "best": self.found()[-1],
            "last": np.full(count, len(self.history) - 1),
        }
        series = {
            "reward": self.series("rewards", self.reward),
            "log_p": self.log_p(),
            "clip": self.clip(),
        }
        seen = {when: judged(judge, self.pictures(when)) for when in WHEN}
        for i, prompt in enumerate(self.prompts):
            row: Row = {
                "case": self.case,
                "reward": self.reward,
                "prompt": prompt,
                "seed": self.seed,
            }
            spent = ("iterations", "seconds", "network_evaluations", "reward_calls")
            row |= {key: self.saved.result[key] for key in spent}
            for name, values in series.items():
                row |= {f"{name}_{when}": float(values[at[when][i], i]) for when in WHEN}
            row |= {name: float(self.series("figures", name)[-1, i]) for name in P_VALUES}
            _, colour, animal = prompt.split()
            for k, (what, asked) in enumerate((("animal", animal), ("colour", colour))):
                row |= {f"{what}_{when}": int(seen[when][i][k] == asked) for when in WHEN}
            yield row


def judged(judge: ResNetForImageClassification, pictures: np.ndarray) -> list[tuple[str, str]]:
    """The animal and the colour that the judge sees in each picture."""
    samples = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        seen = torch.nn.functional.adaptive_avg_pool2d(samples, JUDGE_SEES)
        large = torch.nn.functional.interpolate(
            seen, scale_factor=2, mode="bilinear", align_corners=False
        )
        animals, colours = judge(large).logits.tensor_split([ANIMAL_LABELS], dim=1)
    names = judge.config.id2label
    found = zip(animals.argmax(1).tolist(), colours.argmax(1).tolist(), strict=True)
    return [(names[animal], names[ANIMAL_LABELS + colour]) for animal, colour in found]


def curve(runs: Sequence[Run]) -> list[Row]:
    """A case's means by iteration, as far as all its runs go."""
    rows = []
    rewards = [run.series("rewards", run.reward) for run in runs]
    bests = [
        np.take_along_axis(values, run.found(), 0)
        for run, values in zip(runs, rewards, strict=True)
    ]
    log_ps = [run.log_p() for run in runs]
    for t in range(min(len(run.history) for run in runs)):
        row: Row = {"case": runs[0].case, "iteration": runs[0].history[t].iteration}
        row["seconds"] = float(np.mean([run.history[t].seconds for run in runs]))
        row |= {
            key: getattr(runs[0].history[t], key) for key in ("network_evaluations", "reward_calls")
        }
        for name, many in (("reward", rewards), ("best_so_far", bests)):
            values = {
                (p, r.seed): v[t, i]
                for r, v in zip(runs, many, strict=True)
                for i, p in enumerate(r.prompts)
            }
            row[name], row[f"{name}_half_width"] = interval(values)
        row["log_p"] = float(np.mean([values[t] for values in log_ps]))
        rows.append(row)
    return rows


class Tables:
    """Markdown tables from the rows of results.csv."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_case: dict[str, list[Row]] = {}
        for row in rows:
            self._by_case.setdefault(row["case"], []).append(row)

    def values(self, case: str, key: str) -> Values:
        """What the case's rows say."""

        def value(row: Row) -> float:
            end = {"gain": "reward_best", "rise": "reward_last"}.get(key)
            return float(row[end] - row["reward_initial"] if end else row[key])

        return {(row["prompt"], row["seed"]): value(row) for row in self._by_case.get(case, ())}

    def _mean(self, case: str, key: str) -> str:
        mean, half = interval(self.values(case, key))
        return "–" if math.isnan(mean) else f"{mean:.3f} ± {half:.3f}"

    def _share(self, case: str, key: str) -> str:
        share, low, high = share_interval(self.values(case, key))
        return f"{100 * share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"

    def _lines(self, titles: Sequence[str], cases: Iterable[tuple[str, str]], cells: Any) -> str:
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for label, case in cases:
            seeds = len({row["seed"] for row in self._by_case.get(case, ())})
            name = (
                label
                + (f" (`{case}`)" if label != f"`{case}`" else "")
                + (f", {seeds} seeds" if seeds < 3 else "")
            )
            lines.append(
                f"| {' | '.join([name, *(cells(case) if seeds else ['–'] * (len(titles) - 1))])} |"
            )
        return "\n".join(lines)

    def rewards(self, cases: Mapping[str, str]) -> str:
        """How the reward rose, and what that cost."""

        def cells(case: str) -> list[str]:
            known = self._by_case[case]
            spent = [
                np.mean([row[key] for row in known])
                for key in ("iterations", "network_evaluations")
            ]
            calls = float(np.mean([row["reward_calls"] for row in known]))
            seconds = np.array([row["seconds"] for row in known]) / PROMPTS
            keys = ("reward_initial", "reward_best", "gain", "reward_last")
            return [
                *(self._mean(case, key) for key in keys),
                *(f"{value:.0f}" for value in (*spent, calls)),
                f"{seconds.mean():.1f} ({seconds.min():.1f}–{seconds.max():.1f})",
            ]

        titles = [
            "setting",
            "reward: start",
            "best",
            "best less start",
            "last",
            "iterations",
            "network evaluations",
        ]
        return self._lines(
            [*titles, "reward calls", "seconds an image (least–most)"], cases.items(), cells
        )

    def noise(self, cases: Mapping[str, str]) -> str:
        """Whether the noise still looks like N(0, I)."""

        def cells(case: str) -> list[str]:
            log_p = {when: list(self.values(case, f"log_p_{when}").values()) for when in WHEN}
            p = [np.median(list(self.values(case, name).values())) for name in P_VALUES]
            return [
                *(f"{np.median(log_p[when]):.2f} ({min(log_p[when]):.2f})" for when in WHEN),
                f"{sum(value < FLOOR for value in log_p['last'])} of {len(log_p['last'])}",
                *("–" if math.isnan(value) else f"{value:.2g}" for value in p),
            ]

        titles = ["case", "log P, median (least): start", "best", "last", f"last below {FLOOR}"]
        return self._lines(
            [*titles, "p of the mean", "norm", "covariance", "spectrum"], cases.items(), cells
        )

    def pictures(self, cases: Mapping[str, str]) -> str:
        """What CLIP and the judge see."""

        def cells(case: str) -> list[str]:
            clip = [self._mean(case, f"clip_{when}") for when in WHEN]
            return clip + [
                self._share(case, f"{what}_{when}")
                for what in ("animal", "colour")
                for when in WHEN
            ]

        titles = ["case", "CLIP: start", "best", "last", "animal right: start", "best", "last"]
        return self._lines([*titles, "colour right: start", "best", "last"], cases.items(), cells)

    def pairs(self, pairs: Iterable[tuple[str, str, str]]) -> str:
        """Paired differences."""
        lines = [
            "| first less second | of | difference | prompts with first higher, lower |",
            "|---|---|---|---|",
        ]
        for ours, theirs, key in pairs:
            change = difference(self.values(ours, key), self.values(theirs, key))
            cells = ["–", "–"]
            if change:
                mean, half = interval(change)
                prompts = {prompt for prompt, _ in change}
                means = [
                    np.mean([v for (p, _), v in change.items() if p == prompt])
                    for prompt in prompts
                ]
                cells = [
                    f"{mean:+.3f} ± {half:.3f}",
                    f"{sum(m > 0 for m in means)}, {sum(m < 0 for m in means)}",
                ]
            lines.append(f"| `{ours}` less `{theirs}` | {QUANTITIES[key]} | {' | '.join(cells)} |")
        return "\n".join(lines)


Curves = Mapping[str, Sequence[Row]]


def draw(axis: Axes, curves: Curves, panel: Panel) -> None:
    """Lines with their bands."""
    settings, x, y, what = panel
    for (label, case), colour, style in zip(
        settings.items(), COLOURS, ("-", "--", "-.", ":"), strict=False
    ):
        rows = curves.get(case, ())
        places = np.array([row[x] for row in rows]) / (PROMPTS if x == "seconds" else 1)
        means = np.array([row[y] for row in rows])
        axis.plot(places, means, color=colour, label=label, linestyle=style, linewidth=1.6)
        if half := [row[f"{y}_half_width"] for row in rows if f"{y}_half_width" in row]:
            axis.fill_between(
                places, means - half, means + half, color=colour, alpha=0.18, linewidth=0
            )
    if y == "log_p":
        axis.axhline(FLOOR, color="black", linewidth=0.8, linestyle=":")
    per_image = "" if x == "iteration" else " an image"
    axis.set_xlabel({"iteration": "iterations"}.get(x, x.replace("_", " ")) + per_image, fontsize=8)
    axis.set_ylabel(what, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def figures(curves: Curves) -> Iterator[tuple[str, Figure]]:
    """All figures of curves, by name."""
    for name, panels in PANELS.items():
        drawn = Figure(figsize=(3.1 * len(panels[0]), 2.5 * len(panels)), layout="constrained")
        axes = drawn.subplots(len(panels), len(panels[0]), squeeze=False)
        for axis, panel in zip(axes.flat, (panel for row in panels for panel in row), strict=True):
            draw(axis, curves, panel)
        for axis in axes.flat[: 2 if name == "eta" else 1]:
            if len(panels[0][0][0]) > 1:
                axis.legend(fontsize=8, frameon=False)
        yield name, drawn


def strip(runs: Mapping[tuple[str, int], Run]) -> Figure:
    """Every fourth prompt of both rewards, seed 0: the start, and where each gamma ends."""
    shown = list(range(0, PROMPTS, 4))
    drawn = Figure(figsize=(8.6, 3.9), layout="constrained")
    axes = drawn.subplots(4, 2 * len(shown), squeeze=False)
    for r, (title, end) in enumerate(
        (("start", ""), ("γ = 0", "-gamma-0"), ("γ = 1", ""), ("γ auto", "-gamma-auto"))
    ):
        for c, axis in enumerate(axes[r]):
            axis.set_xticks([])
            axis.set_yticks([])
            reward = ("brightness", "darkness")[c // len(shown)]
            if (run := runs.get((f"{reward}{end}", 0))) is None:
                continue
            i = shown[c % len(shown)]
            axis.imshow(run.pictures("last" if r else "initial")[i], interpolation="nearest")
            axis.set_title(run.prompts[i].removeprefix("a ") if r == 0 else "", fontsize=7)
        axes[r][0].set_ylabel(title, fontsize=9)
    drawn.suptitle("brightness on black animals, darkness on white ones", fontsize=9)
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
    """Rows with 4 significant digits; nan is left empty."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return "" if math.isnan(value) else f"{value:.4g}"

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([cell(value) for value in row.values()] for row in rows)


def write_page(work: Path, *, partial: bool = False) -> None:
    """Write the tables, CSVs and figures.

    Raises:
        SystemExit: runs are missing or have not ended, and the page is not to be partial.
    """
    # Here, because it imports this module.
    from results import ANIMALS, CASES, ITERATIONS, LR, SEEDS, STEPS

    found = {
        (case.name, seed): Run.read(work / case.name / f"seed-{seed}")
        for case in CASES
        for seed in SEEDS
    }
    if not partial and (missing := [case for (case, _), run in found.items() if run is None]):
        names = ", ".join(
            f"{case} ({missing.count(case)} of {len(SEEDS)})" for case in dict.fromkeys(missing)
        )
        raise SystemExit(
            f"runs of these cases have not ended: {names}; make them: "
            "python docs/figures/results.py"
        )
    runs = {key: run for key, run in found.items() if run}
    if not runs:
        raise SystemExit(f"no run in {work} has ended")
    judge = ResNetForImageClassification.from_pretrained(
        find_model("emoji-judge"), dtype=torch.float32
    ).eval()
    rows = [row for run in runs.values() for row in run.rows(judge)]
    by_case = {
        case.name: [runs[case.name, seed] for seed in SEEDS if (case.name, seed) in runs]
        for case in CASES
    }
    curves = {case: curve(many) for case, many in by_case.items() if many}
    write_csv(PAGE.with_suffix(".csv"), rows)
    write_csv(
        PAGE.with_name("results-curves.csv"), [row for many in curves.values() for row in many]
    )
    tables, every = Tables(rows), {f"`{case.name}`": case.name for case in CASES}
    texts = {name: tables.rewards(cases) for name, cases in SECTIONS.items()}
    texts |= {f"{name}-pairs": tables.pairs(pairs) for name, pairs in PAIRS.items()}
    texts |= {"noise": tables.noise(every), "pictures": tables.pictures(every)}
    uneven = [run.unevenness() for run in runs.values() if len(run.history) > 5]
    texts["setup"] = (
        f"{len(ANIMALS)} prompts × {len(SEEDS)} seeds; {STEPS} steps, {ITERATIONS} iterations "
        f"where no table says otherwise, Adam with a learning rate of {LR}, which is "
        f"{LR / 0.01:g} times the default. Of one run's iterations, the slow ones (90 % quantile) "
        f"took {np.median(uneven):.1f} times as long as the quick ones (10 %) in the median run, "
        f"{max(uneven):.1f} times in the worst."
    )
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), texts), encoding="utf-8")
    for name, figure in (*figures(curves), ("strip", strip(runs))):
        figure.savefig(PAGE.with_name(f"results-{name}.png"), dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--partial", action="store_true", help="take the runs that have ended")
    args = parser.parse_args()
    write_page(args.work, partial=args.partial)
