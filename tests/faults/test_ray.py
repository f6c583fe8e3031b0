"""Studies on a real Ray: what is killed goes on elsewhere, and nothing of ours is left behind.

The functions that make a cluster and kill parts of it are those of `ray_campaign.py`, which does
more of it alone.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from ray_campaign import COMPARED, campaign, start
from ray_study import study_of

pytestmark = pytest.mark.slow


def test_whatever_is_killed_each_item_ends_once_with_the_bits_of_a_plain_run(
    tmp_path: Path,
) -> None:
    found = campaign(tmp_path, 3, ["actor", "driver"])
    assert found.different == []
    assert sorted(found.ended.values()) == [1] * 3
    assert found.kills.total() == 2
    assert found.drivers == 2


def test_an_interrupted_study_is_resumable_and_leaves_no_process(tmp_path: Path) -> None:
    driver = start(tmp_path / "ray", 3, "local")
    deadline = time.monotonic() + 120
    while not [*tmp_path.rglob("state.safetensors")]:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ours = psutil.Process(driver.pid).children(recursive=True)
    assert any(process.name().startswith("ray::") for process in ours)

    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    _, left = psutil.wait_procs(ours, timeout=20)
    assert left == []

    # Without Ray, the same study goes on where the worker was.
    assert start(tmp_path / "ray", 3).wait(timeout=120) == 0
    assert not study_of(tmp_path / "plain", 3).failed
    first = (tmp_path / "ray" / "ended").read_text().splitlines()
    assert len(first) == 3
    assert any(int(line.split(",")[2]) > 0 for line in first)
    for item in (tmp_path / "plain" / "items").iterdir():
        for name in COMPARED:
            other = tmp_path / "ray" / "items" / item.name / name
            assert other.read_bytes() == (item / name).read_bytes(), other
