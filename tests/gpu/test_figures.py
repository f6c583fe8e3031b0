"""The script for a GPU: tiny on a CPU here, and whole where there is a GPU."""

from __future__ import annotations

import json
import shutil

import figures
import pytest
import torch
from shapes import FULL, save_configurations, tiny_sd15

pytestmark = pytest.mark.slow


def test_a_tiny_form_runs_on_a_cpu(tmp_path):
    out = tmp_path / "figures.json"
    arguments = ["--device", "cpu", "--tiny", "--steps", "4", "--rounds", "1", "--out", str(out)]
    assert figures.main(arguments) == 0
    found = json.loads(out.read_text())
    # Without a compiler one option cannot be measured.
    expected = [] if shutil.which("g++") else ["sd15.compile", "sdxl.compile"]
    assert [line.partition(":")[0] for line in found["left_out"]] == expected
    for model in ("sd15", "sdxl"):
        for policy in figures.POLICIES:
            assert found["figures"][f"{model}.{policy}.seconds"] > 0
            assert found["figures"][f"{model}.{policy}.peak"] > 0
            assert found["checks"][f"{model}.{policy}.repeats_to_the_bit"]
        assert found["checks"][f"{model}.policies_agree_to_the_bit"]
        assert found["figures"][f"{model}.bfloat16.cosine"] > figures.CLOSE
        for option in set(figures.SPEED) - ({"compile"} if expected else set()):
            assert found["figures"][f"{model}.{option}.time"] > 0
            assert found["checks"][f"{model}.{option}.is_near"]
        assert found["figures"][f"{model}.parking.told"] > 0
        assert found["checks"][f"{model}.parking.same_bits"]


def test_what_fails_is_told(monkeypatch, capsys):
    monkeypatch.setattr(figures, "CLOSE", 2.0)
    # One model and the cheapest option show it as well as all of them.
    monkeypatch.setattr(figures, "TINY", {"sd15": figures.TINY["sd15"]})
    monkeypatch.setattr(figures, "SPEED", {"tf32": figures.SPEED["tf32"]})
    arguments = ["--device", "cpu", "--tiny", "--steps", "2", "--rounds", "1"]
    assert figures.main(arguments) == 1
    assert "sd15.bfloat16.is_near: DOES NOT HOLD" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_told(capsys):
    assert figures.main(["--device", "cpu", "--tiny", "--minutes", "-1"]) == 0
    assert "sdxl: left out, the time is over" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "millions"), [("sd15", 859.5), ("sdxl", 2567.5)])
def test_networks_are_as_large_as_the_published_ones(name, millions):
    with torch.device("meta"):
        pipe = FULL[name]()
    count = sum(parameter.numel() for parameter in pipe.unet.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
    decoder = sum(parameter.numel() for parameter in pipe.vae.decoder.parameters())
    assert decoder / 1e6 == pytest.approx(49.5, abs=0.1)


def test_configurations_are_saved_without_weights(tmp_path):
    save_configurations(tiny_sd15(), tmp_path)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"model_index.json", "config.json", "scheduler_config.json"} <= names
    assert not any(name.endswith((".safetensors", ".bin")) for name in names)


@pytest.mark.gpu
def test_full_size_figures_on_a_gpu():
    assert figures.main(["--rounds", "1"]) == 0
