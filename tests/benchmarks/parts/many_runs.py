"""Memory and open files of one process over hundreds of runs.

python tests/benchmarks/parts/many_runs.py [--items 500] [--model tiny|none] [--json]

The suite runs it in a process of its own, which nothing else has made larger.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import dno

if TYPE_CHECKING:
    from measuring import Figure, Size

LOOKS = 10
"""At one process."""


@dataclass(frozen=True)
class Look:
    """A process between two runs."""

    items: int
    megabytes: float
    """Resident."""
    files: int
    """Open."""
    threads: int
    objects: int
    """That Python's collector follows."""


def look(items: int) -> Look:
    """This process, as Linux sees it."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(
        items,
        pages * resource.getpagesize() / 1e6,
        len([*Path("/proc/self/fd").iterdir()]),
        threading.active_count(),
        len(gc.get_objects()),
    )


def many(folder: Path, items: int, every: int, say: Callable[[Look], None], **parts: Any) -> None:
    """So many short runs of a study in this process, looked at every so many."""
    seen = 0

    def ended(event: object) -> None:
        nonlocal seen
        seen += 1
        if seen % every == 0:
            say(look(seen))

    dno.batch(
        [f"animal {number}" for number in range(items)],
        out=folder,
        reward="brightness",
        iterations=0,
        observer=ended,
        **parts,
    )


def measure(size: Size) -> Iterator[Figure]:
    """What the second half of the runs added to the process."""
    from measuring import middle

    script = [sys.executable, __file__, "--items", str(size.runs), "--json"]
    told = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout
    looks = [json.loads(line) for line in told.splitlines()]
    half = len(looks) // 2
    before = looks[half - 1]
    since = f"after run {before['items']} of {size.runs}"
    for name, text, unit in (
        ("megabytes", "memory that came", "MB"),
        ("files", "open files that came", "files"),
        ("threads", "threads that came", "threads"),
    ):
        came = [look[name] - before[name] for look in looks[half:]]
        yield middle(f"many_runs.{name}", f"{text} {since}", came, unit)


def main() -> None:
    """Print a row every so many runs."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--model", choices=["none", "tiny"], default="none")
    parser.add_argument("--json", action="store_true", help="a line of JSON a row")
    given = parser.parse_args()
    parts: dict[str, Any] = {"sampler": dno.FunctionSampler(torch.sigmoid, [(3, 8, 8)])}
    if not given.json:
        print(f"{'runs':>5} {'MB':>8} {'files':>6} {'threads':>8} {'objects':>9}")

    def say(now: Look) -> None:
        if given.json:
            print(json.dumps(asdict(now)), flush=True)
            return
        print(
            f"{now.items:5} {now.megabytes:8.1f} {now.files:6} {now.threads:8} {now.objects:9}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as place:
        if given.model == "tiny":
            from dno.testing.models import tiny_stable_diffusion

            tiny_stable_diffusion("sd1").save_pretrained(Path(place, "model"))
            parts = {"model": str(Path(place, "model")), "steps": 2}
        many(Path(place, "study"), given.items, given.items // LOOKS, say, **parts)


if __name__ == "__main__":
    main()
