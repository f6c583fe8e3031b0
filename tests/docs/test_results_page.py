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


@pytest.fixture
def handed_over(results_page, results):
    """Twenty samples that start at 0.1: a look, two coarse records, the hand-over, two repairs.

    Those of odd places lose their gain at the hand-over, and get it back in the second repair; the
    one of place 2 is never healthy after the start.
    """
    rewards = np.full((6, 20), 0.1)
    rewards[1:3] = 0.9
    rewards[3:, 0::2] = 0.6
    rewards[3:, 1::2] = [[0.2], [0.3], [0.5]]
    healthy = np.ones((6, 20), bool)
    healthy[1:, 2] = False
    facts = {
        "seconds": [20.0, 30.0, 40.0, 70.0, 100.0, 120.0],
        "grid": [None, 10, 10, None, None, None],
        "reward": rewards.tolist(),
        "healthy": healthy.tolist(),
    }
    return results_page.Run(results.CASES[0], 10, facts, {})


def test_what_counts_is_healthy_and_on_the_samplers_own_grid(handed_over):
    gains_TB = handed_over.gains()
    assert gains_TB[2].tolist() == [0.0] * 20
    assert gains_TB[3, [0, 1, 2]] == pytest.approx([0.5, 0.1, 0.0])
    assert gains_TB[-1, [0, 1, 2]] == pytest.approx([0.5, 0.4, 0.0])


def test_a_sample_is_charged_until_it_was_done_and_not_for_others(handed_over):
    assert handed_over.ended()[:4].tolist() == [3, 5, 3, 5]
    # A look costs what the last record took, 20 s for twenty images.
    assert handed_over.costs() == pytest.approx([1.0, 2.0, 2.5, 3.0, 4.5, 6.0])
    costs_T, gains_TB = handed_over.curve()
    assert costs_T == pytest.approx([1.0, (3.0 + 6.0) / 2])
    assert len(gains_TB) == 2


def test_seconds_to_a_gain_are_read_off_the_mean_curve(results_page):
    costs_T = np.array([1.0, 2.0, 4.0])
    gains_TP = np.array([[0.0, 0.0], [0.1, 0.3], [0.3, 0.5]])
    curve = results_page.Curve(costs_T, gains_TP)
    both = np.arange(2)
    assert curve.seconds_to(0.1, both) == pytest.approx(1.5)
    assert curve.seconds_to(0.3, both) == pytest.approx(3.0)
    assert curve.seconds_to(0.3, np.array([1])) == pytest.approx(2.0)
    assert curve.seconds_to(0.41, both) == math.inf
    assert curve.gain_at(3.0) == pytest.approx([0.2, 0.4])


def test_lengths_of_one_rule_are_one_curve(results_page):
    lengths = [
        results_page.Curve(np.array([1.0, end]), np.array([[0.0], [gain]]))
        for end, gain in ((2.0, 0.1), (3.0, 0.4))
    ]
    curve = results_page.Curve.through(lengths)
    assert curve.costs_T.tolist() == [1.0, 2.0, 3.0]
    assert curve.gains_TP[:, 0].tolist() == [0.0, 0.1, 0.4]


def test_the_bootstrap_is_over_prompts(results_page):
    values_P = np.arange(20.0)
    mean, low, high = results_page.resampled(lambda prompts: values_P[prompts].mean())
    # Of a mean of 20 values with standard deviation 5.77: about 1.96 x 1.29 to each side.
    assert (mean, low, high) == pytest.approx((9.5, 9.5 - 2.53, 9.5 + 2.53), abs=0.25)


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
    told = r"are missing: brightness-paper \(3\), .*results\.py"
    with pytest.raises(SystemExit, match=told):
        results_page.write_page(tmp_path)
    assert PAGE.read_text() == before


def test_tables_name_cases_that_are_run_and_leave_none_out(results_page, results):
    known = {case.name for case in results.CASES}
    shown = {rule.case for rules in results_page.TABLES.values() for rule in rules}
    assert shown == known


def test_the_page_names_every_case(results):
    text = PAGE.read_text(encoding="utf-8")
    assert [case.name for case in results.CASES if f"`{case.name}`" not in text] == []


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


def test_a_run_repeats_the_settings_of_its_case(results, tmp_path):
    by_name = {case.name: case for case in results.CASES}
    clock = results.Clock()
    paper = by_name["darkness-paper"].config(10, tmp_path, clock)
    assert (paper.rewards[0].weight, paper.optimizer.cls) == (2.0, "AdamW")
    assert (paper.constraints, paper.coarse, len(paper.regularizers)) == ((), (), 1)
    ours = by_name["clip-ours-6"].config(11, tmp_path, clock)
    assert (ours.coarse, ours.regularizers, ours.monitors, ours.seeds) == ((10,), (), (), (11,))
