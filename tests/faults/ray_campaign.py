"""Kills actors, drivers and machines of a study on Ray, and looks at what is left in the end.

    python tests/faults/ray_campaign.py [--items 24] [--kills 20] [--seed 0]

The cluster is a real one of two machines' worth of processes here; only what this script started is
killed. At the end every item must be done, have ended once, and have the bits of a plain run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
from ray_study import study_of

STUDY = Path(__file__).with_name("ray_study.py")
COMPARED = ("noise.safetensors", "best.png", "initial.png", "last.png", "curve.png")
_OLDEST = 300.0
"""Seconds without an end after which something hangs."""


@dataclass
class Found:
    """What a campaign did and saw."""

    items: int
    kills: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    """Times that the command was started."""
    ended: Counter[str] = field(default_factory=Counter)
    """How often each item ended."""
    resumed: int = 0
    """Items that were gone on with midway, and not begun again."""
    different: list[str] = field(default_factory=list)
    """Files that are not what a plain run wrote."""
    seconds: float = 0.0

    def line(self) -> str:
        """All of it, in a line."""
        kills = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.kills.items()))
        once = sum(count == 1 for count in self.ended.values())
        return (
            f"{self.items} items, kills: {kills}; {self.drivers} starts of the command, "
            f"{once} items ended once, {self.resumed} of them gone on with midway, "
            f"{len(self.different)} files differ from a plain run's; {self.seconds:.0f} s"
        )


class Machines:
    """A Ray cluster of our own: a head, and one more machine, each a tree of processes."""

    def __init__(self, *, second: bool) -> None:
        # As clusters are that others can reach: none takes part without it.
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            # Workers of Ray give way to all others, and would wait long on a busy machine.
            "RAY_worker_niceness": "0",
        }
        # Short, for the names of sockets have a limit.
        self._folder = tempfile.mkdtemp(prefix="dno", dir="/tmp")
        self._head = self._start("--head", "--port=0", f"--temp-dir={self._folder}", cpus=1)
        file = Path(self._folder, "ray_current_cluster")
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, "no head"
            assert self._head.poll() is None, "the head ended"
            time.sleep(0.1)
        self.address = file.read_text().strip()
        self._other: subprocess.Popen[bytes] | None = None
        if second:
            self.add()

    def _start(self, *arguments: str, cpus: int) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        fixed = ["--block", f"--num-cpus={cpus}", "--object-store-memory=80000000"]
        return subprocess.Popen(
            [sys.executable, ray, "start", *arguments, *fixed, "--disable-usage-stats"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )

    def add(self) -> None:
        """One more machine."""
        self._other = self._start(f"--address={self.address}", cpus=1)

    def workers(self) -> list[psutil.Process]:
        """The processes of actors."""
        found = []
        for machine in filter(None, (self._head, self._other)):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(machine.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if process.cmdline()[:1] == ["ray::Worker.attempt"]:
                            found.append(process)
        return found

    def lose(self) -> None:
        """The second machine, all at once."""
        assert self._other is not None
        kill_tree(self._other)

    def end(self) -> None:
        """All of it."""
        for machine in filter(None, (self._other, self._head)):
            kill_tree(machine)
        shutil.rmtree(self._folder, ignore_errors=True)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process that we started, and for all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
        for one in [psutil.Process(process.pid), *tree]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


@contextlib.contextmanager
def machines(*, second: bool) -> Iterator[Machines]:
    """A cluster, and its end."""
    cluster = Machines(second=second)
    try:
        yield cluster
    finally:
        cluster.end()


def start(
    folder: Path, items: int, cluster: Machines | Literal["local"] | None = None
) -> subprocess.Popen[bytes]:
    """The study, in a process of its own."""
    given = [str(folder), str(items)]
    environment = None
    if isinstance(cluster, Machines):
        given.append(cluster.address)
        environment = cluster.environment
    elif cluster is not None:
        given.append(cluster)
    return subprocess.Popen([sys.executable, str(STUDY), *given], env=environment)


def campaign(
    folder: Path, items: int, kinds: Sequence[str], seed: int = 0, pause: float = 3.0
) -> Found:
    """A study on a cluster, with a kill of each kind in turn, compared with a plain run.

    Two of three kills come while an item is midway, with a state that was just saved; the others at
    any time, most often while an actor begins.

    Args:
        folder: empty.
        items: how many.
        kinds: `actor`, `driver` or `machine`, in this order.
        seed: of the pauses between kills, and of which actor is killed.
        pause: seconds before a kill, at most.
    """
    found = Found(items)
    began = time.monotonic()
    assert not study_of(folder / "plain", items).failed

    chance = random.Random(seed)
    with machines(second="machine" in kinds) as cluster:
        found.drivers += 1
        driver = start(folder / "ray", items, cluster)
        try:
            for number, kind in enumerate(kinds):
                midway = number % 3 != 2
                driver = _until_at_work(cluster, driver, folder, found, midway=midway)
                time.sleep(chance.uniform(0.0, 0.5 if midway else pause))
                if all_done(folder, items):
                    break
                if kind == "driver":
                    kill_one(driver)
                elif kind == "machine":
                    cluster.lose()
                    cluster.add()
                elif at_work := cluster.workers():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        chance.choice(at_work).kill()
                found.kills[kind] += 1
            while driver.wait(timeout=_OLDEST) != 0:
                found.drivers += 1
                driver = start(folder / "ray", items, cluster)
        finally:
            kill_one(driver)

    _compare(folder, found)
    found.seconds = time.monotonic() - began
    return found


def kill_one(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process that we started, and nothing else."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def _until_at_work(
    cluster: Machines,
    driver: subprocess.Popen[bytes],
    folder: Path,
    found: Found,
    *,
    midway: bool,
) -> subprocess.Popen[bytes]:
    """Wait until an actor is at an item; a driver that ended is started again."""
    deadline = time.monotonic() + _OLDEST
    while not all_done(folder, found.items):
        if cluster.workers() and (not midway or _is_midway(folder)):
            break
        assert time.monotonic() < deadline, "nothing goes on"
        if driver.poll() is not None:
            found.drivers += 1
            driver = start(folder / "ray", found.items, cluster)
        time.sleep(0.1)
    return driver


def _is_midway(folder: Path) -> bool:
    """Whether an item saved its state within the last second, and has not ended."""
    for state in (folder / "ray" / "items").glob("*/state.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            fresh = time.time() - state.stat().st_mtime < 1.0
            if fresh and not state.with_name("result.json").exists():
                return True
    return False


def all_done(folder: Path, items: int) -> bool:
    """Whether every item has ended."""
    return len([*(folder / "ray" / "items").glob("*/result.json")]) == items


def _compare(folder: Path, found: Found) -> None:
    for item in sorted((folder / "plain" / "items").iterdir()):
        other = folder / "ray" / "items" / item.name
        for name in COMPARED:
            if (item / name).read_bytes() != (other / name).read_bytes():
                found.different.append(f"{item.name}/{name}")
    for line in (folder / "ray" / "ended").read_text().splitlines():
        prompt, _, first = line.split(",")
        found.ended[prompt] += 1
        found.resumed += int(first) > 0


def main() -> int:
    """Run a campaign, print what came of it; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    chance = random.Random(given.seed)
    kinds = chance.choices(["actor", "driver", "machine"], [6, 2, 2], k=given.kills)
    with tempfile.TemporaryDirectory(prefix="dno", dir="/tmp") as folder:
        found = campaign(Path(folder), given.items, kinds, given.seed)
    print(found.line())
    right = not found.different and len(found.ended) == found.items
    return 0 if right and set(found.ended.values()) == {1} else 1


if __name__ == "__main__":
    sys.exit(main())
