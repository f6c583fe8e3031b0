"""Items side by side keep what they have reached, whatever becomes of disk, process and files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.protocols import NoiseMap
from dno.runs.groups import NAMES, TOGETHER
from dno.runs.saved import SavedRun

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
PROMPTS = ("a cat", "a dog", "a bird")


class Bright:
    """A reward that notes how many pictures it was asked about at once, and may do more then."""

    __name__ = "bright"

    def __init__(self, then: Callable[[int], object] = lambda call: None) -> None:
        self.sizes: list[int] = []
        self.then = then

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.sizes.append(len(images))
        self.then(len(self.sizes))
        return images.mean(dim=(1, 2, 3))


def study(folder: Path, **options: Any) -> dno.Study:
    given = {
        "reward": Bright(),
        "sampler": SAMPLER,
        "optimizer": "adam",
        "iterations": 6,
        "seeds": [0],
        "size": 3,
        "retries": 0,
        "settings": {"observers": []},
        **options,
    }
    return dno.batch(PROMPTS, out=folder, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, undisturbed."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    assert not study(folder).failed
    return folder


def assert_goes_on(folder: Path, whole: Path, *, asking: int) -> None:
    """The same command ends with the same bits, and asks the reward no more than so often."""
    reward = Bright()
    found = study(folder, reward=reward)
    assert [row["standing"] for row in found.rows] == ["done"] * 3
    assert set(reward.sizes) <= {3}
    assert len(reward.sizes) <= asking
    assert not (folder / TOGETHER).exists()
    for path in sorted((whole / "items").iterdir()):
        again = folder / "items" / path.name / "noise.safetensors"
        assert again.read_bytes() == (path / "noise.safetensors").read_bytes()


def group_in(folder: Path) -> Path:
    (group,) = (folder / TOGETHER).iterdir()
    return group


class Disk:
    """Files that are made in a folder of this name meet what is wrong, from the nth on."""

    def __init__(self, name: str, after: int, wrong: BaseException) -> None:
        self.name = name
        self.left = after
        self.wrong = wrong
        self.open = os.open

    def __call__(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and self.name in Path(os.fsdecode(path)).parts:
            self.left -= 1
            if self.left < 0:
                raise self.wrong
        return self.open(path, flags, *rest, **named)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("after", [0, 1, 3, 9])
def test_a_disk_that_is_full_when_items_are_made_costs_no_climb(
    after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", Disk("items", after, FULL))
    found = study(tmp_path / "study")
    monkeypatch.undo()
    assert len(found.failed) == sum(row["standing"] != "done" for row in found.rows) > 0
    assert "No space left on device; the same command goes on from what is kept" in (
        tmp_path / "study" / "failed.jsonl"
    ).read_text().replace("[Errno 28] ", "")
    assert_goes_on(tmp_path / "study", whole, asking=1)


@pytest.mark.parametrize("after", [1, 3, 9])
def test_a_kill_in_the_midst_of_an_item_costs_no_climb(
    after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", Disk("items", after, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "study")
    monkeypatch.undo()
    assert_goes_on(tmp_path / "study", whole, asking=1)


def test_a_disk_that_is_full_on_the_way_costs_no_climb(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dno.runs.run.SAVE_SECONDS", 1e-9)
    monkeypatch.setattr("dno.runs.storage._wait_after", lambda seconds: 0.0)
    reward = Bright()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", Disk(TOGETHER, 8, FULL))
        found = study(tmp_path / "study", reward=reward)
    assert len(found.failed) == 3
    assert 2 < len(reward.sizes) < 7
    assert_goes_on(tmp_path / "study", whole, asking=9 - len(reward.sizes))


def test_memory_that_runs_out_once_costs_no_climb(whole: Path, tmp_path: Path) -> None:
    def run_out(call: int) -> None:
        if call == 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert len(study(tmp_path / "study", reward=Bright(run_out)).failed) == 3
    assert_goes_on(tmp_path / "study", whole, asking=4)

    reward = Bright(run_out)
    assert not study(tmp_path / "tried again", reward=reward, retries=1).failed
    assert reward.sizes == [3] * 8


def test_memory_that_never_is_enough_for_a_group_leaves_its_items_alone(tmp_path: Path) -> None:
    reward = Bright()

    def run_out(call: int) -> None:
        if reward.sizes[-1] > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    reward.then = run_out
    assert not study(tmp_path / "study", reward=reward).failed
    assert not (tmp_path / "study" / TOGETHER).exists()


@pytest.mark.parametrize("file", ["state.safetensors", "run.toml"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_group_that_is_damaged_is_not_begun_anew_unasked(
    file: str, size: int, tmp_path: Path
) -> None:
    def interrupt(call: int) -> None:
        if call == 4:
            raise KeyboardInterrupt

    study(tmp_path / "study", reward=Bright(interrupt))
    group = group_in(tmp_path / "study")
    (group / file).write_bytes(b"[damaged")
    reward = Bright()
    found = study(tmp_path / "study", reward=reward, size=size)
    assert len(found.failed) == 3
    assert reward.sizes == []
    said = (tmp_path / "study" / "failed.jsonl").read_text()
    assert f"{group.name} to have its items, which are side by side there, begun anew" in said
    assert group.exists()


def test_a_strangers_file_is_told_before_anything_is_run(whole: Path, tmp_path: Path) -> None:
    name = min(SavedRun(path).path.name for path in (whole / "items").iterdir())
    note = tmp_path / "study" / "items" / name / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    reward = Bright()
    found = study(tmp_path / "study", reward=reward)
    assert found.failed == [name]
    assert set(reward.sizes) == {2}
    assert note.read_text() == "mine"


def test_a_strangers_file_that_comes_meanwhile_costs_no_climb(whole: Path, tmp_path: Path) -> None:
    name = min(path.name for path in (whole / "items").iterdir())
    note = tmp_path / "study" / "items" / name / "note.txt"

    def put(call: int) -> None:
        if call == 3:
            note.parent.mkdir(parents=True)
            note.write_text("mine")

    assert name in study(tmp_path / "study", reward=Bright(put)).failed
    reward = Bright()
    assert name in study(tmp_path / "study", reward=reward).failed
    assert reward.sizes == []
    assert f"items/{name} holds what is no run" in (tmp_path / "study/failed.jsonl").read_text()
    assert note.read_text() == "mine"
    note.unlink()
    assert_goes_on(tmp_path / "study", whole, asking=1)


@dataclass(frozen=True)
class Loading:
    """A sampler that does something else while it is set up."""

    then: Callable[[], object]

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> NoiseMap:
        self.then()
        return SAMPLER.bind(prompts, seeds)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_who_comes_while_a_group_is_loaded_leaves_it_its_items(size: int, tmp_path: Path) -> None:
    came: list[list[str]] = []
    other = Bright()

    def come() -> None:
        if not came:
            came.append([])
            found = study(tmp_path / "study", sampler=sampler, size=size, reward=other)
            came.append([row["standing"] for row in found.rows])

    sampler = Loading(come)
    reward = Bright()
    found = study(tmp_path / "study", sampler=sampler, reward=reward)
    assert came[1] == ["held"] * 3
    assert other.sizes == []
    assert set(reward.sizes) == {3}
    assert [row["standing"] for row in found.rows] == ["done"] * 3


def test_what_processes_left_that_died_before_a_group_began_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "study" / TOGETHER
    for name in ("empty", "named", "part"):
        (place / name).mkdir(parents=True)
    (place / "named" / NAMES).write_text('["a", "b"]')
    (place / "part" / f".dno-{0:016x}.part").touch()
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").touch()
    study(tmp_path / "study", size=1)
    assert [path.name for path in place.iterdir()] == ["mine"]
