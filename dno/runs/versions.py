"""What a run was computed with, by name."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Final

_PACKAGES: Final = ("dno", "torch", "diffusers", "transformers", "numpy")


@functools.cache
def versions() -> Mapping[str, str]:
    """The versions of Python, of this package, and of those whose arithmetic decides the bits."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        # What is not installed as a distribution has no version to tell.
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
