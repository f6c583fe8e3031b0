"""Which calls keep what they computed: sizes as people write them, and the least work that fits."""

from __future__ import annotations

import pytest
from dno_builtin.samplers._diffusers.choice import Call, Choice, at_levels, choose, uniform
from dno_builtin.samplers._diffusers.memory import Level, limit_of
from dno_builtin.samplers.ddim import DDIM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dno.core.costs import GIB, Cost, gib
from dno.protocols import Footprint


@pytest.mark.parametrize(
    ("given", "held", "limit"),
    [
        ("auto", "auto", None),
        ("keep", "keep", None),
        ("recompute", "recompute", None),
        ("20GiB", "20GiB", 20 * GIB),
        ("20 GB", "20 GB", 20 * 10**9),
        ("20", "20", 20 * GIB),
        (20, "20GiB", 20 * GIB),
        (0.5, "0.5GiB", GIB // 2),
        ("512MiB", "512MiB", GIB // 2),
        ("1.5 tb", "1.5 tb", 15 * 10**11),
    ],
)
def test_a_size_may_be_written_as_people_write_it(given, held, limit) -> None:
    memory = DDIM(memory=given).memory
    assert memory == held
    assert limit_of(memory) == limit
    # A saved run says the same again.
    assert DDIM(memory=memory).memory == held


@pytest.mark.parametrize(
    "given", ["lots", "0", 0, -1, "-2GiB", "GiB", "", True, None, "20 parsecs"]
)
def test_what_is_no_size_is_refused_with_what_would_be(given) -> None:
    with pytest.raises(ValidationError, match="should be auto, keep, recompute, or a size such as"):
        DDIM(memory=given)


COSTS: dict[Level, Cost] = {
    "keep": Cost(100, 110, 1, 1),
    "step": Cost(2, 112, 1, 2),
    "blocks": Cost(2, 30, 1, 3),
}
DECODER: dict[Level, Cost] = {"keep": Cost(300, 320, 5, 5), "step": Cost(20, 60, 5, 11)}


def calls(steps: int) -> list[Call]:
    networks = [Call(False, COSTS.__getitem__) for _ in range(steps)]
    return [*networks, Call(True, DECODER.__getitem__)]


@pytest.mark.parametrize(
    ("room", "words", "passes", "flop"),
    [
        (1320, "keep all of 10 network calls", 2.0, 30),
        (
            1319,
            "keep all of 10 network calls, and the decoder block by block",
            2.0,
            36,
        ),
        (
            600,
            "keep the last 5 of 10 network calls, recompute the others, and the decoder block by "
            "block",
            2.5,
            41,
        ),
        (
            130,
            "recompute all of 10 network calls, and the decoder block by block",
            3.0,
            46,
        ),
        (
            100,
            "recompute block by block all of 10 network calls, and the decoder block by block",
            4.0,
            56,
        ),
    ],
)
def test_the_least_work_that_fits_is_chosen(room, words, passes, flop) -> None:
    choice = choose(calls(10), room, passing=0)
    assert choice.words() == words
    assert choice.passes == passes
    assert choice.flop == flop
    assert choice.peak <= room


def test_where_nothing_fits_the_least_is_chosen() -> None:
    choice = choose(calls(10), 1, passing=0)
    assert choice.levels == (*["blocks"] * 10, "step")
    # The decoder's turn comes while the arguments of all steps wait.
    assert choice.peak == 10 * 2 + 60


def test_rewards_come_on_top_of_what_is_kept_alone() -> None:
    levels = uniform(calls(2), "step", "step")
    assert at_levels(calls(2), levels, passing=0).peak == 2 + 112
    assert at_levels(calls(2), levels, passing=1000).peak == 2 * 2 + 20 + 1000


def followed(choice: Choice, steps: int, passing: int) -> int:
    """The peak by going through an evaluation, instead of by a formula."""
    costs = [call.cost(level) for call, level in zip(calls(steps), choice.levels, strict=True)]
    now = most = 0
    for cost in costs:
        most = max(most, now + cost.peak)
        now += cost.kept
    most = max(most, now + passing)
    for cost in reversed(costs):
        now -= cost.kept
        most = max(most, now + cost.peak)
    assert now == 0
    return most


@given(room=st.integers(0, 4000), steps=st.integers(1, 30), passing=st.integers(0, 500))
def test_more_room_is_never_more_work_and_the_peak_is_what_happens(room, steps, passing) -> None:
    choice = choose(calls(steps), room, passing)
    assert choice.peak == followed(choice, steps, passing)
    larger = choose(calls(steps), room + 50, passing)
    if choice.peak <= room:
        assert larger.flop <= choice.flop


def test_sizes_are_told_in_units_that_people_read() -> None:
    assert gib(20 * GIB) == "20.0 GiB"
    assert gib(5 * 2**20) == "5 MiB"
    assert Footprint("", {}, {}, peak=10, passes=2, room=7).missing == 3
    assert Footprint("", {}, {}, peak=10, passes=2).missing == 0
