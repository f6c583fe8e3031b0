"""Runs and studies side by side: what is paired, what is left out, what is told of it."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import WITHOUT_CURVE
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError, RunFolderError
from dno.report.pairs_page import pairs_page
from dno.report.tables import items_csv, leaderboard_csv, paired_csv, paired_table
from dno.runs.ended import ended
from dno.runs.intervals import interval
from dno.runs.leaderboard import names_of
from dno.runs.pairs import Line, Paired

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
HOSTILE = "</style></script><img src=x onerror=alert(1)> {{ 7 * 7 }}"


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def red(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean(dim=(1, 2)) - images[:, 1].mean(dim=(1, 2))


def study(folder: Path, prompts: Any = ("a cat", "a dog"), **options: Any) -> Path:
    given = {
        "reward": bright,
        "monitor": red,
        "sampler": SAMPLER,
        "optimizer": "adam",
        "iterations": 2,
        "seeds": [0, 1],
        "settings": WITHOUT_CURVE,
        **options,
    }
    dno.batch(prompts, out=folder, **given)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, two seeds, two iterations."""
    return study(tmp_path_factory.mktemp("few") / "few")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same and one seed more, six iterations."""
    return study(tmp_path_factory.mktemp("many") / "many", iterations=6, seeds=[0, 1, 2])


def line(found: Paired, measure: str, way: str) -> Line:
    (one,) = [one for one in found.lines if (one.measure, one.way) == (measure, way)]
    return one


def test_differences_are_pair_by_pair(few: Path, many: Path) -> None:
    found = dno.compare_runs(few, many)
    assert (len(found.keys), found.alone) == (4, 2)

    best = {
        folder: {run.items[0]: run.result["best"]["rewards"]["bright"][0] for run in runs}
        for folder in (few, many)
        for runs in [dno.list_runs(folder / "items")]
    }
    less = {key: best[many][key] - best[few][key] for key in found.keys}
    by_prompt = [(less[p, 0] + less[p, 1]) / 2 for p in ("a cat", "a dog")]
    told = line(found, "bright", "many")
    assert told.less is not None
    assert told.less.mean == pytest.approx(interval(by_prompt).mean)
    assert told.less.half == pytest.approx(interval(by_prompt).half)
    assert (told.better, told.even, told.worse) == (4, 0, 0)
    assert line(found, "iterations", "many").worse == 4


def test_a_way_beside_its_copy_is_even(few: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(few, tmp_path / "copy")
    found = dno.compare_runs(few, copy)
    for one in found.lines:
        if one.less is not None:
            assert (one.less.mean, one.better, one.worse) == (0, 0, 0), one


def test_runs_of_several_samples_are_taken_apart(few: Path, tmp_path: Path) -> None:
    dno.optimize(
        ["a cat", "a dog"],
        seed=0,
        batch=2,
        reward=bright,
        monitor=red,
        sampler=SAMPLER,
        optimizer="adam",
        iterations=2,
        out=tmp_path / "run",
    )
    found = dno.compare_runs(tmp_path / "run", few)
    assert len(found.keys) == 4
    told = line(found, "bright", "few")
    assert told.less is not None
    assert told.less.mean == pytest.approx(0, abs=1e-6)
    for key in found.keys:
        item = found.items["run"][key]
        assert item.picture("best") == tmp_path / "run" / f"best-{item.sample}.png"


def test_what_did_not_end_is_left_out_and_told(few: Path, tmp_path: Path) -> None:
    part = shutil.copytree(few, tmp_path / "part")
    killed = next((part / "items").glob("a-cat-*-s0"))
    damaged = next((part / "items").glob("a-dog-*-s1"))
    (killed / "result.json").unlink()
    (damaged / "result.json").write_text("{}")
    found = dno.compare_runs(few, part)
    assert len(found.keys) == 2
    assert found.sentence() == (
        "few, part: 2 pairs of 2 prompts; left out: 1 not ended in part, 1 damaged in part, "
        "2 that are not in all"
    )

    for one in (part / "items").iterdir():
        (one / "result.json").unlink(missing_ok=True)
    with pytest.raises(RunFolderError, match="has no run that ended: 4 not ended"):
        ended(part)


def test_what_cannot_be_paired_is_told(few: Path, tmp_path: Path) -> None:
    (cats,) = few.glob("items/a-cat-*-s0")
    (dogs,) = few.glob("items/a-dog-*-s0")
    reds = study(tmp_path / "reds", ["a cat"], reward=red, monitor=None, seeds=[0])
    only_bright = study(tmp_path / "bright", ["a cat"], monitor=None, seeds=[0])
    for paths, told in (
        ([cats], "needs two folders or more"),
        ([cats, dogs], "no prompt and seed that all of them ran"),
        ([cats, cats], "is named twice"),
        ([reds, only_bright], "no reward"),
    ):
        with pytest.raises(ConfigError, match=told):
            dno.compare_runs(*paths)
    with pytest.raises(RunFolderError, match="there is no folder"):
        dno.compare_runs(cats, tmp_path / "none")


def test_runs_that_were_interrupted_did_not_end(few: Path, tmp_path: Path) -> None:
    part = shutil.copytree(few, tmp_path / "part")
    (file,) = part.glob("items/a-cat-*-s0/result.json")
    file.write_text(file.read_text().replace('"finished"', '"interrupted"'))
    found = dno.compare_runs(few, part)
    assert len(found.keys) == 3
    assert "1 not ended in part" in found.sentence()


def test_a_folder_is_itself_however_it_is_spelled(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(few.parent)
    with pytest.raises(ConfigError, match="is named twice"):
        dno.compare_runs(few.name, f"./{few.name}")


def test_repeats_of_one_item_are_told_apart(few: Path, tmp_path: Path) -> None:
    (one,) = few.glob("items/a-cat-*-s0")
    for name in ("first", "second"):
        shutil.copytree(one, tmp_path / "runs" / name)
    found = dno.leaderboard(tmp_path / "runs")
    assert {entry.name for entry in found.entries} == {
        "a cat, seed 0, first",
        "a cat, seed 0, second",
    }
    assert not found.left_out
    with pytest.raises(ConfigError, match="needs a study"):
        dno.leaderboard()
    with pytest.raises(ConfigError, match="should be a path, got 3"):
        dno.compare_runs(3, 4)  # type: ignore[arg-type]


RATES = [{"prompt": p, "optimizer.lr": lr} for p in ("a cat", "a dog") for lr in (0.01, 0.2)]


def test_settings_within_one_study_are_ordered(few: Path, tmp_path: Path) -> None:
    rows = [*RATES, {"prompt": "a bird", "optimizer.lr": 0.01}]
    rates = study(tmp_path / "rates", rows, seeds=[0])
    with pytest.raises(ConfigError, match="more than once"):
        dno.compare_runs(rates, few)

    found = dno.leaderboard(rates)
    assert [entry.name for entry in found.entries] == ["optimizer.lr=0.2", "optimizer.lr=0.01"]
    assert [len(entry.items) for entry in found.entries] == [2, 2]
    assert found.sentence().endswith("left out: 1 that some setting lacks")
    assert dno.leaderboard(rates, by="red").by == "red"
    alone = dno.leaderboard(rates, prompt="a bird")
    assert [entry.name for entry in alone.entries] == ["a bird, seed 0"]
    with pytest.raises(ConfigError, match="'a fish' was not run"):
        dno.leaderboard(rates, prompt="a fish")
    with pytest.raises(ConfigError, match="choose from bright, red"):
        dno.leaderboard(rates, by="brigt")


def test_of_one_setting_the_items_are_ordered(few: Path) -> None:
    found = dno.leaderboard(few)
    means = [entry.best["bright"].mean for entry in found.entries]
    assert means == sorted(means, reverse=True)
    assert {entry.name for entry in found.entries} == {
        f"{prompt}, seed {seed}" for prompt in ("a cat", "a dog") for seed in (0, 1)
    }


def test_the_front_is_what_none_beats(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a cat", "rewards.0.weight": weight, "optimizer.lr": lr}
        for weight, lr in ((1.0, 0.2), (0.0, 0.2), (0.5, 0.2), (0.5, 0.001))
    ]
    options = {"reward": [bright, red], "monitor": None, "iterations": 5}
    found = dno.leaderboard(study(tmp_path / "study", rows, **options))
    reached = {
        entry.name: tuple(entry.best[name].mean for name in ("bright", "red"))
        for entry in found.entries
    }
    for entry in found.entries:
        mine = reached[entry.name]
        beaten = any(
            other != mine and all(a >= b for a, b in zip(other, mine, strict=True))
            for other in reached.values()
        )
        assert entry.on_front is not beaten
    assert not all(entry.on_front for entry in found.entries)
    rows_read = list(csv.DictReader(io.StringIO(leaderboard_csv(found).decode())))
    assert [row["entry"] for row in rows_read] == [entry.name for entry in found.entries]


def test_names_tell_settings_apart_and_nothing_more() -> None:
    adam = {"optimizer.use": "adam", "optimizer.lr": 0.1, "sampler.steps": 10}
    faster = {**adam, "optimizer.lr": 0.2}
    ascent = {"optimizer.use": "ascent", "optimizer.step": None, "sampler.steps": 10}
    assert names_of([adam, ascent]) == ["optimizer=adam", "optimizer=ascent"]
    assert names_of([adam, faster]) == ["optimizer.lr=0.1", "optimizer.lr=0.2"]
    assert names_of([adam, faster, ascent]) == [
        "optimizer=adam, optimizer.lr=0.1",
        "optimizer=adam, optimizer.lr=0.2",
        "optimizer=ascent",
    ]


def test_tables_hold_what_was_found(few: Path, many: Path) -> None:
    found = dno.compare_runs(few, many)
    rows = list(csv.DictReader(io.StringIO(paired_csv(found).decode())))
    assert len(rows) == len(found.lines)
    told = line(found, "bright, gain", "many")
    (row,) = [r for r in rows if (r["measure"], r["way"]) == ("bright, gain", "many")]
    assert told.less is not None
    assert float(row["less_first"]) == told.less.mean
    assert [row[name] for name in ("better", "even", "worse")] == ["4", "0", "0"]

    items = list(csv.DictReader(io.StringIO(items_csv(found).decode())))
    assert [(row["prompt"], row["seed"]) for row in items[::2]] == [
        (prompt, str(seed)) for prompt, seed in found.keys
    ]
    text = paired_table(found).text().splitlines()
    assert len({len(row) for row in text if "4/0/0" in row}) == 1


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_pictures_and_obeys_no_prompt(tmp_path: Path) -> None:
    prompts = [HOSTILE, "a dog"]
    ways = [study(tmp_path / name, prompts, seeds=[0]) for name in ("one", "other")]
    found = dno.compare_runs(*ways)
    page = Page(pairs_page(found))
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "script" not in {tag for tag, _ in page.tags}
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2 * 3
    assert all(str(one["src"]).startswith("data:image/webp;base64,") for one in pictures)
    assert str(tmp_path) not in pairs_page(found)


def test_scores_that_were_not_finite_are_no_numbers_of_the_table(few: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(few, tmp_path / "copy")
    for file in copy.rglob("result.json"):
        content = json.loads(file.read_text())
        content["best"]["monitors"]["red"] = [None]
        file.write_text(json.dumps(content))
    found = dno.compare_runs(few, copy)
    told = line(found, "red", "copy")
    assert told.less is not None
    assert math.isnan(told.less.mean)
    assert (told.better, told.even, told.worse) == (0, 0, 0)
    assert "nan" not in paired_csv(found).decode()
    assert "nan" not in items_csv(found).decode()


def test_paces_are_of_the_pairs_and_stand_on_the_page(few: Path, many: Path) -> None:
    found = dno.compare_runs(few, many)
    paces = found.paces()
    runs = {folder: dno.list_runs(folder / "items") for folder in (few, many)}
    for folder in (few, many):
        pace = paces[folder.name]
        ended_at = [run.history[-1].seconds for run in runs[folder] if run.items[0][1] < 2]
        assert pace.end == pytest.approx(sum(ended_at) / 4)
        assert set(pace.gains) == {"a cat", "a dog"}
        gains = line(found, "bright, gain", folder.name).mean
        assert sum(pace.gains[prompt][-1] for prompt in pace.gains) / 2 == pytest.approx(gains.mean)

    assert "s to +0.01" not in pairs_page(found)
    assert "s to +0.01" in pairs_page(found, [0.01])
