"""Items of a study that are run in one tensor: what each would have been alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import WITHOUT_CURVE
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError
from dno.report.study_read import Stage, read_study
from dno.runs.batch import Item, items_of
from dno.runs.groups import NAMES, TOGETHER, groups_of
from dno.runs.lists import Row
from dno.runs.lock import hold
from dno.runs.run import go_on
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.study import _tell_of_groups

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
PROMPTS = ("a cat", "a dog", "a bird")


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


class Counting:
    """The same reward, with how many pictures it was asked about at once."""

    __name__ = "bright"

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.interrupt_at = -1

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.sizes.append(len(images))
        if len(self.sizes) == self.interrupt_at:
            raise KeyboardInterrupt
        return bright(images, prompts)


def study(folder: Path, prompts: Any = PROMPTS, **options: Any) -> dno.Study:
    given = {
        "reward": Counting(),
        "sampler": SAMPLER,
        "optimizer": "adam",
        "iterations": 4,
        "seeds": [0, 1],
        "settings": WITHOUT_CURVE,
        **options,
    }
    return dno.batch(prompts, out=folder, **given)


def runs(folder: Path) -> dict[str, SavedRun]:
    return {path.name: SavedRun(path) for path in sorted((folder / "items").iterdir())}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, item by item."""
    folder = tmp_path_factory.mktemp("alone") / "study"
    study(folder)
    return folder


def test_each_item_is_what_it_would_have_been_alone(alone: Path, tmp_path: Path) -> None:
    reward = Counting()
    found = study(tmp_path / "study", size=2, reward=reward)
    assert set(reward.sizes) == {2}
    assert (found.failed, found.interrupted) == ([], False)
    assert not (tmp_path / "study" / TOGETHER).exists()

    expected = runs(alone)
    made = runs(tmp_path / "study")
    assert made.keys() == expected.keys()
    for name, run in made.items():
        other = expected[name]
        assert run.values == other.values
        assert run.items == other.items
        torch.testing.assert_close(run.noise("best"), other.noise("best"), rtol=0, atol=1e-5)
        ours = run.columns()
        theirs = other.columns()
        assert ours.keys() == theirs.keys()
        assert ours["iteration"] == theirs["iteration"]
        for mine, its in zip(ours["rewards.bright"], theirs["rewards.bright"], strict=True):
            assert mine == pytest.approx(its, abs=1e-6)
        assert len(run.pictures("best")) == 1
        assert (run.path / "report.html").exists()
        meters = ("iterations", "network_evaluations", "reward_calls", "status", "failures")
        assert [run.result[key] for key in meters] == [other.result[key] for key in meters]


def test_interrupted_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    study(tmp_path / "whole", size=3)
    reward = Counting()
    reward.interrupt_at = 7
    found = study(tmp_path / "study", size=3, reward=reward)
    assert found.interrupted
    assert len(list((tmp_path / "study" / TOGETHER).iterdir())) == 1
    assert not study(tmp_path / "study", size=3).interrupted
    for name, run in runs(tmp_path / "whole").items():
        again = tmp_path / "study" / "items" / name / "noise.safetensors"
        assert again.read_bytes() == (run.path / "noise.safetensors").read_bytes()


def test_killed_while_it_is_taken_apart_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def die(path: Path) -> None:
        made.append(path)
        if len(made) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("dno.report.page.write_report", die)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "study", size=3)
    monkeypatch.undo()

    # The first group has been run, so that of it no more than where it ended is asked again.
    of_one_group = Counting()
    study(tmp_path / "other", size=3, seeds=[1], reward=of_one_group)
    reward = Counting()
    found = study(tmp_path / "study", size=3, reward=reward)
    assert [row["standing"] for row in found.rows] == ["done"] * 6
    assert not (tmp_path / "study" / TOGETHER).exists()
    assert len(reward.sizes) <= len(of_one_group.sizes) + 1


def test_one_that_fails_is_tried_alone_and_harms_no_other(alone: Path, tmp_path: Path) -> None:
    def hates_dogs(images: Tensor, prompts: Sequence[str]) -> Tensor:
        if "a dog" in prompts:
            raise ValueError("no dogs")
        return bright(images, prompts)

    hates_dogs.__name__ = "bright"
    found = study(tmp_path / "study", size=3, reward=hates_dogs)
    assert [name.split("-")[1] for name in found.failed] == ["dog", "dog"]
    assert "no dogs" in (tmp_path / "study" / "failed.jsonl").read_text()
    for name, run in runs(tmp_path / "study").items():
        if "dog" not in name:
            expected = runs(alone)[name]
            torch.testing.assert_close(run.noise("best"), expected.noise("best"), rtol=0, atol=1e-5)


def test_items_of_another_process_are_left_to_it(tmp_path: Path) -> None:
    reward = Counting()
    reward.interrupt_at = 3
    study(tmp_path / "study", size=3, seeds=[0], reward=reward)
    (group,) = (tmp_path / "study" / TOGETHER).iterdir()
    release = hold(group)
    try:
        found = study(tmp_path / "study", size=3, seeds=[0])
    finally:
        release()
    assert [row["standing"] for row in found.rows] == ["held"] * 3
    found = study(tmp_path / "study", size=3, seeds=[0])
    assert [row["standing"] for row in found.rows] == ["done"] * 3


def test_an_item_that_kept_no_state_is_not_made_anew_for_less(tmp_path: Path) -> None:
    study(tmp_path / "study", size=3, seeds=[0])
    (name, *_) = runs(tmp_path / "study")
    path = tmp_path / "study" / "items" / name
    before = (path / "noise.safetensors").read_bytes()
    config = SavedRun(path).values | {"rewards": [{"use": Counting()}], "sampler": {"use": SAMPLER}}

    def again(**changes: Any) -> Any:
        return go_on(RunConfig.parse({**config, **changes}), path)

    for changes, told in (
        ({}, "has ended after its 4"),
        ({"iterations": 1}, "has ended after its 4"),
        ({"iterations": 9, "budget": {"seconds": 0.01}}, "leave the budget out"),
    ):
        with pytest.raises(ConfigError, match=told):
            again(**changes)
    assert (path / "noise.safetensors").read_bytes() == before
    assert again(iterations=6).meter()["iterations"] == 6


def test_a_group_whose_items_were_made_alone_is_removed(tmp_path: Path) -> None:
    reward = Counting()
    reward.interrupt_at = 3
    study(tmp_path / "study", size=3, seeds=[0], reward=reward)
    (tmp_path / "study" / TOGETHER).rename(tmp_path / "aside")
    study(tmp_path / "study", seeds=[0])
    (tmp_path / "aside").rename(tmp_path / "study" / TOGETHER)
    reward = Counting()
    study(tmp_path / "study", size=3, seeds=[0], reward=reward)
    assert reward.sizes == []
    assert not (tmp_path / "study" / TOGETHER).exists()


def config(prompt: str, seed: int, **options: Any) -> RunConfig:
    values = {"prompts": [prompt], "seeds": [seed], "rewards": ["brightness"], **options}
    return RunConfig.parse(values)


def grouped(rows: Sequence[tuple[str, int]], size: int, **options: Any) -> list[list[str]]:
    configs = {f"{prompt}{seed}": config(prompt, seed, **options) for prompt, seed in rows}
    groups = groups_of(configs, lambda one: one.iterations, lambda _: size)
    return [list(group.names) for group in groups]


def test_groups_are_of_one_seed_or_of_one_prompt() -> None:
    square = [(prompt, seed) for prompt in "abc" for seed in (0, 1)]
    assert grouped(square, 2) == [["a0", "b0"], ["a1", "b1"], ["c0", "c1"]]
    assert grouped(square, 8) == [["a0", "b0", "c0"], ["a1", "b1", "c1"]]
    assert grouped([("a", seed) for seed in range(5)], 4) == [["a0", "a1", "a2", "a3"]]
    assert grouped([("a", 0), ("b", 1)], 4) == []


@pytest.mark.parametrize(
    "options",
    [
        {"observers": ["images"]},
        {"observers": [lambda event: None]},
        {"start": "noise.safetensors"},
    ],
)
def test_who_would_mind_a_neighbour_is_run_alone(options: dict[str, Any]) -> None:
    assert grouped([("a", 0), ("b", 0)], 4, **options) == []


def test_other_settings_are_other_groups() -> None:
    rows = [Row(prompt, "here") for prompt in "ab"]

    def configure(row: Row, seed: int) -> RunConfig:
        return config(row.prompt, seed, iterations=3 if row.prompt == "a" else 4)

    items: list[Item] = items_of(rows, [0, 1], configure)
    configs = {item.name: item.config for item in items}
    groups = groups_of(configs, lambda one: one.iterations, lambda _: 4)
    assert [[name[0] for name in group.names] for group in groups] == [["a", "a"], ["b", "b"]]


def test_what_cannot_be_side_by_side_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size: must be auto, or a whole number"):
        study(tmp_path / "study", size=0)
    with pytest.raises(ConfigError, match="beside a Ray cluster"):
        study(tmp_path / "study", size=2, ray="local")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_group_that_was_begun_is_gone_on_with_whatever_the_size(
    size: int, tmp_path: Path
) -> None:
    study(tmp_path / "whole", size=3, seeds=[0])
    reward = Counting()
    reward.interrupt_at = 3
    found = study(tmp_path / "study", size=3, seeds=[0], reward=reward)
    # None has a folder of its own, and all are begun.
    assert [row["standing"] for row in found.rows] == ["begun"] * 3
    assert read_study(tmp_path / "study").members[0].stage is Stage.BEGUN

    reward = Counting()
    prompts = ["a fish", *PROMPTS]
    found = study(tmp_path / "study", prompts, size=size, seeds=[0], reward=reward)
    assert [row["standing"] for row in found.rows] == ["done"] * 4
    assert not (tmp_path / "study" / TOGETHER).exists()
    assert {3} <= set(reward.sizes) <= {1, 3}
    for name, run in runs(tmp_path / "whole").items():
        again = tmp_path / "study" / "items" / name / "noise.safetensors"
        assert again.read_bytes() == (run.path / "noise.safetensors").read_bytes()


def test_a_group_that_does_not_name_its_items_is_found_by_what_it_is_made_of(
    tmp_path: Path,
) -> None:
    reward = Counting()
    reward.interrupt_at = 3
    study(tmp_path / "study", size=3, seeds=[0], reward=reward)
    (group,) = (tmp_path / "study" / TOGETHER).iterdir()
    (group / NAMES).unlink()
    reward = Counting()
    study(tmp_path / "study", size=2, seeds=[0], reward=reward)
    assert set(reward.sizes) == {3}
    assert not (tmp_path / "study" / TOGETHER).exists()


def test_a_group_of_items_that_are_not_asked_for_is_left_and_told(tmp_path: Path) -> None:
    reward = Counting()
    reward.interrupt_at = 3
    study(tmp_path / "study", size=3, seeds=[0], reward=reward)
    (group,) = (tmp_path / "study" / TOGETHER).iterdir()
    state = (group / "state.safetensors").read_bytes()
    study(tmp_path / "study", PROMPTS[:2], size=3, seeds=[0])
    assert (group / "state.safetensors").read_bytes() == state
    said: list[str] = []
    items = items_of([Row("a fish", "here")], [0], lambda row, seed: config(row.prompt, seed))
    _tell_of_groups(items, tmp_path / "study", size=3, alone=False, say=said.append)
    assert "is of items that are not asked for: left there" in said[0]
    study(tmp_path / "study", size=3, seeds=[0])
    assert not (tmp_path / "study" / TOGETHER).exists()
