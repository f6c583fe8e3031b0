"""The page of measured results: its statistics, that it covers every case, and its studies."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
from test_docs import ROOT

import dno
from dno.runs.pace import Pace

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "explanation" / "results.md"


@pytest.fixture
def results_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "figures")
    import results_page

    return results_page


@pytest.fixture
def results(results_page):
    import results

    before = torch.get_num_threads()
    yield results
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775), (1.0, 60, 0.9398, 1.0)],
)
def test_wilson_interval_is_the_known_one(results_page, share, count, low, high):
    assert results_page.wilson(share, count) == pytest.approx((low, high), abs=2e-4)


def test_a_share_whose_seeds_agree_counts_prompts_instead_of_pictures(results_page):
    agree = {(f"prompt {i}", seed): float(i < 10) for i in range(20) for seed in range(3)}
    share, low, high = results_page.share_interval(agree)
    assert share == 0.5
    assert (low, high) == pytest.approx(results_page.wilson(0.5, 19))
    everywhere = dict.fromkeys(agree, 1.0)
    assert results_page.share_interval(everywhere) == (1.0, *results_page.wilson(1.0, 60))


def test_lengths_of_one_rule_are_one_curve(results_page):
    lengths = [Pace([1.0, end], {"a": [0.0, gain]}) for end, gain in ((2.0, 0.1), (3.0, 0.4))]
    pace = results_page.through(lengths)
    assert pace.seconds == [1.0, 2.0, 3.0]
    assert pace.gains == {"a": [0.0, 0.1, 0.4]}


def test_tables_go_between_their_marks_and_prose_stays(results_page):
    page = "before\n<!-- table: one -->\nold\n<!-- end -->\nafter\n"
    once = results_page.filled(page, {"one": "| new-1 | -1 |"})
    assert once == "before\n<!-- table: one -->\n| new-1 | −1 |\n<!-- end -->\nafter\n"
    assert results_page.filled(once, {"one": "| new-1 | -1 |"}) == once
    with pytest.raises(ValueError, match='no place for the table "two"'):
        results_page.filled(page, {"two": ""})


def test_tables_name_cases_that_are_run_and_leave_none_out(results_page):
    known = {case.name for case in results_page.CASES}
    shown = {rule.case for rules in results_page.TABLES.values() for rule in rules}
    assert shown == known


@pytest.fixture
def measured(results_page):
    return results_page.Measured.read(results_page.ROWS, results_page.CURVES)


def test_the_page_is_what_its_csvs_give(results_page, measured):
    text = PAGE.read_text(encoding="utf-8")
    assert results_page.filled(text, results_page.tables(measured)) == text


def test_what_was_measured_is_written_as_it_was_read(measured, results_page, tmp_path):
    written = tmp_path / "rows.csv", tmp_path / "curves.csv"
    measured.write(*written)
    for path, kept in zip(written, (results_page.ROWS, results_page.CURVES), strict=True):
        assert path.read_text() == kept.read_text()


def test_the_page_names_every_case(results_page):
    text = PAGE.read_text(encoding="utf-8")
    assert [case.name for case in results_page.CASES if f"`{case.name}`" not in text] == []


def test_the_csv_has_a_row_for_each_case_prompt_and_seed(results):
    with PAGE.with_suffix(".csv").open(newline="") as file:
        found = [(row["case"], row["prompt"], int(row["seed"])) for row in csv.DictReader(file)]
    expected = [
        (case.name, prompt, seed)
        for case in results.CASES
        for seed in results.SEEDS
        for prompt in case.prompts()
    ]
    assert found == expected


def test_a_study_has_the_settings_of_its_case(results, tmp_path):
    campaign = results.quick(tmp_path)
    paper, ours, _ = [campaign._options(case) for case in campaign.cases]
    assert paper["reward"] == [{"use": "brightness", "weight": 2.0}]
    assert paper["optimizer"]["cls"] == "AdamW"
    assert (paper["constraint"], paper["settings"]["coarse"]) == ([], [])
    assert [len(options["regularizer"]) for options in (paper, ours)] == [1, 0]
    assert ours["settings"]["coarse"] == 10
    assert ours["monitor"][0] == "clip"


def test_a_little_of_it_runs_and_goes_on_where_it_stopped(results, tmp_path, capsys):
    arguments = ["--quick", "--work", str(tmp_path)]
    results.main(arguments)
    first = capsys.readouterr().out
    for case in results.QUICK:
        assert f"(`{case}`)" in first
    assert "s to +0.05" in first

    kept = sorted(tmp_path.glob("*/items/*/history.jsonl"))
    assert len(kept) == 6
    # One item is gone, as if it had never been reached; the others are not run again.
    times = {path: path.stat().st_mtime_ns for path in kept[1:]}
    shutil.rmtree(kept[0].parent)
    results.main(arguments)
    assert kept[0].exists()
    assert {path: path.stat().st_mtime_ns for path in kept[1:]} == times

    # Nothing is run here, since all is there.
    rows = results.quick(tmp_path).measured().rows
    for row in rows:
        (folder,) = (tmp_path / row["case"] / "items").glob(f"{row['prompt'].replace(' ', '-')}-*")
        run = dno.open_run(folder)
        assert run.items == [(row["prompt"], row["seed"])]
        best = run.result["best"]
        assert row["rewards.brightness.best"] == best["rewards"]["brightness"][0]
        assert row["p_ks.best"] == best["figures"]["p_ks"][0]
        assert row["seconds"] == run.history[-1].seconds
        assert row["monitors.animal.best"] in (0.0, 1.0)
        rose = row["rewards.brightness.best"] > row["rewards.brightness.initial"]
        assert (row["moved"] > 0) == rose
    assert any(row["moved"] for row in rows)
