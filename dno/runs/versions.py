"""What a run was computed with, by name."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Final

from dno import __version__

_PACKAGES: Final = ("torch", "diffusers", "transformers", "numpy")


def versions() -> Mapping[str, str]:
    """The versions of Python, of this package, and of those whose arithmetic decides the bits."""
    found = {"dno": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        # What is not installed as a distribution has no version to tell.
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
