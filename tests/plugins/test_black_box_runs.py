"""Whole runs of rewards without a gradient on the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dno

pytestmark = pytest.mark.slow

SMALL = {"steps": 4, "seed": 3, "device": "cpu"}


@pytest.mark.parametrize("optimizer", ["surrogate", "trust-region"])
def test_a_resumed_run_ends_at_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    parts = {"reward": "jpeg", "optimizer": {"use": optimizer, "warm_up": 2}}
    through = dno.optimize("a green fox", **parts, iterations=5, **SMALL)
    dno.optimize("a green fox", **parts, iterations=3, out=tmp_path / "run", **SMALL)
    resumed = dno.resume(tmp_path / "run", iterations=5)

    assert torch.equal(resumed.best.noise_BN, through.best.noise_BN)
    assert torch.equal(resumed.last.noise_BN, through.last.noise_BN)
    assert resumed.meter()["reward_calls"] == through.meter()["reward_calls"]


def test_jpeg_rises_by_default_and_the_noise_stays_healthy() -> None:
    result = dno.optimize("a green fox", reward="jpeg", iterations=15, **SMALL)
    assert result.meter()["reward_calls"] == 16
    assert result.best.score_B > result.initial.score_B + 0.05
    assert (result.best.log_p["permutation"] > -4.6).all()


def test_a_climb_on_a_coarse_grid_is_handed_over() -> None:
    parts = {"reward": "jpeg", "optimizer": {"use": "surrogate", "warm_up": 2}}
    result = dno.optimize("a green fox", **parts, iterations=6, coarse=2, **SMALL)
    assert result.status is dno.Status.FINISHED
    assert {record.grid for record in result.history} == {None, 2}
    assert result.history[-1].grid is None
    assert result.best.score_B > result.initial.score_B
