"""The studies behind pages, a little of each, and the tables that pages show of them."""

from __future__ import annotations

import csv

import pytest
import torch
from test_docs import ROOT

import dno

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "figures")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_searches_are_compared_as_studies_are(monkeypatch, tmp_path, capsys):
    import black_box

    few = ("local-search", "surrogate")
    monkeypatch.setattr(black_box, "METHODS", {name: black_box.METHODS[name] for name in few})
    monkeypatch.setattr(black_box, "REWARDS", {"judge": black_box.REWARDS["judge"]})
    arguments = ["--quick", "--work", str(tmp_path)]
    black_box.main(arguments)
    first = capsys.readouterr().out
    assert "judge: local-search, surrogate: 2 pairs of 2 prompts" in first
    assert "of 24 p-values below 0.01" in first

    # What is told is in the run folders, and nothing is run twice.
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/items/*/history.jsonl")}
    assert len(kept) == 4
    black_box.main(arguments)
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found = dno.compare_runs(*[tmp_path / "judge" / name for name in few])
    for items in found.items.values():
        scores = [item.best["Judge"] for item in items.values()]
        assert scores == pytest.approx([round(score, 1) for score in scores])


def test_the_penalty_is_measured_in_studies(monkeypatch, tmp_path, capsys):
    import reward_hacking

    monkeypatch.setattr(reward_hacking, "CASES", {"darkness": "a white {}"})
    reward_hacking.main(["--quick", "--work", str(tmp_path)])
    told = capsys.readouterr().out
    for gamma in ("0", "1"):
        assert f"| darkness | {gamma} | " in told
        runs = dno.list_runs(tmp_path / f"darkness-gamma-{gamma}" / "items")
        assert {run.items[0][1] for run in runs} == {0, 1}
        (regularizer,) = runs[0].values["regularizers"]
        assert (regularizer["weight"], runs[0].history[-1].iteration) == (float(gamma), 2)


def test_the_table_of_the_penalty_is_what_its_csv_gives():
    import reward_hacking

    with reward_hacking.CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"\n{reward_hacking.table(rows)}\n" in reward_hacking.PAGE.read_text(encoding="utf-8")


def test_pictures_of_the_penalty_show_start_and_ends(tmp_path, monkeypatch):
    import reward_hacking

    monkeypatch.setattr(reward_hacking, "SHOWN", {"brightness": "cat"})
    monkeypatch.setattr(reward_hacking, "SEEDS", (0,))
    runs = reward_hacking.study("brightness", 1.0, tmp_path, ["cat"], 0)
    by_gamma = {0.0: runs, 1.0: runs}
    shown = [reward_hacking.pictures_of("brightness", by_gamma)]
    assert [len(pictures) for _, pictures in shown] == [3]
    reward_hacking.before_after(shown).savefig(tmp_path / "shown.png")
    reward_hacking.figure(by_gamma, "brightness").savefig(tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 1000
