"""How far ways of running get in how many seconds."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import dno
from dno.core.result import StepRecord
from dno.errors import ConfigError, RunFolderError
from dno.report.pairs_page import pairs_page
from dno.report.tables import pace_notes, pace_table, paired_csv
from dno.runs.ended import EndedItem, ended
from dno.runs.pace import Pace, check_goals, course, look_seconds, resampled
from dno.runs.saved import SavedRun
from dno.testing.toy import ToySampler

NAN = math.nan


def record(
    number: int,
    seconds: float,
    rewards: Sequence[float],
    *,
    grid: int | None = None,
    healthy: Sequence[bool] | None = None,
    others: Sequence[float] | None = None,
) -> StepRecord:
    """One of a run that climbs `bright`, and `red` where others are given."""
    size = len(rewards)
    by_name = {"bright": tuple(rewards)}
    total = tuple(rewards)
    if others is not None:
        by_name["red"] = tuple(others)
        total = tuple(a + b for a, b in zip(rewards, others, strict=True))
    return StepRecord(
        iteration=number,
        grid=grid,
        reward=total,
        objective=total,
        rewards=by_name,
        monitors={},
        penalties={},
        log_p={},
        gamma=None,
        figures={},
        healthy=tuple(healthy or [True] * size),
        best=total,
        grad_norm=(NAN,) * size,
        seconds=seconds,
    )


def item(
    folder: Path,
    records: Sequence[StepRecord],
    prompt: str = "a cat",
    sample: int = 0,
    reason: str = "",
) -> EndedItem:
    """A sample of a run with these records, which stopped early where there is a reason."""
    folder.mkdir(parents=True, exist_ok=True)
    size = len(records[0].reward)
    (folder / "run.toml").write_text(f'prompts = ["{prompt}"]\nseeds = {[*range(size)]}\n')
    (folder / "history.jsonl").write_bytes(b"".join(r.to_json() + b"\n" for r in records))
    told = dict.fromkeys(["failures", "climbed", "initial", "best", "last", "peak_memory"])
    status = "stopped" if reason else "finished"
    (folder / "result.json").write_text(json.dumps(told | {"status": status, "reason": reason}))
    return EndedItem(
        prompt=prompt,
        seed=sample,
        run=SavedRun(folder),
        sample=sample,
        settings={},
        climbed=["bright"],
        initial={},
        best={},
        log_p=NAN,
        tests=0,
        unlikely=0,
        unlikely_before=0,
        cost={},
    )


def test_a_record_costs_what_was_before_it_and_a_last_look(tmp_path: Path) -> None:
    records = [record(i, s, [r]) for i, (s, r) in enumerate([(3, 0.1), (6, 0.4), (7, 0.3)])]
    found = course(item(tmp_path, records), "bright")
    assert np.array(found) == pytest.approx(np.array([(1, 0), (4, 0.3), (7, 0.3)]))


def test_what_is_not_healthy_is_no_gain(tmp_path: Path) -> None:
    records = [
        record(0, 1, [0.1, 0.1]),
        record(1, 2, [0.9, 0.5], healthy=[False, True]),
        record(2, 3, [NAN, 0.6]),
    ]
    found = [
        [gain for _, gain in course(item(tmp_path, records, sample=sample), "bright")]
        for sample in (0, 1)
    ]
    assert found[0] == [0, 0, 0]
    assert found[1] == pytest.approx([0, 0.4, 0.5])


def test_samples_of_one_run_share_its_seconds(tmp_path: Path) -> None:
    records = [record(0, 2, [0.1, 0.1]), record(1, 4, [0.2, 0.3])]
    assert course(item(tmp_path, records, sample=1), "bright")[-1] == pytest.approx((2, 0.2))


def test_a_climb_from_a_coarser_grid_has_a_start_and_an_end(tmp_path: Path) -> None:
    records = [
        record(0, 1, [0.1]),
        record(1, 2, [0.9], grid=10),
        record(2, 3, [0.3]),
        record(3, 4, [0.6]),
    ]
    assert np.array(course(item(tmp_path, records), "bright")) == pytest.approx(
        np.array([(1, 0), (4, 0.5)])
    )


def test_of_several_rewards_the_gain_is_that_of_the_best_sample(tmp_path: Path) -> None:
    records = [
        record(0, 1, [0.1], others=[0.0]),
        record(1, 2, [0.6], others=[-0.8]),
        record(2, 3, [0.2], others=[0.4]),
    ]
    gains = [gain for _, gain in course(item(tmp_path, records), "bright")]
    assert gains == pytest.approx([0, 0, 0.1])


def test_a_run_without_that_reward_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"history\.jsonl does not tell the pace of red"):
        course(item(tmp_path, [record(0, 1, [0.1])]), "red")


def test_who_ended_early_stays_where_it_ended(tmp_path: Path) -> None:
    short = item(tmp_path / "a", [record(0, 1, [0.0]), record(1, 2, [0.4])])
    steady = [record(0, 1, [0.0]), record(1, 3, [0.1]), record(2, 4, [0.2])]
    other = item(tmp_path / "b", steady, prompt="a dog")
    pace = Pace.of([short, other], "bright")
    assert pace.seconds == pytest.approx([1, 2, 3])
    assert pace.gains["a cat"] == pytest.approx([0, 0.4, 0.4])
    assert pace.mean == pytest.approx([0, 0.25, 0.3])


def test_seeds_of_a_prompt_are_averaged(tmp_path: Path) -> None:
    records = [record(0, 1, [0.0, 0.0]), record(1, 2, [0.2, 0.6])]
    pace = Pace.of([item(tmp_path, records, sample=sample) for sample in (0, 1)], "bright")
    assert pace.gains == {"a cat": pytest.approx([0, 0.4])}


SLOW = Pace([1.0, 2.0, 4.0], {"a": [0.0, 0.1, 0.3], "b": [0.0, 0.3, 0.5]})
FAST = Pace([1.0, 2.0], {"a": [0.0, 0.4], "b": [0.0, 0.6]})


def test_seconds_to_a_gain_are_read_off_the_mean_curve() -> None:
    assert SLOW.seconds_to(0.1).value == pytest.approx(1.5)
    assert SLOW.seconds_to(0.3).value == pytest.approx(3.0)
    assert SLOW.seconds_to(0.41).value == math.inf
    # With prompt a alone 0.3 takes 4 s, with b alone 2 s.
    assert (SLOW.seconds_to(0.3).low, SLOW.seconds_to(0.3).high) == pytest.approx((2, 4))
    assert str(SLOW.seconds_to(0.41)) == "never"
    assert str(SLOW.seconds_to(0.35)) == "3.5 (2.5–never)"


def test_one_prompt_alone_has_no_interval() -> None:
    assert str(Pace([1.0, 2.0], {"a": [0.0, 1.0]}).seconds_to(0.5)) == "1.5"


def test_ways_are_compared_at_the_seconds_of_the_one_that_ended_first() -> None:
    less, seconds = FAST.less(SLOW)
    assert (less.mean, seconds) == (pytest.approx(0.3), 2.0)
    less, seconds = SLOW.less(FAST)
    assert (less.mean, seconds) == (pytest.approx(-0.3), 2.0)
    assert FAST.times_faster(SLOW).value == pytest.approx(4 / 1.8)
    assert SLOW.times_faster(FAST).value == 0
    assert SLOW.seconds_to_end_of(SLOW).value == pytest.approx(4)


def test_the_bootstrap_is_over_prompts() -> None:
    values_P = np.arange(20.0)
    found = resampled(20, lambda prompts: float(values_P[prompts].mean()))
    # Of a mean of 20 values with standard deviation 5.77: about 1.96 x 1.29 to each side.
    told = (found.value, found.low, found.high)
    assert told == pytest.approx((9.5, 9.5 - 2.53, 9.5 + 2.53), abs=0.25)


@pytest.mark.parametrize("goal", [0.0, -0.1, math.nan, math.inf])
def test_a_goal_that_is_no_gain_is_refused(goal: float) -> None:
    with pytest.raises(ConfigError, match="--to: should be a gain above 0"):
        check_goals([0.1, goal])


def test_the_table_names_goals_and_the_way_that_others_are_compared_with() -> None:
    table = pace_table({"slow": SLOW, "fast": FAST}, [0.1])
    assert table.titles == ["", "s to +0.1", "at equal seconds, less slow"]
    assert table.rows[0][2] == ""
    assert table.rows[1][2].endswith("(at 2 s)")


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def study(folder: Path, **options: Any) -> Path:
    """Three prompts, each a run of its own."""
    dno.batch(
        ["a cat", "a dog", "a cow"],
        out=folder,
        **{
            "sampler": ToySampler(),
            "reward": bright,
            "optimizer": "adam",
            "regularizer": None,
            "lr": 0.02,
            "iterations": 3,
            "observer": [],
            **options,
        },
    )
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("paces") / "finished")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it by a target that no plain sample has reached."""
    folder = tmp_path_factory.mktemp("paces") / "stopped"
    study(folder, iterations=20, target=0.508)
    assert {run.status for run in dno.list_runs(folder / "items")} == {"stopped"}
    return folder


def test_only_a_run_to_its_end_tells_what_a_look_takes(finished: Path, stopped: Path) -> None:
    for one in ended(finished).items:
        *_, before, last = one.run.history
        assert look_seconds(one) == last.seconds - before.seconds
    for one in ended(stopped).items:
        assert look_seconds(one) is None


def test_stopped_runs_take_a_look_from_those_of_their_way_that_ended(
    finished: Path, stopped: Path
) -> None:
    whole = ended(finished).items
    mixed = Pace.of([*ended(stopped).items, whole[0]], "bright")
    assert not mixed.whole
    assert mixed.seconds[0] == pytest.approx(look_seconds(whole[0]))
    assert not pace_notes({"mixed": mixed})


def test_where_no_run_tells_what_a_look_takes_that_is_said(finished: Path, stopped: Path) -> None:
    paired = dno.compare_runs(finished, stopped)
    paces = paired.paces()
    items = ended(stopped).items
    assert paces["stopped"].end == pytest.approx(np.mean([one.cost["seconds"] for one in items]))
    firsts = [one.run.history[0].seconds for one in items]
    assert paces["stopped"].seconds[0] == pytest.approx(np.mean(firsts))
    (note,) = pace_notes(paces)
    assert note.startswith("stopped: none of its runs ended with a look without a gradient")
    assert "none of its runs ended with a look" in pairs_page(paired, [0.01])
    assert not pace_notes({"finished": paces["finished"]})


def test_a_stopped_run_that_had_to_hand_over_tells_what_a_look_takes(tmp_path: Path) -> None:
    out = tmp_path / "handed"
    study(out, iterations=500, seconds=0.05, constraint={"use": "shell", "every": 0})
    for one in ended(out).items:
        assert one.run.status == "stopped"
        *_, before, last = one.run.history
        look = last.seconds - before.seconds
        assert look_seconds(one) == look
        assert course(one, "bright")[0] == (look, 0)


@pytest.mark.parametrize(
    ("calls", "norms", "is_look"),
    [
        ([1, 2, 3], [1.0, 1.0, NAN], True),
        ([1, 2, 3], [1.0, 1.0, 1.0], False),
        # A climb by proposals, four an iteration.
        ([5, 10, 15], [NAN, NAN, NAN], False),
        ([5, 10, 11], [NAN, NAN, NAN], True),
        # By gradient first, then by proposals.
        ([1, 2, 7], [1.0, 1.0, NAN], False),
        ([1], [NAN], False),
    ],
)
def test_whether_a_stopped_run_ended_with_a_look(
    tmp_path: Path, calls: Sequence[int], norms: Sequence[float], is_look: bool
) -> None:
    records = [
        replace(record(i, i + 1.0, [0.1]), reward_calls=asked, grad_norm=(norm,))
        for i, (asked, norm) in enumerate(zip(calls, norms, strict=True))
    ]
    found = look_seconds(item(tmp_path, records, reason="the rewards reached 0.1"))
    assert (found is not None) is is_look


def test_a_last_iteration_that_moved_other_samples_is_no_look(tmp_path: Path) -> None:
    records = [record(0, 1, [0.1]), replace(record(1, 3, [0.2]), grad_norm=(0.0,))]
    assert look_seconds(item(tmp_path, records)) is None


def test_pairs_without_a_history_are_left_out_and_counted(finished: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    cat, cow, dog = sorted((other / "items").glob("*/history.jsonl"))
    cat.unlink()
    found = dno.compare_runs(finished, other)
    assert found.pace_sentence() == "gain of bright; 1 of 3 pairs left out: no history in other"
    assert set(found.paces()["finished"].gains) == {"a dog", "a cow"}
    page = pairs_page(found, [0.01])
    assert "1 of 3 pairs left out: no history in other" in page

    cow.write_text("{\n{\n")
    found = dno.compare_runs(finished, other)
    told = "2 of 3 pairs left out: 1 no history in other, 1 damaged history in other"
    assert found.pace_sentence() == f"gain of bright; {told}"

    dog.unlink()
    with pytest.raises(RunFolderError, match=r"2 no history.*copy each run's history\.jsonl"):
        dno.compare_runs(finished, other).paces()


def test_the_csv_has_what_the_table_tells(finished: Path, tmp_path: Path) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    found = dno.compare_runs(finished, other)
    paces = found.paces()
    assert b"pace" not in paired_csv(found)
    rows = list(csv.DictReader(io.StringIO(paired_csv(found, paces, [0.01, 9.0]).decode())))
    told = {(row["measure"], row["way"]): row for row in rows if row["kind"] == "pace"}
    assert len(told) == 5
    reached = told["seconds to +0.01 of bright", "other"]
    spread = paces["other"].seconds_to(0.01)
    numbers = [float(reached[name]) for name in ("mean", "mean_low", "mean_high")]
    assert numbers == [spread.value, spread.low, spread.high]
    assert told["seconds to +9 of bright", "other"]["mean"] == "inf"
    equal = told["bright, gain at equal seconds", "other"]
    assert float(equal["less_first"]) == 0
    assert float(equal["at_seconds"]) == pytest.approx(paces["other"].end)
    assert {len(row) for row in rows} == {14}
