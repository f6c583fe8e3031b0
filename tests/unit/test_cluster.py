"""What is asked of a Ray cluster, and what each worker gets of it: no Ray runs here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest

from dno.errors import ConfigError, RunError
from dno.runs.cluster import Cluster, Share


@dataclass(frozen=True)
class Case:
    """A cluster, what is asked of it, and what comes out."""

    nodes: list[dict[str, float]]
    asked: Cluster
    share: Share
    places: int
    device: str = "auto"
    threads: int = 4


CASES = {
    "one machine, all its cores": Case([{"CPU": 4}], Cluster(), Share(0, 4, 4), 1),
    "a worker a core": Case([{"CPU": 4}], Cluster(cpus=1), Share(0, 1, 1), 4),
    "this process's threads": Case([{"CPU": 8}], Cluster(), Share(0, 1, 1), 8, threads=1),
    "more threads than cores": Case([{"CPU": 2}], Cluster(), Share(0, 2, 4), 1),
    "a GPU each": Case([{"CPU": 16, "GPU": 4}, {"CPU": 8}], Cluster(), Share(1, 6, 6), 2),
    "half a GPU": Case([{"CPU": 16, "GPU": 4}], Cluster(gpus=0.5), Share(0.5, 2, 2), 8),
    "two of three do not share a GPU": Case(
        [{"CPU": 16, "GPU": 2}], Cluster(gpus=0.4, cpus=1), Share(0.4, 1, 1), 4
    ),
    "a tenth": Case([{"CPU": 16, "GPU": 1}], Cluster(gpus=0.1, cpus=1), Share(0.1, 1, 1), 10),
    "two GPUs": Case([{"CPU": 9, "GPU": 3}], Cluster(gpus=2), Share(2, 9, 9), 1),
    "runs on CPUs beside GPUs": Case(
        [{"CPU": 16, "GPU": 4}], Cluster(), Share(0, 4, 4), 4, device="cpu"
    ),
    "machines apart": Case([{"CPU": 3}, {"CPU": 5}], Cluster(cpus=2), Share(0, 2, 2), 3),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_worker_gets_its_share(case: Case) -> None:
    share = Share.of(case.asked, case.nodes, device=case.device, threads=case.threads)
    assert share == case.share
    assert share.places(case.nodes) == case.places


def test_workers_that_fit_nowhere_are_told_unless_they_are_waited_for() -> None:
    nodes = [{"CPU": 2.0}]
    with pytest.raises(RunError, match="8 CPUs and 0 GPUs .*--ray-cpus"):
        Share.of(Cluster(cpus=8), nodes, device="cpu", threads=1)
    assert Share.of(Cluster(cpus=8, workers=3), nodes, device="cpu", threads=1).cpus == 8


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a client": ({"address": "ray://head:10001"}, "--ray: .*ray job submit"),
    "a part of more than one": ({"address": "local", "gpus": 1.5}, "--ray-gpus: .*got 1.5"),
    "no number": ({"address": "local", "gpus": float("nan")}, "--ray-gpus: "),
    "no core": ({"address": "local", "cpus": 0}, "--ray-cpus: must be at least 1"),
    "no worker": ({"address": "local", "workers": 0}, "--ray-workers: must be at least 1"),
    "no cluster": ({"address": None, "gpus": 0.5}, "--ray-gpus: means nothing without --ray"),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_asked_for_is_told(case: tuple[dict[str, Any], str]) -> None:
    asked, told = case
    with pytest.raises(ConfigError, match=told):
        Cluster.asked_for(**asked)


def test_without_ray_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name == "ray" else there(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(ConfigError, match=r'--ray: needs Ray; try: pip install "dno\[ray\]"'):
        Cluster.asked_for("local")
    assert Cluster.asked_for(None) is None
