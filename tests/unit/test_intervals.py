"""Student's intervals, against published quantiles and by counting how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dno.runs.intervals import interval, over_prompts, t_quantile

# Fisher and Yates, Statistical Tables, table III.
QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365, 10: 2.228, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("freedom", "expected"), QUANTILES.items())
def test_quantiles_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_it_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    found = [interval(list(row)) for row in draws]
    share = np.mean([abs(one.mean - 3.0) < one.half for one in found])
    assert share == pytest.approx(0.95, abs=0.015)


def test_seeds_of_one_prompt_count_once() -> None:
    values = {("a", seed): 1.0 for seed in range(8)} | {("b", 0): 3.0}
    assert over_prompts(values) == interval([1.0, 3.0])


def test_of_one_prompt_it_is_over_the_seeds() -> None:
    assert over_prompts({("a", 0): 1.0, ("a", 1): 3.0}) == interval([1.0, 3.0])


def test_what_is_not_finite_is_left_out() -> None:
    values = {("a", 0): 1.0, ("b", 0): math.nan, ("c", 0): 3.0, ("d", 0): math.inf}
    assert over_prompts(values) == interval([1.0, 3.0])


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert math.isnan(interval([1.0]).half)
    assert str(interval([1.0])) == "+1"
    assert math.isnan(interval([]).mean)
