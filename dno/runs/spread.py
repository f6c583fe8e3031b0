"""A study's items on the workers of a Ray cluster.

This process loads no model and holds a number and two counters an item: what each made lies in its
folder. If it dies, so do its workers, and the same command goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from dno.errors import ConfigError, RunError
from dno.paths import current_folder
from dno.runs.actor import Place, Worker, digest, version
from dno.runs.attempt import Attempt, End
from dno.runs.batch import ITEMS, Item, Summary, Told
from dno.runs.cluster import Cluster, Share, connected, nodes_of
from dno.runs.keep import Keep
from dno.runs.pool import DEATHS, Order, Pool
from dno.runs.run_config import RunConfig
from dno.runs.standing import Standing, standing
from dno.wording import named, short

_LARGEST: Final = 10_000_000
"""Bytes above which a configuration holds a model, and is not sent with every item."""
_WAIT: Final = 60.0
"""Seconds that an item is waited for which a lost worker of ours may still be at."""
_PAUSE: Final = 2.0


def carry_out_on_ray(
    items: Sequence[Item],
    folder: Path,
    *,
    cluster: Cluster,
    retries: int,
    keep: Keep = Keep.ALL,
    tell: Callable[[Told], None],
    say: Callable[[str], None],
    worker: type = Worker,
) -> Summary:
    """Run what is neither done nor held by another process, on a cluster.

    Args:
        items: what to run.
        folder: the study's, which every machine must see.
        cluster: where.
        retries: how often an item that failed is tried again, on another worker where there is one.
        keep: what is kept of an item that is done.
        tell: hears of each item as it ends.
        say: hears how many workers there are.
        worker: the class of actors, which has the methods of `Worker`.

    Raises:
        ConfigError: items cannot be sent, or the cluster cannot work on this study.
        RunError: there is no such cluster, or no worker can begin.
    """
    study = _Study(items, folder.absolute(), retries, tell)
    study.look()
    if not study.left:
        return study.summary

    import torch

    threads = torch.get_num_threads()
    _check_sendable(items[study.left[0]].config)
    with connected(cluster) as ray:
        device = items[study.left[0]].config.device
        share = Share.of(cluster, nodes_of(ray), device=device, threads=threads)
        pool = _pool(ray, cluster, share, study.folder, worker, keep)
        say(_heading(ray, cluster, share, len(study.left)))
        try:
            study.work(pool)
        except KeyboardInterrupt:
            study.summary.interrupted = True
        except ray.exceptions.RayError as error:
            raise RunError(f"Ray ended: {short(str(error))}; the same command goes on") from error
        except RunError as error:
            raise RunError(f"{error}; once that is mended, the same command goes on") from error
        finally:
            pool.end()
    return study.summary


def _check_sendable(config: RunConfig) -> None:
    """Raise `ConfigError` where parts of a configuration are objects that stay in this process."""
    from ray import cloudpickle

    try:
        size = len(cloudpickle.dumps(config))  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ConfigError(
            f"a part is an object that cannot be sent to workers ({short(str(error))}); name a "
            "plugin or a model's folder",
            source="ray",
        ) from error
    if size > _LARGEST:
        raise ConfigError(
            f"a part is an object of {size / 1e6:.0f} MB, which would be sent with every item; "
            "name a plugin or a model's folder",
            source="ray",
        )


def _pool(
    ray: ModuleType, cluster: Cluster, share: Share, folder: Path, worker: type, keep: Keep
) -> Pool:
    options: dict[str, Any] = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0}
    actor = ray.remote(worker).options(**options)
    ours = digest(folder)

    def refused(place: Place) -> str:
        if place.version != version():
            return f"{place.machine} has dno {place.version}, and this is {version()}"
        if place.study != ours:
            return (
                f"{place.machine} does not see the study in {named(folder)}; its folder must be "
                "one that all machines share"
            )
        return ""

    return Pool(
        ray,
        make=lambda: actor.remote(share.threads, keep),
        asks=(str(folder),),
        room=lambda: cluster.workers or share.places(nodes_of(ray)),
        refused=refused,
    )


def _heading(ray: ModuleType, cluster: Cluster, share: Share, left: int) -> str:
    nodes = nodes_of(ray)
    count = min(cluster.workers or share.places(nodes), left)
    each = f"{share.gpus:g} GPU, " if share.gpus else ""
    workers = "1 worker" if count == 1 else f"{count} workers"
    machines = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
    threads = "1 thread" if share.threads == 1 else f"{share.threads} threads"
    return f"{left} to do, {workers} on {machines}, {each}{threads} each"


class _Study:
    """Which items are left, and what became of the others."""

    def __init__(
        self, items: Sequence[Item], folder: Path, retries: int, tell: Callable[[Told], None]
    ) -> None:
        self.folder = folder
        self.summary = Summary()
        self.left: list[int] = []
        self._items = items
        self._retries = retries
        self._tell = tell
        self._held: list[Order] = []
        # Paths are from where this process is, which is no worker's place.
        self._base = current_folder()

    def look(self) -> None:
        """Find by their files which items are left."""
        for number, item in enumerate(self._items):
            if standing(self._path(item)) is Standing.DONE:
                self.summary.before += 1
            else:
                self.left.append(number)

    def work(self, pool: Pool) -> None:
        """Carry out what is left; at the end, what others held and no longer hold."""
        orders = [Order(number) for number in self.left]
        deadline = 0.0
        while orders:
            self._held = []
            pool.work(orders, self._send, self._ended, self._lost)
            held = self._held
            # A worker of ours that was given up may be at it still, where its machine is cut off.
            if any(order.deaths for order in held):
                deadline = deadline or time.monotonic() + _WAIT
            if len(held) == len(orders) and time.monotonic() > deadline:
                break
            orders = held
            if orders:
                time.sleep(_PAUSE)
        self.summary.held = len(orders)

    def _path(self, item: Item) -> Path:
        return self.folder / ITEMS / item.name

    def _send(self, order: Order) -> tuple[Any, ...]:
        item = self._items[order.number]
        return item.config.located(self._base), str(self._path(item))

    def _ended(self, order: Order, attempt: Attempt, place: Place) -> bool:
        if attempt.end is End.HELD:
            self._held.append(order)
            return False
        if attempt.end is End.FAILED:
            order.failures += 1
            if order.failures <= self._retries:
                return True
        self._count(order, attempt, place.machine)
        return False

    def _lost(self, order: Order, why: str) -> None:
        error = f"{DEATHS} workers died at it, the last so: {why}"
        self._count(order, Attempt(End.FAILED, error), "")

    def _count(self, order: Order, attempt: Attempt, machine: str) -> None:
        item = self._items[order.number]
        if order.deaths and attempt.end is End.BEFORE:
            # The worker that was lost had done it.
            attempt = Attempt(End.DONE)
        self.summary.count(item, attempt)
        if attempt.end is not End.BEFORE:
            number = self.summary.seen
            self._tell(Told(item, number, len(self._items), attempt, machine))
