"""The whole suite, tiny."""

from __future__ import annotations

import json

import pytest
import suite
from parts import USUAL

pytestmark = pytest.mark.slow


def test_a_tiny_suite_measures_every_part(tmp_path, capsys):
    out = tmp_path / "tiny.json"
    suite.main(["--size", "tiny", "--out", str(out)])
    found = {figure["name"]: figure for figure in json.loads(out.read_text())["figures"]}
    assert {name.partition(".")[0] for name in found} == set(USUAL)
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in found.values())

    def value(name: str) -> float:
        return float(found[name]["value"])

    # What holds on any machine, however busy.
    assert value("memory.recompute.4") < 0.1 * value("memory.keep.4")
    assert value("memory.keep.4") > 1.1 * value("memory.keep.2")
    assert value("iteration.recompute") > value("iteration.plain")
    assert value("regularizer.agrees") == 1
    assert value("regularizer.gathers") > 1
    assert 0 < value("engine.share") < 100
    assert value("many_runs.files") <= 0
    assert value("many_runs.threads") <= 0
    assert value("startup.help") < value("startup.torch") < value("startup.first")
    assert value("rivals.paper.seconds") > 0
    assert "### Start-up, CPU seconds" in capsys.readouterr().out
