"""Nodes for ComfyUI: climb a reward over a model's noise, look at a run, go on from its noise.

What is imported here and by the nodes is light; torch and the models come with the first run.
"""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """What ComfyUI calls for the nodes of this package, a `ComfyExtension`."""
    from .nodes import Nodes

    return Nodes()
