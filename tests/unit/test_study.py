"""Studies: an item is a run of its own, and its files alone tell whether it is done."""

from __future__ import annotations

import csv
import gc
import json
import subprocess
import sys
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
from dno.plugin import StepDone
from dno.runs import batch
from dno.runs.batch import shard
from dno.runs.keep import thin
from dno.runs.lock import hold
from dno.runs.standing import Standing, standing
from dno.runs.storage import RunFolder

pytestmark = pytest.mark.slow

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def study(folder: Path, prompts: Any = ("a cat", "a dog"), **options: Any) -> dno.Study:
    given = {"reward": bright, "sampler": SAMPLER, "iterations": 2, "seeds": [0, 1], **options}
    if "observer" not in given:
        given = {"settings": WITHOUT_CURVE, **given}
    return dno.batch(prompts, out=folder, **given)


def folders(folder: Path) -> list[Path]:
    return sorted((folder / "items").iterdir())


def bits(folder: Path) -> list[bytes]:
    return [(item / "noise.safetensors").read_bytes() for item in folders(folder)]


def test_each_item_is_a_run_like_any_other(tmp_path: Path) -> None:
    found = study(tmp_path / "study", settings={})
    assert len(found.rows) == len(folders(tmp_path / "study")) == 4
    for run in found.runs():
        ((prompt, seed),) = run.items
        alone = dno.optimize(prompt, seed=seed, reward=bright, sampler=SAMPLER, iterations=2)
        assert torch.equal(run.noise("best"), alone.best.noise_BN)


def test_the_table_tells_what_each_reached(tmp_path: Path) -> None:
    found = study(tmp_path / "study", [{"prompt": "a cat", "Category": "pets"}])
    with (tmp_path / "study" / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row, run in zip(rows, found.runs(), strict=True):
        best = run.result["best"]["rewards"]["bright"][0]
        assert float(row["rewards.bright.best"]) == pytest.approx(best)
        assert float(row["rewards.bright.initial"]) < best
        assert (row["prompt"], row["label.Category"], row["status"]) == (
            "a cat",
            "pets",
            "finished",
        )


def test_called_again_it_runs_nothing_that_is_done(tmp_path: Path) -> None:
    study(tmp_path / "study", ["a cat"])
    stamps = [path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")]
    study(tmp_path / "study", ["a cat", "a dog"])
    kept = [path.stat().st_mtime_ns for path in tmp_path.rglob("a-cat*/result.json")]
    assert sorted(kept) == sorted(stamps)
    assert len(folders(tmp_path / "study")) == 4


class StopAt:
    """Interrupts the process, as Ctrl-C does, at the nth evaluation."""

    def __init__(self, evaluation: int) -> None:
        self.left = evaluation

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return bright(images, prompts)

    @property
    def __name__(self) -> str:
        return "bright"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dno.Study:
    """The study, interrupted by nobody."""
    return study(tmp_path_factory.mktemp("whole") / "study")


@pytest.mark.parametrize("evaluation", [2, 3, 5, 8, 11])
def test_interrupted_anywhere_it_goes_on_to_the_same_bits(
    whole: dno.Study, tmp_path: Path, evaluation: int
) -> None:
    broken = study(tmp_path / "broken", reward=StopAt(evaluation))
    assert broken.interrupted
    assert sum(row.get("status") == "finished" for row in broken.rows) < 4
    again = study(tmp_path / "broken", reward=StopAt(0))
    assert (again.failed, again.interrupted) == ([], False)
    assert bits(whole.folder) == bits(tmp_path / "broken")
    assert [row["standing"] for row in again.rows] == ["done"] * len(whole.rows)


def test_what_another_process_works_on_is_left_to_it(tmp_path: Path) -> None:
    study(tmp_path / "study", iterations=0)
    first = folders(tmp_path / "study")[0]
    (first / "result.json").unlink()
    release = hold(first)
    assert standing(first) is Standing.HELD
    found = study(tmp_path / "study", iterations=0)
    release()
    assert [row["standing"] for row in found.rows].count("done") == 3
    assert standing(first) is Standing.BEGUN
    study(tmp_path / "study", iterations=0)
    assert standing(first) is Standing.DONE


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_share_the_items_without_rest(count: int) -> None:
    items: Any = list(range(10))
    parts = [shard(items, (number, count)) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items


class FailsFor:
    """A reward that raises for a prompt, so many times."""

    def __init__(self, word: str, times: int) -> None:
        self.word = word
        self.times = times

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.word in prompts[0] and self.times > 0:
            self.times -= 1
            raise OSError("the scorer is away")
        return bright(images, prompts)


def test_an_item_that_fails_is_tried_again_and_the_others_go_on(tmp_path: Path) -> None:
    found = study(tmp_path / "once", reward=FailsFor("dog", 1), seeds=[0])
    assert found.failed == []
    found = study(tmp_path / "always", reward=FailsFor("dog", 99), seeds=[0], retries=2)
    (failed,) = found.failed
    assert failed.startswith("a-dog-")
    (line,) = (tmp_path / "always" / "failed.jsonl").read_text().splitlines()
    assert json.loads(line)["item"] == failed
    assert "the scorer is away" in json.loads(line)["error"]
    assert [row["standing"] for row in found.rows].count("done") == 1

    # Mended, the same call goes on, and nothing is left of the failure.
    mended = study(tmp_path / "always", reward=FailsFor("dog", 0), seeds=[0])
    assert [row["standing"] for row in mended.rows] == ["done", "done"]
    assert (tmp_path / "always" / "failed.jsonl").read_text() == ""


WRONG = {
    "one item twice": (
        ["a cat", "a dog", "a cat"],
        "prompts, entry 3: asks for the prompt and seed",
    ),
    "a value": ([{"prompt": "x", "iterations": -1}], "prompts, entry 1: iterations: .*got -1"),
    "a place": ([{"prompt": "x", "optimizer.stp": 1}], "prompts, entry 1: .*unknown option"),
    "one bad line": (
        [*[f"animal {n}" for n in range(300)], "a\x00cat", "a dog"],
        "^prompts, entry 301: the prompt has the control character U[+]0000 in it, as character 2",
    ),
    "text alone": ("a cat", "prompts: should be a list of prompts"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_before_anything_is_made(
    tmp_path: Path, case: tuple[Any, str]
) -> None:
    prompts, told = case
    with pytest.raises(ConfigError, match=told):
        study(tmp_path / "study", prompts)
    assert not (tmp_path / "study").exists()


def test_a_row_sets_its_own_seed_and_options(tmp_path: Path) -> None:
    prompts = [{"prompt": "a cat", "seed": 9, "optimizer.step": 2.0}, {"prompt": "a dog"}]
    found = study(tmp_path / "study", prompts)
    assert [(row["prompt"], row["seed"]) for row in found.rows] == [
        ("a cat", 9),
        ("a dog", 0),
        ("a dog", 1),
    ]
    steps = {run.items[0][0]: run.values["optimizer"].get("step") for run in found.runs()}
    assert steps == {"a cat": 2.0, "a dog": None}


SCRIPT = """
import sys, torch, dno
from dno.core.function import FunctionSampler
def bright(images, prompts):
    return images.mean(dim=(1, 2, 3))
dno.batch([f"animal {n}" for n in range(8)], out=sys.argv[1], reward=bright, iterations=2,
          sampler=FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
          settings={"observers": ["frames", "report"]})
"""


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "shared")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    study(tmp_path / "alone", [f"animal {n}" for n in range(8)], seeds=[0])
    assert bits(tmp_path / "shared") == bits(tmp_path / "alone")


def test_observers_of_a_study_see_each_item(tmp_path: Path) -> None:
    seen: list[str] = []

    def look(event: StepDone) -> None:
        seen.append(event.run.items[0][0])

    study(tmp_path / "study", observer=look, seeds=[0], iterations=0)
    assert seen == ["a cat", "a dog"]


def test_the_table_is_written_as_parquet_too(tmp_path: Path) -> None:
    from pyarrow import parquet

    prompts = [{"prompt": "a cat", "Category": "pets"}, {"prompt": "a dog"}]
    found = study(tmp_path / "study", prompts, seeds=[2**64 - 1], iterations=0)
    rows = parquet.read_table(tmp_path / "study" / "items.parquet").to_pylist()
    assert [row["seed"] for row in rows] == [2**64 - 1] * 2
    assert [row["label.Category"] for row in rows] == ["pets", None]
    for row, expected in zip(rows, found.rows, strict=True):
        assert row["rewards.bright.best"] == expected["rewards.bright.best"]


def test_of_an_item_that_is_done_the_best_alone_is_kept(tmp_path: Path) -> None:
    study(tmp_path / "all", ["a cat"], seeds=[0], settings={})
    study(tmp_path / "best", ["a cat"], seeds=[0], settings={}, keep="best")
    (everything,) = folders(tmp_path / "all")
    (thin,) = folders(tmp_path / "best")
    gone = {path.name for path in everything.iterdir()} - {path.name for path in thin.iterdir()}
    assert gone == {"state.safetensors", "last.png", "frames"}
    assert bits(tmp_path / "all") == bits(tmp_path / "best")

    # Asked again, it is done; and what was kept in full can be made thin.
    assert study(tmp_path / "best", ["a cat"], seeds=[0], settings={}, keep="best").failed == []
    study(tmp_path / "all", ["a cat"], seeds=[0], settings={}, keep="best")
    assert not (everything / "state.safetensors").exists()


def test_what_is_held_while_the_others_run_is_looked_at_again(tmp_path: Path) -> None:
    study(tmp_path / "study", iterations=0)
    first = folders(tmp_path / "study")[0]
    (first / "result.json").unlink()
    release = hold(first)

    def let_go(event: StepDone) -> None:
        release()

    found = study(tmp_path / "study", ["a cat", "a dog", "a fox"], iterations=0, observer=let_go)
    assert [row["standing"] for row in found.rows] == ["done"] * 6


def test_where_the_result_is_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = RunFolder.write

    def note(folder: RunFolder, name: str, data: bytes) -> None:
        written.append(name)
        write(folder, name, data)

    monkeypatch.setattr(RunFolder, "write", note)
    study(tmp_path / "study", ["a cat"], seeds=[0], settings={})
    before, _, after = " ".join(written).partition("result.json")
    assert {"best.png", "last.png", "noise.safetensors", "state.safetensors"} <= {*before.split()}
    assert after == ""


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_process_does_not_grow_with_the_runs_that_it_made(tmp_path: Path) -> None:
    looks: list[tuple[int, int]] = []

    def look(event: StepDone) -> None:
        gc.collect()
        looks.append((len([*Path("/proc/self/fd").iterdir()]), len(gc.get_objects())))

    # What was there before is neither collected nor counted, again and again.
    gc.collect()
    gc.freeze()
    try:
        prompts = [f"animal {number}" for number in range(14)]
        study(tmp_path / "study", prompts, seeds=[0], iterations=0, observer=look)
    finally:
        gc.unfreeze()
    # The first few fill caches.
    files, objects = zip(*looks[4:], strict=True)
    assert len(set(files)) == 1
    # A row each stays, of what became of it.
    assert objects[-1] - objects[0] < 20 * len(objects)


def test_stopped_between_two_items_the_table_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = batch._tried

    def stopped(item: Any, *rest: Any) -> Any:
        if item.config.prompts == ("a dog",):
            raise KeyboardInterrupt
        return tried(item, *rest)

    monkeypatch.setattr(batch, "_tried", stopped)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "study")
    with (tmp_path / "study" / "items.csv").open(newline="") as file:
        found = [row["standing"] for row in csv.DictReader(file)]
    assert found == ["done", "done", "new", "new"]


def test_nothing_is_thinned_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").touch()
    run = tmp_path / "run"
    run.mkdir()
    (run / "frames").symlink_to(other)
    linked = tmp_path / "linked"
    linked.symlink_to(other)
    for folder in (run, linked):
        thin(folder)
    assert (other / "precious.txt").exists()
