"""What runs items on a machine of a cluster: an actor that holds loaded models."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from dno.runs.attempt import Attempt, Attempts
from dno.runs.keep import Keep
from dno.runs.run_config import RunConfig

ABOUT = "batch.toml"
"""The file that tells what a study consists of."""


@dataclass(frozen=True)
class Place:
    """Where an actor is, and whether it can work on the study."""

    machine: str
    process: int
    version: str
    """Of dno."""
    study: str
    """Digest of what the study consists of, as it is read there; empty where it is not."""


def version() -> str:
    """Of the dno that is installed."""
    return importlib.metadata.version("dno")


def digest(folder: Path) -> str:
    """Of what a study's folder says that it consists of; empty where there is none.

    Two machines that see one folder see one digest.
    """
    try:
        return hashlib.sha256((folder / ABOUT).read_bytes()).hexdigest()
    except OSError:
        return ""


class Worker:
    """An actor of a study.

    Args:
        threads: of torch, as many as the process has that started the study: their number decides
            the bits of a run on a CPU.
        keep: what is kept of an item that is done.
    """

    def __init__(self, threads: int, keep: Keep = Keep.ALL) -> None:
        import torch

        torch.set_num_threads(threads)
        self._attempts = Attempts(keep)

    def place(self, folder: str) -> Place:
        """Where this is, and what it sees of the study."""
        return Place(platform.node(), os.getpid(), version(), digest(Path(folder)))

    def attempt(self, config: RunConfig, path: str) -> Attempt:
        """Run an item, or go on with it."""
        return self._attempts.make(config, Path(path))
