"""What a study costs besides its items: the driver's memory and seconds an item, on a local Ray.

    python docs/figures/cluster_cost.py [--items 10000] [--folders 100]

Stub items go through everything but the run: listed, looked for in their folders, sent to a worker
with their configuration, answered, told, counted. Then a few real ones of no model at all show what
a run folder costs to write.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from dno.core.function import FunctionSampler
from dno.runs.actor import Worker
from dno.runs.attempt import Attempt, End
from dno.runs.batch import Item, Told, items_of, table_of
from dno.runs.batch import carry_out as here
from dno.runs.cluster import Cluster
from dno.runs.lists import Row, rows_from
from dno.runs.run_config import RunConfig
from dno.runs.shorthands import assemble
from dno.runs.spread import carry_out_on_ray

WORKERS = 2


class Stub(Worker):
    """A worker that says of each item that it is done."""

    def attempt(self, config: RunConfig, path: str) -> Attempt:
        """Done."""
        return Attempt(End.DONE, "", {"brightness": (0.4, 0.6)}, 1.0)


def megabytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def study(count: int, **parts: object) -> list[Item]:
    """So many items."""

    def configure(row: Row, seed: int) -> RunConfig:
        return assemble({"prompts": row.prompt, **parts}, {"seed": seed, "iterations": 2}, [])

    return items_of(rows_from([f"animal {number}" for number in range(count)]), [0], configure)


def carry_out(items: Sequence[Item], folder: Path, worker: type) -> float:
    """Seconds that all of them take, from the first that ends to the last."""
    (folder / "items").mkdir(parents=True)
    (folder / "batch.toml").write_text("")
    ends: list[float] = []

    def tell(told: Told) -> None:
        assert not told.attempt.error, told.attempt.error
        ends.append(time.perf_counter())

    cluster = Cluster("local", cpus=1, workers=WORKERS)
    summary = carry_out_on_ray(
        items, folder, cluster=cluster, retries=0, tell=tell, say=print, worker=worker
    )
    assert summary.done == len(items)
    return ends[-1] - ends[0]


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--folders", type=int, default=100)
    given = parser.parse_args()
    before = megabytes()
    began = time.perf_counter()
    items = study(given.items, rewards=[{"use": "brightness"}])
    listed = time.perf_counter() - began
    print(f"{len(items)} items listed and checked in {listed:.1f} s, {megabytes() - before:.0f} MB")

    with tempfile.TemporaryDirectory() as place:
        used = time.process_time()
        seconds = carry_out(items, Path(place, "stubs"), Stub)
        used = time.process_time() - used
        each = 1000 / len(items)
        print(
            f"{len(items)} stub items on {WORKERS} workers: {seconds * each:.2f} ms an item, "
            f"{used * each:.2f} ms of it the driver's CPU; the driver has {megabytes():.0f} MB, "
            f"{before:.0f} MB before the list"
        )
        real = study(
            given.folders,
            sampler=FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
            rewards=[{"use": "brightness"}],
            observers=[],
        )
        folder = Path(place, "real")
        (folder / "items").mkdir(parents=True)
        # The first few fill caches.
        here(real[:10], folder, retries=0, tell=lambda told: None)
        used = time.process_time()
        here(real[10:], folder, retries=0, tell=lambda told: None)
        each = 1000 * (time.process_time() - used) / len(real[10:])
        used = time.process_time()
        table_of(real, folder)
        row = 1000 * (time.process_time() - used) / len(real)
        print(
            f"{len(real)} real items of no model: {each:.0f} ms of CPU each, from run.toml to "
            f"result.json; {row:.2f} ms each to read them into the table"
        )


if __name__ == "__main__":
    sys.exit(main())
