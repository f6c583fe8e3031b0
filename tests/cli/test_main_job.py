"""The main job on the embedded model, as the README has it but shorter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dno.cli import main as cli

pytestmark = pytest.mark.slow


def mean_pixel(path: Path) -> float:
    return float(np.asarray(Image.open(path)).mean() / 255)


def test_the_best_picture_is_brighter_stays_likely_and_can_be_made_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def dno(*args: str) -> None:
        monkeypatch.setattr(sys, "argv", ["dno", "optimize", *args, "--quiet"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code

    dno(
        "a black cat",
        "--reward",
        "brightness",
        "--reward",
        "clip=0",
        "--iterations",
        "15",
        "--out",
        "cat",
    )
    assert (
        mean_pixel(tmp_path / "cat" / "best.png")
        > mean_pixel(tmp_path / "cat" / "initial.png") + 0.02
    )
    last = json.loads((tmp_path / "cat" / "history.jsonl").read_text().splitlines()[-1])
    assert last["log_p"]["permutation"][0] > -2.5
    assert last["rewards"].keys() == {"brightness", "clip"}
    dno("--config", "cat/run.toml", "--out", "again")
    for name in ("initial.png", "best.png", "last.png", "noise.safetensors"):
        assert (tmp_path / "cat" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
