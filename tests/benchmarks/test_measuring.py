"""The suite's own logic: its intervals, its comparison, its files and its tables."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import suite
from measuring import (
    Figure,
    average,
    compare,
    exact,
    in_turns,
    middle,
    moved,
    once,
    ratios,
    read_figures,
    resampled,
    short,
    table,
    write_figures,
)


def figure(value: float, half: float, name: str = "part.what") -> Figure:
    return Figure(name, "what it is", value, value - half, value + half, "s")


def test_the_interval_of_a_median_holds_it_in_19_of_20_cases():
    generator = random.Random(1)
    held = 0
    for _ in range(2000):
        # Skewed, as times on a busy machine are; the median of this law is 1.
        found = middle("a", "a", [generator.lognormvariate(0, 1) for _ in range(15)], "s")
        held += found.low <= 1 <= found.high
    assert 0.94 < held / 2000 < 0.985


@pytest.mark.parametrize(("count", "left_out"), [(1, 0), (5, 0), (6, 0), (9, 1), (15, 3)])
def test_few_values_have_an_interval_of_all_of_them(count, left_out):
    found = middle("a", "a", [float(i) for i in range(count)], "s")
    assert (found.low, found.high) == (left_out, count - 1 - left_out)


def test_the_interval_of_a_mean_narrows_with_the_root_of_the_count():
    few = average("a", "a", [0.0, 1.0] * 8, "s")
    many = average("a", "a", [0.0, 1.0] * 128, "s")
    assert few.value == many.value == 0.5
    assert few.noise / many.noise == pytest.approx(4, rel=0.05)


def test_the_bootstrap_agrees_with_the_normal_law_for_a_mean():
    generator = random.Random(2)
    values = [generator.gauss(3, 2) for _ in range(60)]
    found = resampled("a", "a", 60, lambda chosen: statistics.fmean(values[i] for i in chosen), "s")
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.noise == pytest.approx(average("a", "a", values, "s").noise, rel=0.15)


@pytest.mark.parametrize(
    ("before", "after", "is_moved"),
    [
        (figure(1.0, 0.1), figure(1.13, 0.1), False),
        (figure(1.0, 0.1), figure(1.15, 0.1), True),
        (figure(1.0, 0.0), figure(1.0, 0.0), False),
        (figure(138.0, 0.0), figure(138.5, 0.0), True),
        (figure(1.0, 0.0), figure(1.00001, 0.0), False),
    ],
)
def test_what_moved_by_more_than_the_noise_of_both(before, after, is_moved):
    assert moved(before, after) is is_moved
    assert moved(after, before) is is_moved


def test_figures_of_the_same_thing_seldom_move():
    generator = random.Random(3)

    def measured(shift: float = 1.0) -> Figure:
        return middle("a", "a", [shift * generator.lognormvariate(0, 0.1) for _ in range(9)], "s")

    assert sum(moved(measured(), measured()) for _ in range(500)) < 0.05 * 500
    assert sum(moved(measured(), measured(1.5)) for _ in range(500)) > 0.95 * 500


def test_of_what_was_measured_once_nobody_says_that_it_moved(tmp_path):
    write_figures(tmp_path / "found.json", [once("a.peak", "", 5.0, "GB")], {"size": "full"})
    assert "NaN" not in (tmp_path / "found.json").read_text()
    (before,), _ = read_figures(tmp_path / "found.json")
    # Figures that were written before as if they had no noise are of the same kind.
    for earlier in (before, exact("a.peak", "", 5.0, "GB")):
        after = once("a.peak", "", 5.5, "GB")
        assert not moved(earlier, after)
        (line,) = compare([earlier], [after])
        assert line == "a.peak: 5.00 -> 5.50 GB (+10%; no interval, so this may be noise)"
    assert table([after]).endswith("| – |")
    assert not compare([before], [before])


def test_what_came_and_what_went_is_told():
    lines = compare(
        [exact("a.gone", "", 1, "s"), figure(2, 0.1)], [figure(3, 0.1), exact("a.new", "", 4, "s")]
    )
    assert [line.partition(":")[0] for line in lines] == ["part.what", "a.new", "a.gone"]
    assert "2.00 -> 3.00 s (+50%; noise 0.141)" in lines[0]


def test_figures_are_read_as_they_were_written(tmp_path):
    figures = [figure(1 / 3, 0.01), exact("b.c", "what", 12, "MB")]
    write_figures(tmp_path / "found.json", figures, {"size": "tiny"})
    read, about = read_figures(tmp_path / "found.json")
    assert about == {"size": "tiny"}
    assert read[0].value == pytest.approx(1 / 3, rel=1e-4)
    assert not compare(figures, read)


def test_each_job_has_a_turn_a_round_and_one_that_does_not_count():
    order = []
    jobs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = in_turns(jobs, rounds=2)
    assert order == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}
    assert ratios([1.0, 6.0], [2.0, 3.0]) == [0.5, 2.0]


def test_a_table_gives_three_digits_and_an_interval_where_there_is_one():
    rows = table([figure(1.23456, 0.1), exact("a.b", "bytes", 138_123.4, "B")]).splitlines()
    assert rows[2:] == ["| what it is | 1.23 s | 1.13 to 1.33 |", "| bytes | 138,123 B | – |"]
    assert short(0) == "0"
    assert short(-0.0123456) == "-0.0123"
    assert short(math.pi * 1e-4) == "0.00031"


def test_the_page_keeps_what_is_outside_its_marks():
    page = f"before\n{suite.BEGIN}\nold\n{suite.END}\nafter\n"
    found = suite.in_page(page, "new")
    assert "old" not in found
    assert suite.in_page(found, "new") == found
    assert found.startswith("before\n")
    assert found.endswith("after\n")
    with pytest.raises(SystemExit, match="lacks its marks"):
        suite.in_page("no marks", "new")


def test_what_the_page_shows_is_what_its_figures_say():
    figures, about = read_figures(suite.FIGURES)
    assert about["size"] == "full"
    page = suite.PAGE.read_text("utf-8")
    assert suite.in_page(page, suite.as_tables(figures)) == page


def test_figures_of_another_size_are_not_compared(tmp_path):
    write_figures(tmp_path / "full.json", [figure(1, 0)], {"size": "full"})
    assert suite.told([figure(2, 0)], "quick", tmp_path / "full.json").startswith("not compared")
    assert "part.what: 1.00 -> 2.00" in suite.told([figure(2, 0)], "full", tmp_path / "full.json")
    others = [figure(1, 0, name="other.what")]
    assert "part.what" not in suite.told(others, "full", tmp_path / "full.json")
