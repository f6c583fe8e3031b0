"""How many items run side by side where that is left to the planner: its rules, no model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError
from dno.runs.batch_size import (
    GAINS,
    MOST,
    RECORD,
    BatchSize,
    _greatest,
    _read,
    _write,
    gain,
)
from dno.runs.shorthands import assemble
from dno.runs.spellings import parse_size


def bright(images, prompts):
    return images.mean(dim=(1, 2, 3))


def test_gains_are_those_measured_and_rise_between_them():
    assert [gain(2**octave) for octave in range(len(GAINS))] == list(GAINS)
    rising = [gain(count) for count in range(1, MOST + 1)]
    assert rising == sorted(set(rising))
    # Each further one gains less, and never makes the others slower.
    assert all(gain(count) / count > gain(count + 1) / (count + 1) for count in range(1, MOST))


@given(least_that_does_not=st.integers(2, 40), most=st.integers(1, 33))
def test_the_greatest_that_fits_is_found_in_few_trials(least_that_does_not, most):
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count < least_that_does_not

    assert _greatest(fits, most) == min(most, least_that_does_not - 1)
    assert len(tried) <= 1 + most.bit_length()
    assert tried[:1] == ([most] if most > 1 else [])
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", 0, 2.0, True, None, ""])
def test_what_is_no_number_of_items_is_told(given):
    with pytest.raises(ConfigError, match="--batch: must be auto, or a whole number of at least 1"):
        parse_size(given, "--batch")


def test_numbers_and_the_word_are_taken():
    assert [parse_size(given, "size") for given in ("auto", "3", 3)] == ["auto", 3, 3]


def test_a_run_draws_as_many_samples_as_it_is_told_to():
    values = {"prompts": "x", "rewards": "brightness"}
    assert assemble(values, {"batch": "3"}, command_line=True).seeds == (0, 1, 2)
    with pytest.raises(ConfigError, match=r"^--batch: is how many samples.*dno batch FILE"):
        assemble(values, {"batch": "auto"}, command_line=True)
    with pytest.raises(ConfigError, match=r"^batch: is how many samples"):
        dno.optimize("x", reward="brightness", batch="auto")


def test_a_record_is_read_as_it_was_written(tmp_path):
    decided = {"a": BatchSize(8, 3 * 2**30, 12 * 2**30), "b": BatchSize(1)}
    assert _read(tmp_path / RECORD) == {}
    _write(tmp_path / RECORD, decided)
    assert _read(tmp_path / RECORD) == decided


@pytest.mark.parametrize(
    "text",
    ["[a]\nitems = 0", "[a]\nitems = true", "[a]\nitems = '8'", "[a]\nother = 1", "a = 1", "["],
)
def test_a_broken_record_is_told_with_what_to_do(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ConfigError, match="side_by_side.toml: does not tell .* remove it"):
        _read(tmp_path / RECORD)


def test_what_nobody_can_plan_is_told_before_anything_runs(tmp_path):
    # Named by nobody, a function says nothing of its memory.
    with pytest.raises(
        ConfigError, match="how many samples fit side by side cannot be told .*number"
    ):
        dno.batch(
            ["a cat", "a dog"],
            out=tmp_path / "study",
            reward=bright,
            sampler=FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
            iterations=1,
            size="auto",
        )
    assert not (tmp_path / "study" / RECORD).exists()
    assert not list((tmp_path / "study" / "items").iterdir())


def test_workers_of_a_cluster_take_items_one_by_one(tmp_path):
    with pytest.raises(ConfigError, match="beside a Ray cluster"):
        dno.batch(["a cat"], out=tmp_path / "study", reward="brightness", size="auto", ray="local")


def test_memory_that_nobody_can_tell_is_said():
    assert "is not known here; give a number" in BatchSize(1).sentence()
    assert (
        BatchSize(8, 31 * 2**27, 45 * 2**28).sentence()
        == "8 items side by side: 3.9 GiB of 11.2 GiB"
    )


def test_a_folder_is_no_record(tmp_path: Path):
    (tmp_path / RECORD).mkdir()
    with pytest.raises(ConfigError, match="remove it"):
        _read(tmp_path / RECORD)
