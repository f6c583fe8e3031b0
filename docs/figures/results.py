"""See the paper's claims again, on the embedded model; writes docs/explanation/results.md.

    python docs/figures/results.py --work runs/results

Each case below is run for 20 prompts x 3 seeds, a run folder per seed. Runs that are finished are
not run again, one that was interrupted goes on. `--only` runs some cases without writing the page,
so that several processes can share the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from results_page import write_page

from dno import RunConfig, Status, open_run, resume, run

ANIMALS = (
    "bat", "bee", "bird", "camel", "chicken", "deer", "dolphin", "fish", "fox", "goat", "gorilla",
    "horse", "lion", "llama", "mouse", "rabbit", "rat", "sheep", "spider", "tiger",
)  # fmt: skip
"""Every second of the model's 45, in alphabetical order, as far as 20 go."""
SEEDS = (0, 1, 2)
STEPS, ITERATIONS, LR = 20, 20, 0.03


@dataclass(frozen=True)
class Case:
    """One setting, run for every prompt and seed."""

    name: str
    reward: str = "brightness"
    form: str = "a black {}"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Over the common settings; tables are merged."""
    seconds_of: str | None = None
    """The case that sets how many seconds this one may take, seed by seed; else ITERATIONS
    decide."""

    def config(self, seed: int, work: Path) -> RunConfig:
        """The run of one seed."""
        values: dict[str, Any] = {
            "prompts": [self.form.format(animal) for animal in ANIMALS],
            "seeds": [seed],
            "iterations": ITERATIONS,
            "rewards": [self.reward],
            "monitors": [] if self.reward == "clip" else ["clip"],
            "observers": ["progress"],
            "sampler": {"use": "ddim", "steps": STEPS},
            "optimizer": {"use": "adam", "lr": LR},
            "log_p_floor": -4.6,
            "device": "cpu",
        }
        for key, value in self.options.items():
            merge = isinstance(value, dict) and "use" not in value and key in values
            values[key] = values[key] | value if merge else value
        if self.seconds_of:
            other = open_run(work / self.seconds_of / f"seed-{seed}").result
            values |= {"iterations": 10**6, "budget": {"seconds": other["seconds"]}}
        return RunConfig.parse(values)


def _gamma(weight: float | str) -> dict[str, Any]:
    return {"regularizers": [{"use": "permutation", "weight": weight}]}


def _search(name: str, **options: Any) -> dict[str, Any]:
    return {"optimizer": {"use": name, **options}, **_gamma(0.0)}


def _estimate(method: str, size: float) -> dict[str, Any]:
    return {"gradient": {"method": method, "size": size}, "iterations": 12}


WHITE = {"reward": "darkness", "form": "a white {}"}
CLIP = {"reward": "clip", "form": "a green {}"}
JPEG = {"reward": "jpeg", "form": "a green {}"}
CASES = (
    Case("brightness"),
    Case("darkness", **WHITE),
    Case("clip", **CLIP),
    Case("eta-0", options={"sampler": {"eta": 0.0}}),
    Case("eta-0.5", options={"sampler": {"eta": 0.5}}),
    Case("eta-0-gamma-0", options={"sampler": {"eta": 0.0}, **_gamma(0.0)}),
    Case("brightness-gamma-0", options=_gamma(0.0)),
    Case("brightness-gamma-auto", options=_gamma("auto")),
    Case("darkness-gamma-0", options=_gamma(0.0), **WHITE),
    Case("darkness-gamma-auto", options=_gamma("auto"), **WHITE),
    Case("jpeg-hybrid-2", options=_estimate("hybrid-2", 0.01), **JPEG),
    Case("jpeg-hybrid-1", options=_estimate("hybrid-1", 0.01), **JPEG),
    Case("jpeg-zo", options=_estimate("zo", 0.01), **JPEG),
    Case("jpeg-hybrid-2-wide", options=_estimate("hybrid-2", 0.1), **JPEG),
    Case("jpeg-hybrid-1-wide", options=_estimate("hybrid-1", 0.1), **JPEG),
    Case("jpeg-zo-wide", options=_estimate("zo", 0.1), **JPEG),
    Case("clip-best-of-n", options=_search("best-of-n"), seconds_of="clip", **CLIP),
    Case("clip-local-search", options=_search("local-search"), seconds_of="clip", **CLIP),
    Case("clip-langevin", options=_search("langevin"), seconds_of="clip", **CLIP),
    Case("steps-5", options={"sampler": {"steps": 5}}, seconds_of="brightness"),
    Case("steps-50", options={"sampler": {"steps": 50}}, seconds_of="brightness"),
)


def finish(case: Case, seed: int, work: Path) -> None:
    """Make or go on with one run, unless it has ended."""
    out = work / case.name / f"seed-{seed}"
    begun = (out / "run.toml").exists()
    if begun and open_run(out).status in (Status.FINISHED, Status.STOPPED):
        return
    result = resume(out) if begun else run(case.config(seed, work), out)
    print(f"{case.name} seed {seed}: {result.raise_for_status().verdict()}", flush=True)
    if result.status is Status.INTERRUPTED:
        raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=[case.name for case in CASES])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        for seed in SEEDS if not args.only or case.name in args.only else ():
            finish(case, seed, args.work)
    if not args.only:
        write_page(args.work)


if __name__ == "__main__":
    main()
