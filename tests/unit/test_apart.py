"""Items side by side end one by one: each is what it would have been alone, stop and all."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from walks import SHAPE, Coarser, Walk, brightness

import dno
from dno.core.apart import shares
from dno.core.noise import gaussian_noise
from dno.core.result import StepRecord
from dno.runs.ended import flat
from dno.runs.groups import TOGETHER
from dno.runs.saved import SavedRun

pytestmark = pytest.mark.slow

STEPS = 32
SEEDS = (0, 1, 2, 3, 4)
ROUNDING = 1e-4
"""Of p-values: torch adds up a batch in another order."""
METERS = ("iterations", "network_evaluations", "reward_calls", "status", "reason", "climbed")


@dataclass(frozen=True)
class Walker:
    """The sampler of walks whose coarse pictures promise more than the fine ones hold, by so much
    for every other seed."""

    bent: float = 0.0

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> Walk:
        wrong = torch.tensor([-self.bent * (seed % 2) for seed in seeds])[:, None]
        return BentWalk(gaussian_noise((SHAPE,) * STEPS, seeds), STEPS, bent=wrong)


@dataclass(frozen=True)
class BentWalk(Walk):
    bent: Tensor = field(default_factory=lambda: torch.zeros(1))

    def coarser(self, steps: int) -> Coarser:
        return Coarser(self, steps, wrong=self.bent)


class Counting:
    """The reward, with how many pictures it was asked about at once; it may interrupt."""

    __name__ = "brightness"

    def __init__(self, interrupt_at: int = -1) -> None:
        self.sizes: list[int] = []
        self.interrupt_at = interrupt_at

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.sizes.append(len(images))
        if len(self.sizes) == self.interrupt_at:
            raise KeyboardInterrupt
        return brightness(images, prompts)


@dataclass(frozen=True)
class Case:
    """A study whose items end at different iterations."""

    name: str
    settings: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("target", {"budget.target": 0.57}),
    Case("log_p", {"budget.log_p": -1.0}, {"regularizer": "permutation"}),
    Case("calls", {"budget.reward_calls": 3}),
    Case("target on a coarse grid", {"budget.target": 0.57}, {"coarse": 8}),
    Case("on two coarse grids", {"budget.target": 0.56}, {"coarse": [8, 16], "iterations": 9}),
    Case("before it is put back", {"budget.target": 0.6, "constraints.0.every": 3}),
    Case("repaired one by one", {}, {"coarse": 8, "sampler": Walker(1.5)}),
    Case("stopped in a repair", {"budget.reward_calls": 13}, {"coarse": 8, "sampler": Walker(1.5)}),
    Case("a search", {"budget.target": 0.51}, {"optimizer": "local-search"}),
]


def study(folder: Path, case: Case, **options: Any) -> dno.Study:
    given: dict[str, Any] = {
        "reward": Counting(),
        "sampler": Walker(),
        "optimizer": {"use": "adam", "lr": 0.1},
        "iterations": 8,
        "coarse": [],
        "seeds": SEEDS,
        **case.options,
        **options,
    }
    return dno.batch(["x"], out=folder, settings={"observers": [], **case.settings}, **given)


def runs(folder: Path) -> dict[str, SavedRun]:
    return {path.name: SavedRun(path) for path in sorted((folder / "items").iterdir())}


def numbers(record: StepRecord) -> dict[str, float]:
    """All numbers of a record by their places, but for the time that it took."""
    return plain(json.loads(replace(record, seconds=0.0).to_json()))


def plain(values: Any) -> dict[str, float]:
    """Numbers by their places; nan for those that are not finite."""
    return {
        place: math.nan if value in (None, []) else float(value) for place, value in flat(values)
    }


def assert_same(made: Path, expected: Path, *, noise: float) -> None:
    """The same runs, their noise to so much, and what was measured of it to rounding."""
    mine, theirs = runs(made), runs(expected)
    assert mine.keys() == theirs.keys()
    for name, run in mine.items():
        other = theirs[name]
        assert run.values == other.values
        assert len(run.history) == len(other.history)
        for record, its in zip(run.history, other.history, strict=True):
            assert numbers(record) == pytest.approx(numbers(its), abs=ROUNDING, nan_ok=True)
        assert [run.result[key] for key in METERS] == [other.result[key] for key in METERS]
        for part in ("initial", "best"):
            torch.testing.assert_close(run.noise(part), other.noise(part), rtol=0, atol=noise)
        for part in ("initial", "best", "last"):
            assert run.result[part]["iteration"] == other.result[part]["iteration"]
            assert plain(run.result[part]["rewards"]) == pytest.approx(
                plain(other.result[part]["rewards"]), abs=ROUNDING, nan_ok=True
            )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[dno.Study, Counting]]:
    """A case's study side by side, made when first asked for, and its reward."""
    made: dict[str, tuple[dno.Study, Counting]] = {}

    def whole_of(case: Case) -> tuple[dno.Study, Counting]:
        if case.name not in made:
            reward = Counting()
            folder = tmp_path_factory.mktemp("whole") / "study"
            made[case.name] = study(folder, case, size=len(SEEDS), reward=reward), reward
        return made[case.name]

    return whole_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_ends_as_it_would_have_alone(case: Case, whole: Any, tmp_path: Path) -> None:
    study(tmp_path / "alone", case)
    found, reward = whole(case)
    assert (found.failed, found.interrupted) == ([], False)
    assert not (found.folder / TOGETHER).exists()
    assert_same(found.folder, tmp_path / "alone", noise=1e-5)

    ends = {run.result["iterations"] for run in runs(found.folder).values()}
    if case.name != "calls":
        # Whoever has ended is asked no more.
        assert len(ends) > 1
        assert min(reward.sizes) < len(SEEDS)


@pytest.mark.parametrize("case", CASES[3:8], ids=lambda case: case.name)
@pytest.mark.parametrize("at", [4, 7])
def test_interrupted_the_others_go_on_to_the_same_bits(
    case: Case, at: int, whole: Any, tmp_path: Path
) -> None:
    assert study(tmp_path / "study", case, size=len(SEEDS), reward=Counting(at)).interrupted
    assert not study(tmp_path / "study", case, size=len(SEEDS)).interrupted
    assert_same(tmp_path / "study", whole(case)[0].folder, noise=0.0)


def test_time_is_shared_by_those_that_are_still_asked(alone_records: list[StepRecord]) -> None:
    assert shares(alone_records, {}, 4) == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert shares(alone_records, {0: 1, 3: 2}, 4) == pytest.approx([1, 2, 2 + 4 / 3, 2 + 4 / 3 + 2])


@pytest.fixture
def alone_records(tmp_path: Path) -> list[StepRecord]:
    """Four records, four seconds each."""
    study(tmp_path / "study", Case("", {}), seeds=[0], iterations=3)
    (run,) = runs(tmp_path / "study").values()
    return [replace(record, seconds=4.0 * (i + 1)) for i, record in enumerate(run.history)]


def test_seconds_are_spent_by_each_for_itself(tmp_path: Path) -> None:
    """An item has as much time as alone, of which iterations side by side take less."""

    def slow(images: Tensor, prompts: Sequence[str]) -> Tensor:
        time.sleep(0.05)
        return brightness(images, prompts)

    case = Case("", {"budget.seconds": 0.4}, {"reward": slow, "iterations": 50})
    study(tmp_path / "study", case, size=len(SEEDS))
    for run in runs(tmp_path / "study").values():
        assert run.result["reason"] == "its budget of 0.4 s is spent"
        *_, before, last = run.history
        assert before.seconds < 0.4 <= last.seconds == run.result["seconds"]
