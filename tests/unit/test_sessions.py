"""Models loaded once, on which many problems are posed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributions import Site
from small_problems import same
from torch import Tensor

import dno
from dno.core.events import StepDone
from dno.core.function import FunctionSampler
from dno.errors import ConfigError
from dno.registry.registry import REWARDS, SAMPLERS
from dno.runs.run_config import RunConfig

COUNTED = """
from pathlib import Path
from dno.plugin import RewardConfig, SamplerConfig
from dno.testing.toy import ToySampler


class Told(RewardConfig):
    "Brightness, and a line in a file for each time it was built."
    log: Path
    bias: float = 0.0

    def build(self, ctx):
        with self.log.open("a") as file:
            file.write("reward\\n")
        return lambda images, prompts: images.mean(dim=(1, 2, 3)) + self.bias


class Toy(SamplerConfig):
    "Small pictures, and a line in a file for each time it was built."
    log: Path
    size: int = 8

    def build(self, ctx):
        with self.log.open("a") as file:
            file.write("sampler\\n")
        return ToySampler(self.size)
"""
PROMPTS = ("a cat", "a dog", "a pig")


@dataclass(frozen=True)
class Counted:
    """Parts of two installed plugins that keep a log of their being built."""

    log: Path

    def parts(self) -> dict[str, Any]:
        sampler = {"use": "toy", "log": str(self.log)}
        return {"reward": {"use": "told", "log": str(self.log)}, "sampler": sampler}

    def built(self) -> list[str]:
        """What was built since this was last asked."""
        lines = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def counted(site: Site, tmp_path: Path) -> Counted:
    entries = "[dno.v1.rewards]\ntold = counted:Told\n[dno.v1.samplers]\ntoy = counted:Toy\n"
    site.install("dno-counted", entries, "counted", COUNTED)
    return Counted(tmp_path / "built.txt")


def outcomes_agree(one: dno.Outcome, other: dno.Outcome) -> bool:
    """Whether two runs are the same to the bit, but for the time that they took."""
    records = [
        [replace(record, seconds=0.0).to_json() for record in outcome.history]
        for outcome in (one, other)
    ]
    snapshots = ("initial", "best", "last")
    alike = [same(getattr(one, name), getattr(other, name)) for name in snapshots]
    return all(alike) and records[0] == records[1] and one.items == other.items


def test_each_run_is_to_the_bit_the_run_alone_and_models_are_built_once(counted: Counted) -> None:
    session = dno.load(**counted.parts(), iterations=4, paper=True, lr=0.1)
    assert sorted(counted.built()) == ["reward", "sampler"]
    results = [session.optimize(prompt, seed=i) for i, prompt in enumerate(PROMPTS)]
    assert counted.built() == []
    for i, (prompt, result) in enumerate(zip(PROMPTS, results, strict=True)):
        alone = dno.optimize(prompt, seed=i, iterations=4, paper=True, lr=0.1, **counted.parts())
        assert sorted(counted.built()) == ["reward", "sampler"]
        assert outcomes_agree(result, alone)
        assert result.items == ((prompt, i),)
    assert not outcomes_agree(results[0], results[1])


def test_a_session_poses_other_numbers_of_samples_and_other_ways_of_climbing(
    counted: Counted,
) -> None:
    session = dno.load(**counted.parts(), iterations=3, paper=True, lr=0.1)
    counted.built()
    changes: list[dict[str, Any]] = [
        {"batch": 3},
        {"optimizer": "best-of-n", "lr": None},
        {"regularizer": []},
        {"warm_start": "best-of-2"},
        {"settings": {"rewards.0.weight": 2.5}},
        {"settings": {"gradient.samples": 2}, "iterations": 1},
    ]
    for change in changes:
        result = session.optimize(["a", "b"], seed=7, **change)
        assert counted.built() == []
        options = {"iterations": 3, "paper": True, "lr": 0.1, "seed": 7, **change}
        alone = dno.optimize(["a", "b"], **options, **counted.parts())
        counted.built()
        assert outcomes_agree(result, alone)


def test_live_objects_are_loaded_too() -> None:
    def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))

    def red(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, 0].mean(dim=(1, 2))

    parts: dict[str, Any] = {
        "reward": [(bright, 2), (lambda images, prompts: -images.var(dim=(1, 2, 3)), 1)],
        "monitor": red,
        "sampler": FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
    }
    session = dno.load(**parts, iterations=3, paper=True, lr=0.1)
    for prompt in PROMPTS:
        alone = dno.optimize(prompt, iterations=3, paper=True, lr=0.1, **parts)
        assert outcomes_agree(session.optimize(prompt), alone)


@dataclass(frozen=True)
class Other:
    """A setting that needs something else to be loaded, and the place where that is told."""

    settings: dict[str, Any]
    place: str


OTHERS = (
    Other({"sampler.size": 4}, "sampler"),
    Other({"rewards.0.bias": 1.0}, "rewards.0"),
    Other({"rewards.0": "brightness"}, "rewards.0"),
    Other({"monitors": ["brightness"]}, "monitors.0"),
    Other({"dtype": "float64"}, "dtype"),
)


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: str(other.settings))
def test_what_needs_other_models_is_refused_with_its_place(counted: Counted, other: Other) -> None:
    session = dno.load(**counted.parts(), iterations=1)
    with pytest.raises(ConfigError, match="differs from what was loaded") as caught:
        session.optimize("a cat", settings=other.settings)
    assert caught.value.at == other.place
    assert session.optimize("a cat").status is dno.Status.FINISHED


def test_another_reward_is_loaded_beside_the_sampler_that_is_there(counted: Counted) -> None:
    session = dno.load(**counted.parts(), iterations=2, paper=True, lr=0.1)
    counted.built()
    parts = counted.parts()
    parts["reward"] = {**parts["reward"], "bias": 0.5}
    other = session.with_reward(parts["reward"])
    assert counted.built() == ["reward"]
    result = other.optimize("a cat", seed=3)
    assert counted.built() == []
    alone = dno.optimize("a cat", seed=3, iterations=2, paper=True, lr=0.1, **parts)
    assert outcomes_agree(result, alone)
    counted.built()
    # What was there stays as it was.
    assert session.optimize("a cat", seed=3).best.rewards["told"] == pytest.approx(
        alone.best.rewards["told"] - 0.5, abs=1e-6
    )
    assert counted.built() == []
    with pytest.raises(ConfigError, match="nope"):
        session.with_reward("nope")


def test_what_cannot_be_run_is_told_before_anything_is_made(
    counted: Counted, tmp_path: Path
) -> None:
    session = dno.load(**counted.parts(), iterations=1)
    with pytest.raises(ConfigError, match="iterations"):
        session.optimize("a cat", iterations=-1, out=tmp_path / "run")
    with pytest.raises(ConfigError, match="start: there is no file"):
        session.optimize("a cat", start=tmp_path / "gone", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_of_a_session_have_folders_of_their_own_and_can_be_resumed(
    counted: Counted, tmp_path: Path
) -> None:
    session = dno.load(**counted.parts(), iterations=2, paper=True, lr=0.1)
    for i, prompt in enumerate(PROMPTS):
        session.optimize(prompt, out=tmp_path / "runs" / str(i))
    with pytest.raises(ConfigError, match="is in use"):
        session.optimize("a cat", out=tmp_path / "runs" / "0")
    runs = dno.list_runs(tmp_path / "runs")
    assert [run.items for run in runs] == [[(prompt, 0)] for prompt in PROMPTS]
    assert all(run.resumable for run in runs)
    longer = dno.resume(runs[1].path, iterations=4)
    assert outcomes_agree(longer, session.optimize(PROMPTS[1], iterations=4))


@pytest.fixture
def comparing(counted: Counted) -> Callable[..., dno.Comparison]:
    """A comparison from a configuration, and what was built for it."""

    def compare(**options: Any) -> dno.Comparison:
        parts = counted.parts()
        config = RunConfig.parse(
            {
                "prompts": ["a cat"],
                "rewards": [parts["reward"]],
                "sampler": parts["sampler"],
                "iterations": 5,
            }
        )
        return dno.compare(config, "best-of-n", **options)

    return compare


def test_compare_loads_once_and_gives_the_rival_the_same_seconds(
    counted: Counted, comparing: Callable[..., dno.Comparison], tmp_path: Path
) -> None:
    both = comparing(out=tmp_path / "run")
    assert sorted(counted.built()) == ["reward", "sampler"]
    assert both.against == "best-of-n"
    assert both.ours.status is dno.Status.FINISHED
    assert both.rival.status is dno.Status.STOPPED
    assert both.rival.meter()["seconds"] >= both.ours.meter()["seconds"]
    assert torch.equal(both.ours.initial.noise_BN, both.rival.initial.noise_BN)
    assert (both.ours.folder, both.rival.folder) == (tmp_path / "run", tmp_path / "run-best-of-n")
    told = both.verdict()
    assert told.startswith(both.ours.verdict())
    assert told.endswith(f"best-of-n:\n{both.rival.verdict()}")


def test_a_session_compares_on_what_it_has_loaded(counted: Counted) -> None:
    session = dno.load(**counted.parts(), iterations=3)
    counted.built()
    both = session.compare("a cat", {"use": "local-search", "beta": 0.5})
    assert counted.built() == []
    assert both.against == "local-search"
    assert outcomes_agree(both.ours, session.optimize("a cat"))


def test_a_rival_that_is_none_is_told_before_anything_is_loaded(
    counted: Counted, comparing: Callable[..., dno.Comparison], tmp_path: Path
) -> None:
    config = RunConfig.parse({"prompts": "x", "rewards": "brightness"})
    with pytest.raises(ConfigError, match=r'^compare: no optimizer is called "adm"'):
        dno.compare(config, "adm")
    (tmp_path / "run-best-of-n").mkdir()
    (tmp_path / "run-best-of-n" / "mine").touch()
    with pytest.raises(ConfigError, match="run-best-of-n is in use"):
        comparing(out=tmp_path / "run")
    assert counted.built() == []
    assert not (tmp_path / "run").exists()


def test_the_counted_plugins_are_installed(counted: Counted) -> None:
    """What the tests above build is found by name, as anybody's plugin is."""
    assert {info.name for info in REWARDS.infos()} >= {"told"}
    assert SAMPLERS.load("toy").__name__ == "Toy"


def test_onlookers_are_told_may_stop_and_are_no_part_of_the_run(
    counted: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def stop_at_two(event: StepDone) -> bool:
        seen.append(event.record.iteration)
        return event.record.iteration == 2

    def break_down(event: StepDone) -> None:
        raise KeyError("lost")

    session = dno.load(**counted.parts(), iterations=5, paper=True, lr=0.1)
    out = tmp_path / "run"
    result = session.optimize("a cat", onlookers=[stop_at_two, break_down], out=out)
    assert seen == [0, 1, 2]
    assert result.status == "stopped"
    # One that fails takes nobody with it.
    assert "the run goes on without it" in caplog.text
    assert "python:" not in (out / "run.toml").read_text()

    # It ends as if nobody had looked on.
    resumed = dno.resume(out)
    assert seen == [0, 1, 2]
    assert resumed.status == "finished"
    alone = dno.optimize("a cat", iterations=5, paper=True, lr=0.1, **counted.parts())
    assert same(resumed.last, alone.last)
