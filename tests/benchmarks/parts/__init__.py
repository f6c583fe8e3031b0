"""What is measured, a part a file, each with a function `measure` from a size to figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from measuring import Figure, Size

PARTS: Mapping[str, str] = {
    "iteration": "An iteration, in plain samples",
    "memory": "Kept between forward and backward",
    "batch": "Samples side by side",
    "speed": "Options for speed, on a CPU",
    "engine": "Where an iteration's time goes",
    "regularizer": "The published penalty, and the shell",
    "checkpoints": "Keeping a run in its folder",
    "many_runs": "Many runs in one process",
    "startup": "Start-up, CPU seconds",
    "rivals": "Reward a second, against the published recipe",
    "full_size": "A full-size network, on a CPU",
}
"""Names of the parts, and headings of their tables."""

BY_NAME = frozenset({"full_size"})
"""Parts that are measured where they are asked for alone: minutes of a core, gigabytes."""

USUAL = tuple(name for name in PARTS if name not in BY_NAME)
"""The others."""


def measure(part: str, size: Size) -> Iterable[Figure]:
    """The figures of one part."""
    found: Iterable[Figure] = import_module(f"parts.{part}").measure(size)
    return found
