"""The page of measured results: its statistics, and that it covers every case."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from test_docs import ROOT

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

    return results


def test_the_interval_is_over_prompts_and_not_over_seeds(results_page):
    # 1 to 20: mean 10.5, standard deviation sqrt(35), and t(19) = 2.093 from a printed table.
    values = {
        (f"prompt {i}", seed): i + shift
        for i in range(1, 21)
        for seed, shift in ((0, -0.5), (1, 0.5))
    }
    mean, half = results_page.interval(values)
    assert mean == pytest.approx(10.5)
    assert half == pytest.approx(2.093 * math.sqrt(35) / math.sqrt(20), rel=1e-4)


def test_an_interval_of_other_than_20_prompts_is_refused(results_page):
    with pytest.raises(ValueError, match="for 20 prompts, not 1"):
        results_page.interval({("a black cat", 0): 1.0})


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


def test_best_so_far_is_the_runs_own_objective_and_not_the_reward(results_page):
    # Two samples; the second is unhealthy until its third record, and never better after it.
    best_TB = np.array([[0.1, -np.inf], [0.1, -np.inf], [0.4, 0.2], [0.4, 0.2], [0.5, 0.2]])
    assert results_page.found_at(best_TB).tolist() == [[0, 0], [0, 0], [2, 2], [2, 2], [4, 2]]


def test_best_so_far_without_a_healthy_record_is_the_first(results_page):
    assert results_page.found_at(np.full((3, 1), -np.inf)).tolist() == [[0], [0], [0]]


def test_differences_are_paired(results_page):
    assert results_page.difference(
        {("a", 0): 3.0, ("a", 1): 1.0}, {("a", 0): 1.0, ("b", 0): 9.0}
    ) == {("a", 0): 2.0}


def test_tables_go_between_their_marks_and_prose_stays(results_page):
    page = "before\n<!-- table: one -->\nold\n<!-- end -->\nafter\n"
    once = results_page.filled(page, {"one": "| new-1 | -1 |"})
    assert once == "before\n<!-- table: one -->\n| new-1 | −1 |\n<!-- end -->\nafter\n"
    assert results_page.filled(once, {"one": "| new-1 | -1 |"}) == once
    with pytest.raises(ValueError, match='no place for the table "two"'):
        results_page.filled(page, {"two": ""})


def test_missing_runs_are_named(results_page, results, tmp_path):
    before = PAGE.read_text()
    with pytest.raises(SystemExit, match=r"have not ended: brightness \(3 of 3\), .*results\.py"):
        results_page.write_page(tmp_path)
    assert PAGE.read_text() == before


def test_sections_name_cases_that_are_run(results_page, results):
    known = {case.name for case in results.CASES}
    assert {
        case for section in results_page.SECTIONS.values() for case in section.values()
    } == known
    assert {
        case for pairs in results_page.PAIRS.values() for pair in pairs for case in pair[:2]
    } <= known


def test_the_page_names_every_case(results):
    text = PAGE.read_text(encoding="utf-8")
    assert [case.name for case in results.CASES if f"`{case.name}`" not in text] == []


def test_the_csv_has_a_row_for_each_case_prompt_and_seed(results):
    with PAGE.with_suffix(".csv").open(newline="") as file:
        found = [(row["case"], row["prompt"], int(row["seed"])) for row in csv.DictReader(file)]
    expected = [
        (case.name, case.form.format(animal), seed)
        for case in results.CASES
        for seed in results.SEEDS
        for animal in results.ANIMALS
    ]
    assert found == expected
