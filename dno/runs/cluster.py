"""Ray, as a study uses it: found or started, measured, and left as it was.

A cluster that is there stays there: only what this process started in it is ended. Ray is imported
on use alone; it is the extra `dno[ray]`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal

from dno.errors import ConfigError, RunError
from dno.wording import short

_OBJECT_STORE: Final = 100_000_000
"""Bytes of shared memory of a cluster of our own: nothing of weight goes through it."""
_OF_CLIENTS: Final = "ray://"


@dataclass(frozen=True)
class Cluster:
    """Which Ray to use, and how much of it.

    Args:
        address: `auto` for the one that is running here or that `RAY_ADDRESS` names, else one of
            our own; `local` for one of our own; or `HOST:PORT`.
        gpus: of each worker, as 1, 2 or 0.5; None for one where the cluster has any, else none.
        cpus: cores of each worker, and its threads; None for as many threads as this process has.
        workers: how many; None for as many as there is room for.
    """

    address: str = "auto"
    gpus: float | None = None
    cpus: int | None = None
    workers: int | None = None

    @classmethod
    def asked_for(
        cls,
        address: str | None,
        *,
        gpus: float | None = None,
        cpus: int | None = None,
        workers: int | None = None,
    ) -> Cluster | None:
        """The cluster, checked; None where none was asked for.

        Raises:
            ConfigError: this asks for what cannot be, or Ray is not installed.
        """
        if address is None:
            given = {"--ray-gpus": gpus, "--ray-cpus": cpus, "--ray-workers": workers}
            for name, value in given.items():
                if value is not None:
                    raise ConfigError("means nothing without --ray auto|local|ADDRESS", source=name)
            return None
        cluster = cls(address, gpus, cpus, workers)
        cluster.check()
        return cluster

    def check(self) -> None:
        """Raise `ConfigError` where Ray is not installed, or this asks for what cannot be."""
        if importlib.util.find_spec("ray") is None:
            raise ConfigError('needs Ray; try: pip install "dno[ray]"', source="--ray")
        if self.address.startswith(_OF_CLIENTS):
            raise ConfigError(
                f"{short(self.address)} is an address of Ray's clients, whose files are not the "
                "cluster's; start the command on the cluster: ray job submit -- dno batch ...",
                source="--ray",
            )
        if self.gpus is not None and not _is_share(self.gpus):
            raise ConfigError(
                f"should be GPUs of each worker, a whole number or a part such as 0.5, got "
                f"{short(self.gpus)}",
                source="--ray-gpus",
            )
        for name, number in (("--ray-cpus", self.cpus), ("--ray-workers", self.workers)):
            if number is not None and number < 1:
                raise ConfigError(f"must be at least 1, got {number}", source=name)


def _is_share(gpus: float) -> bool:
    return math.isfinite(gpus) and (0 <= gpus <= 1 or gpus == int(gpus) > 0)


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[ModuleType]:
    """Ray, connected; one of our own is ended afterwards, one that was there is left alone.

    Raises:
        RunError: there is none at the address, or none can be started.
    """
    # Nobody is told of a run.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Where a worker has no GPU it sees none; Ray announces this as its future default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray

    if ray.is_initialized():
        # The caller's, who started it with the options that they wanted.
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == "local":
        options |= {"address": "local", "include_dashboard": False}
        options |= {"object_store_memory": _OBJECT_STORE}
    elif cluster.address != "auto":
        options |= {"address": cluster.address}
    try:
        # Without an address it is the one that `ray start` began here, or one of our own; never
        # one that another program started for itself, and will end.
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        raise RunError(f"Ray at {cluster.address} cannot be reached: {_why(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _why(error: BaseException) -> str:
    """The reason, which Ray may tell in what it made its error from."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any("InvalidAuthToken" in str(one) for one in chain):
        return (
            "it asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to what the cluster was started with"
        )
    return short(str(error))


@dataclass(frozen=True)
class Share:
    """What each worker gets of a cluster."""

    gpus: float
    cpus: int
    """That Ray sets aside."""
    threads: int
    """Of torch. On a CPU the bits of a run depend on their number."""

    @classmethod
    def of(
        cls, cluster: Cluster, nodes: list[dict[str, float]], *, device: str, threads: int
    ) -> Share:
        """The share that each worker should have.

        Args:
            cluster: what was asked for.
            nodes: CPUs and GPUs of each machine.
            device: of the runs, as `RunConfig.device`.
            threads: of this process.

        Raises:
            RunError: no machine has as much.
        """
        has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
        gpus = cluster.gpus
        if gpus is None:
            gpus = 1.0 if has_gpus and device != "cpu" else 0.0
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        if cluster.cpus is not None:
            share = cls(gpus, cluster.cpus, cluster.cpus)
        elif gpus:
            places = sum(_gpu_places(node, gpus) for node in nodes)
            cores = sum(int(node.get("CPU", 0)) for node in nodes)
            each = max(1, cores // max(1, places))
            share = cls(gpus, each, each)
        else:
            share = cls(gpus, max(1, min(threads, most)), threads)
        if not cluster.workers and not share.places(nodes):
            raise RunError(
                f"no machine of the cluster has {share.cpus} CPUs and {share.gpus:g} GPUs for a "
                "worker; ask for less with --ray-cpus and --ray-gpus, or name with --ray-workers "
                "how many to wait for"
            )
        return share

    def places(self, nodes: list[dict[str, float]]) -> int:
        """How many workers there is room for."""
        found = 0
        for node in nodes:
            room = int(node.get("CPU", 0)) // self.cpus
            if self.gpus:
                room = min(room, _gpu_places(node, self.gpus))
            found += room
        return found


def _gpu_places(node: dict[str, float], gpus: float) -> int:
    count = int(node.get("GPU", 0))
    if gpus >= 1:
        return count // int(gpus)
    # A part of a GPU is a part of one.
    return count * int(1 / gpus + 1e-9)


def nodes_of(ray: ModuleType) -> list[dict[str, float]]:
    """CPUs and GPUs of each machine that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_together(size: int | Literal["auto"], cluster: Cluster | None) -> None:
    """Raise `ConfigError` where items cannot be run side by side."""
    if size != 1 and cluster is not None:
        raise ConfigError(
            "cannot be given beside a Ray cluster, whose workers take items one by one; leave one "
            "of them out",
            source="--batch",
        )
