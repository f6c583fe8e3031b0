"""Where lines go in a box, and the numbers beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dno.core.result import StepRecord
from dno.report.charts import HEIGHT, WIDTH, charts_of, ranges_of, stages_of
from dno.report.readings import Row, Told, best_iterations, in_order, rows_of
from dno.report.view import number

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def record(iteration: int, values: Sequence[float] = (0.5,), grid: int | None = None) -> StepRecord:
    size = len(values)
    return StepRecord(
        iteration=iteration,
        grid=grid,
        reward=tuple(values),
        objective=tuple(values),
        rewards={"bright": tuple(values)},
        monitors={},
        penalties={},
        log_p={"permutation": (-1.0,) * size},
        gamma=None,
        figures={"p_mean": (0.5,) * size, "p_norm": (1e-3,) * size},
        healthy=(True,) * size,
        best=tuple(values),
        grad_norm=(math.nan,) * size,
        seconds=float(iteration),
        network_evaluations=10 * iteration,
        reward_calls=iteration,
    )


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def lines(values: Sequence[float]) -> list[str]:
    row = Row("climbed", "bright", [(value,) for value in values])
    (chart,) = charts_of([row], range(len(values)), ranges_of([row])) or [None]
    assert chart is not None
    return [line.path for line in chart.lines]


@given(st.lists(FINITE, min_size=2, max_size=40))
def test_a_line_stays_in_its_box_and_higher_is_higher(values: list[float]) -> None:
    (path,) = lines(values)
    found = points(path)
    assert len(found) == len(values)
    assert found[0][0] == 0
    assert found[-1][0] == WIDTH
    assert all(0 <= y <= HEIGHT for _, y in found)
    highest, lowest = values.index(max(values)), values.index(min(values))
    assert found[highest][1] == min(y for _, y in found)
    assert found[lowest][1] == max(y for _, y in found)


@given(low=FINITE, span=st.floats(1e-6, 1e6))
def test_ticks_are_few_even_and_around_the_values(low: float, span: float) -> None:
    row = Row("climbed", "bright", [(low,), (low + span,)])
    (chart,) = charts_of([row], [0, 1], ranges_of([row]))
    assert 2 <= len(chart.ticks) <= 6


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.51, 0.75), ["0.8", "0.7", "0.6", "0.5"]),
        ((0.0, 30.0), ["30", "20", "10", "0"]),
        ((-2.4, -2.29), ["−2.25", "−2.30", "−2.35", "−2.40"]),
        ((0.5, 0.5), ["0.60", "0.55", "0.50", "0.45", "0.40"]),
        ((0.0, 0.0), ["0.4", "0.2", "0.0", "−0.2", "−0.4"]),
    ],
)
def test_ticks_are_round_numbers(values: tuple[float, float], ticks: list[str]) -> None:
    row = Row("climbed", "bright", [(value,) for value in values])
    (chart,) = charts_of([row], [0, 1], ranges_of([row]))
    shown = [float(tick.replace("−", "-")) for tick in chart.ticks]
    assert shown[0] >= max(values)
    assert shown[-1] <= min(values)
    if values[0] not in (0.0, 0.5):
        assert chart.ticks == ticks


def test_a_line_breaks_where_there_is_no_number_and_one_alone_is_a_dot() -> None:
    (path,) = lines([1.0, 2.0, math.nan, 1.5, math.inf, 1.0])
    assert path.count("M") == 3
    assert len(points(path)) == 4
    (alone,) = lines([math.nan, 1.0, math.nan])
    assert alone.endswith("h0.1")


def test_a_long_line_is_thinned_to_its_ends_and_extremes() -> None:
    values = [math.sin(i / 300) for i in range(9000)]
    values[4321] = 7.0
    values[5678] = -7.0
    (path,) = lines(values)
    found = points(path)
    assert len(found) <= 302
    whole = [y for _, y in found]
    assert whole.count(min(whole)) == 1
    assert whole.count(max(whole)) == 1
    assert found[0][0] == 0
    assert found[-1][0] == WIDTH


def test_p_values_share_a_chart_with_the_floor_that_decides() -> None:
    told = Told(samples=1, p_floor=1e-4, kept=["p_norm"])
    history = [record(0), record(1)]
    rows = rows_of(history, told)
    charts = charts_of(rows, [0, 1], ranges_of(rows))
    (chart,) = [chart for chart in charts if chart.kind == "p"]
    assert chart.keys == ["p.p_mean"]
    assert {line.name: line.faint for line in chart.lines} == {"p_mean": False, "p_norm": True}
    assert chart.ticks == ["1", "1e-1", "1e-2", "1e-3"]
    assert chart.rule is None
    (free,) = [row for row in rows if row.name == "p_mean"]
    assert free.floor == 1e-4


def test_stages_are_told_where_there_are_coarser_grids() -> None:
    assert stages_of([record(i) for i in range(5)]) == []
    grids = [None, 10, 10, 25, None]
    stages = stages_of([record(i, grid=grid) for i, grid in enumerate(grids)])
    assert [(stage.label, stage.own) for stage in stages] == [
        ("all steps", True),
        ("10 steps", False),
        ("25 steps", False),
        ("all steps", True),
    ]
    assert [stage.x for stage in stages] == [0, 125, 625, 875]
    assert sum(stage.width for stage in stages) == WIDTH


def test_rows_are_what_was_recorded_in_an_order_to_be_read() -> None:
    two = [replace(record(i, (0.1 * i, 0.9)), monitors={"clip": (0.2, 0.3)}) for i in range(3)]
    rows = rows_of(two, Told(samples=2, weights={"bright": 2.0}))
    assert [row.key for row in rows] == [
        "climbed.bright",
        "held out.clip",
        "log P.permutation",
        "p.p_mean",
        "p.p_norm",
        "cost.seconds",
        "cost.network evaluations",
        "cost.reward calls",
    ]
    assert rows[0].note == "weight 2"
    assert rows[0].by_record == [(0.0, 0.9), (0.1, 0.9), (0.2, 0.9)]
    assert (rows[0].plain, rows[0].best) == ((0.0, 0.9), (0.2, 0.9))
    assert rows[6].by_record == [(0.0,), (10.0,), (20.0,)]
    # Of sample 1 the first of equals is the best.
    assert rows[6].best == (20.0, 0.0)


def test_the_best_of_a_run_that_has_not_ended_is_healthy_and_on_the_last_grid() -> None:
    history = [
        record(0, (0.1,)),
        record(1, (0.9,), grid=10),
        record(2, (0.3,)),
        replace(record(3, (0.8,)), healthy=(False,)),
        record(4, (math.nan,)),
    ]
    assert best_iterations(history, Told(samples=1)) == [2]
    assert best_iterations(history[:2], Told(samples=1)) == [1]
    assert best_iterations([], Told(samples=2)) == [None, None]
    assert best_iterations(history, Told(samples=1, best={"iteration": [3]})) == [3]


def test_records_of_a_stranger_may_lack_samples_and_names() -> None:
    odd = [record(1, (0.5, 0.6)), record(0), replace(record(2, (0.5,)), rewards={"x": (1.0,)})]
    history = in_order(odd)
    assert [one.iteration for one in history] == [0, 1, 2]
    rows = {row.name: row for row in rows_of(history, Told(samples=2))}
    assert rows["bright"].by_record[1] == (0.5, 0.6)
    assert all(len(values) == 2 for values in rows["x"].by_record)
    assert all(math.isnan(value) for value in rows["bright"].by_record[2])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.74634, "0.7463"),
        (-1.13, "−1.13"),
        (1234567.0, "1,234,567"),
        (3e-9, "3e-09"),
        (math.nan, "–"),
        (None, "–"),
        (0.0, "0"),
    ],
)
def test_numbers_are_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown
