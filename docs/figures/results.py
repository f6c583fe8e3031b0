"""Measure what docs/explanation/results.md tells, on the embedded model.

    python docs/figures/results.py --work runs/results

Each case of `cases.py` is a study, as `dno.batch` makes it: 20 prompts x 3 seeds, one item at a
time on one thread, so that the seconds of each are its own. The command goes on where it was
stopped, and several processes may share the work. When all studies are there, what they reached is
written to the CSVs beside the page, and from these the page; see `results_page.py`.

`--quick` tries it all on two prompts, one seed, and one iteration of three cases, and prints the
tables in place of the page. Any case's folder may be looked at as any other study:

    dno compare runs/results/brightness-ours-12 runs/results/brightness-paper --to 0.05
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CASES, SEEDS, Case
from judge import animal, colour
from matplotlib.figure import Figure
from measured import Measured, Row
from results_page import CURVES, ROWS, STRIP, shown, tables, write_page
from rules import settings
from taste import Colourfulness, taste

import dno
from dno.runs.pace import Pace

QUICK = ("brightness-paper", "brightness-ours-3", "brightness-best-of-n")
LAST = ("brightness-adam-free", "brightness-reno-coarse")
"""Whose last pictures are shown."""
COLUMNS = ("prompt", "seed", "seconds")
"""Of a study's table, besides what its items reached."""
_PARTS = {
    "sampler": "sampler",
    "optimizer": "optimizer",
    "rewards": "reward",
    "monitors": "monitor",
    "regularizers": "regularizer",
    "constraints": "constraint",
}
"""What `dno.batch` calls the parts of a configuration."""


@dataclass(frozen=True)
class Campaign:
    """The cases that are measured, and how much of each."""

    work: Path
    cases: Sequence[Case]
    seeds: Sequence[int] = SEEDS
    prompts: int | None = None
    """So many of the first ones; all where None."""

    def run(self) -> None:
        """Run what is left.

        Seed by seed, so that what else the machine does falls on all cases alike.
        """
        for count in range(1, len(self.seeds) + 1):
            for case in self.cases:
                self.study(case, self.seeds[:count])

    def study(self, case: Case, seeds: Sequence[int]) -> dno.Study:
        """The study of one case, run as far as it is not done.

        Raises:
            SystemExit: it was interrupted, or an item failed.
        """
        study = dno.batch(
            case.prompts()[: self.prompts],
            seeds=seeds,
            out=self.folder(case),
            keep="all" if case.name in LAST else "best",
            **self._options(case),
        )
        if study.interrupted:
            raise SystemExit(130)
        if study.failed:
            raise SystemExit(f"{case.name}: failed: {', '.join(study.failed)}")
        return study

    def folder(self, case: Case) -> Path:
        """Where a case's study is."""
        return self.work / case.name

    def _options(self, case: Case) -> dict[str, Any]:
        """What a case asks of `dno.batch`."""
        climbs_taste = case.reward == "taste"
        monitors: list[Any] = [] if case.reward == "clip" else ["clip"]
        if climbs_taste:
            monitors.append(Colourfulness())
        plain = settings(
            case.options,
            reward=taste(self.work / "taste.safetensors") if climbs_taste else case.reward,
            iterations=case.iterations,
            steps=case.steps,
            eta=case.eta,
            monitors=[*monitors, animal, colour],
        )
        parts = {_PARTS[name]: plain.pop(name) for name in _PARTS if name in plain}
        return {**parts, "settings": plain}

    def measured(self) -> Measured:
        """What the studies reached.

        Raises:
            SystemExit: other processes are still at work on some items.
        """
        rows: list[Row] = []
        for case in self.cases:
            study = self.study(case, self.seeds)
            held = [row["item"] for row in study.rows if "status" not in row]
            if held:
                raise SystemExit(f"{case.name}: other processes work on {', '.join(held)}")
            rows += _rows(case, study)

        paces: dict[str, Pace] = {}
        for rivals in self._of_one_problem():
            found = dno.compare_runs(*[self.folder(case) for case in rivals])
            if found.untimed:
                raise SystemExit(found.pace_sentence())
            paces |= found.paces()
        return Measured(rows, paces)

    def _of_one_problem(self) -> list[list[Case]]:
        """The cases that climb one reward on one kind of noise."""
        found: dict[object, list[Case]] = {}
        for case in self.cases:
            found.setdefault((case.reward, case.steps, case.eta), []).append(case)
        return list(found.values())


def _rows(case: Case, study: dno.Study) -> Iterator[Row]:
    """The study's table, and how far each item's noise moved."""
    for row in study.rows:
        reached = {name: row[name] for name in row if name.endswith((".initial", ".best"))}
        run = dno.open_run(study.folder / "items" / row["item"])
        moved = float((run.noise("best") - run.noise("initial")).norm())
        told = {name: row[name] for name in COLUMNS}
        yield {"case": case.name, **told, "moved": moved, **reached}


def strip(work: Path) -> Figure:
    """Every second prompt of brightness, the first seed: the start, and where rules end."""
    names = (
        ("start", "brightness-paper", "initial"),
        ("published", "brightness-paper", "best"),
        ("Adam, γ = 0", "brightness-adam-free", "last"),
        ("ReNO's rule, coarse", "brightness-reno-coarse", "last"),
        ("ours", "brightness-ours-12", "best"),
    )
    drawn = Figure(figsize=(9.6, 5.1), layout="constrained")
    axes = drawn.subplots(len(names), 10)
    for line, (label, case, when) in zip(axes, names, strict=True):
        runs = {run.items[0]: run for run in dno.list_runs(work / case / "items")}
        prompts = sorted({prompt for prompt, _ in runs})
        for axis, prompt in zip(line, prompts[::2], strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            (picture,) = runs[prompt, SEEDS[0]].pictures(when)
            axis.imshow(np.asarray(picture), interpolation="nearest")
        line[0].set_ylabel(label, fontsize=8)
    return drawn


def quick(work: Path) -> Campaign:
    """A little of each kind."""
    by_name = {case.name: case for case in CASES}
    cases = [replace(by_name[name], iterations=1) for name in QUICK]
    return Campaign(work, cases, seeds=SEEDS[:1], prompts=2)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="default: runs/results, or runs/results-quick")
    parser.add_argument("--quick", action="store_true", help="a little of it, and no page")
    parser.add_argument("--prompts", type=int, help="so many of the first ones, and no page")
    names = [case.name for case in CASES]
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=names, help="no page")
    given = parser.parse_args(args)
    # Before models are loaded: seconds are those of one thread.
    torch.set_num_threads(1)

    if given.quick:
        measured = _made(quick(given.work or Path("runs/results-quick")))
        for name, table in tables(measured).items():
            print(f"\n{name}\n\n{shown(table)}")
        return
    work = given.work or Path("runs/results")
    cases = [case for case in CASES if not given.only or case.name in given.only]
    campaign = Campaign(work, cases, prompts=given.prompts)
    if given.only or given.prompts:
        campaign.run()
        return
    measured = _made(campaign)
    measured.write(ROWS, CURVES)
    strip(work).savefig(STRIP, dpi=100)
    write_page(measured)


def _made(campaign: Campaign) -> Measured:
    campaign.run()
    return campaign.measured()


if __name__ == "__main__":
    main()
