"""What people may ask of the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much is carried out, for whom the page is served to."""

    waiting: int = 20
    """Jobs in the line."""
    steps: int = 1000
    """Denoising steps of a run."""
    iterations: int = 100_000
    """Of a run."""
    seconds: float | None = None
    """Of a run, after which it keeps what it reached; None: as long as it takes."""
    runs: int | None = None
    """In the folder, after which no more are made; None: as many as the disk holds."""

    rewards: tuple[str, ...] | None = None
    """Those that the tab Optimise offers; None: all that are installed."""


STRANGERS = Limits(
    waiting=10,
    steps=30,
    iterations=40,
    seconds=120,
    runs=500,
    rewards=("brightness", "darkness", "contrast", "jpeg", "clip"),
)
"""Where anybody may come: a run takes two minutes at most, the folder does not fill the disk, and
no reward has a model downloaded."""
