"""What a verdict says of noise that is no longer a Gaussian draw."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dno.core.result import Outcome, Snapshot, Status, StepRecord
from dno.report.facts import Facts, facts_of, facts_of_saved
from dno.report.verdict import verdict
from dno.runs.saved import open_run

Figures = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Constrained(Outcome):
    """An outcome that says what a constraint kept."""

    kept: Sequence[str] = ()


def record(samples: int) -> StepRecord:
    return StepRecord(
        iteration=3,
        grid=None,
        reward=(0.7,) * samples,
        objective=(0.0,) * samples,
        rewards={"bright": (0.7,) * samples},
        monitors={},
        penalties={},
        log_p={},
        gamma=None,
        figures={},
        healthy=(True,) * samples,
        best=(0.7,) * samples,
        grad_norm=(0.1,) * samples,
        seconds=1.0,
    )


def snapshot(figures: Figures, samples: int) -> Snapshot:
    return Snapshot(
        noise_BN=torch.zeros(samples, 4),
        samples=torch.zeros(samples, 3, 2, 2),
        score_B=torch.zeros(samples),
        iteration_B=torch.full((samples,), 3.0),
        rewards={"bright": torch.full((samples,), 0.5)},
        monitors={},
        log_p={},
        figures={name: torch.tensor(values) for name, values in figures.items()},
    )


def facts(before: Figures, after: Figures, kept: Sequence[str] = ()) -> Facts:
    samples = len(next(iter(after.values())))
    outcome = Constrained(
        status=Status.FINISHED,
        items=[("a cat", seed) for seed in range(samples)],
        initial=snapshot(before, samples),
        best=snapshot(after, samples),
        last=snapshot(after, samples),
        history=[record(samples)],
        kept=kept,
    )
    return facts_of(outcome)


def warned(before: Figures, after: Figures, kept: Sequence[str] = ()) -> bool:
    return "it has left N(0, I)" in verdict(facts(before, after, kept))


def test_the_worst_p_value_is_named_with_what_it_was_and_what_to_do() -> None:
    before = {"p_mean": [0.5, 0.4], "p_kurtosis": [0.3, 0.41], "p_ks": [0.2, 0.7]}
    after = {"p_mean": [0.5, 0.3], "p_kurtosis": [0.2, 3e-9], "p_ks": [1e-6, 0.7]}
    (line,) = [line for line in verdict(facts(before, after)).splitlines() if "careful" in line]
    assert line.startswith(
        "careful: p_kurtosis of the best noise of sample 1 fell from 0.41 to 3e-09 "
        "(and 1 more fell so low), so it has left N(0, I); climb less far"
    )


def test_one_sample_is_not_numbered() -> None:
    said = verdict(facts({"p_mean": [0.5]}, {"p_mean": [1e-12]}))
    assert "careful: p_mean of the best noise fell from 0.5 to 1e-12, so" in said


def test_the_limit_is_one_of_ten_thousand_for_all_samples_together() -> None:
    assert warned({"p_ks": [0.5]}, {"p_ks": [0.9e-4]})
    assert not warned({"p_ks": [0.5]}, {"p_ks": [1.1e-4]})
    assert not warned({"p_ks": [0.5, 0.5]}, {"p_ks": [0.9e-4, 0.5]})
    assert warned({"p_ks": [0.5, 0.5]}, {"p_ks": [0.4e-4, 0.5]})


def test_what_a_constraint_keeps_by_construction_is_no_evidence() -> None:
    before = {"p_norm": [0.5], "other.p_norm": [0.5], "p_mean": [0.5]}
    after = {"p_norm": [1e-9], "other.p_norm": [1e-9], "p_mean": [0.5]}
    assert warned(before, after)
    assert not warned(before, after, kept=["p_norm"])
    assert [found.name for found in facts(before, after, kept=["p_norm"]).noise] == ["p_mean"]


def test_noise_that_was_as_unlikely_at_the_start_has_not_been_spoilt() -> None:
    assert not warned({"p_mean": [1e-6]}, {"p_mean": [1e-6]})
    assert warned({"p_mean": [1e-6]}, {"p_mean": [1e-7]})


def test_only_p_values_are_looked_at_and_unknown_ones_are_passed_over() -> None:
    before = {"log_p": [-1.0, -1.0], "p_mean": [0.5, 0.5]}
    after = {"log_p": [-50.0, -50.0], "p_mean": [math.nan, 1e-20]}
    (found,) = facts(before, after).noise
    assert (found.name, found.sample, found.before) == ("p_mean", 1, 0.5)
    assert not facts(before, {"p_mean": [math.nan, math.nan]}).noise


def reached(figures: Mapping[str, Sequence[float | None]]) -> dict[str, object]:
    return {
        "iteration": [3, 3],
        "rewards": {"bright": [0.5, 0.5]},
        "monitors": {},
        "log_p": {},
        "figures": figures,
    }


@pytest.mark.parametrize("kept", [(), ("p_mean",)], ids=["free", "kept"])
def test_a_saved_run_says_the_same(tmp_path: Path, kept: tuple[str, ...]) -> None:
    content = {
        "status": "finished",
        "reason": "",
        "climbed": ["bright"],
        "kept": kept,
        "failures": {},
        "peak_memory": 0,
        "initial": reached({"p_mean": [0.5, None]}),
        "best": reached({"p_mean": [1e-9, None]}),
        "last": reached({"p_mean": [1e-9, None]}),
    }
    (tmp_path / "run.toml").write_text('prompts = ["a cat"]\nseeds = [0, 1]\n')
    (tmp_path / "history.jsonl").write_bytes(record(2).to_json() + b"\n")
    (tmp_path / "result.json").write_text(json.dumps(content))
    said = verdict(facts_of_saved(open_run(tmp_path)))
    assert ("p_mean of the best noise of sample 0 fell from 0.5 to 1e-09" in said) == (not kept)


def test_a_run_saved_without_its_figures_is_not_warned_of(tmp_path: Path) -> None:
    old = {key: value for key, value in reached({}).items() if key != "figures"}
    content = {
        "status": "finished",
        "reason": "",
        "climbed": ["bright"],
        "failures": {},
        "peak_memory": 0,
        "initial": old,
        "best": old,
        "last": old,
    }
    (tmp_path / "run.toml").write_text('prompts = ["a cat"]\nseeds = [0, 1]\n')
    (tmp_path / "history.jsonl").write_bytes(record(2).to_json() + b"\n")
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert "careful" not in verdict(facts_of_saved(open_run(tmp_path)))
