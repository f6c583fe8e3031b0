"""Distributions as a package client leaves them, without one."""

from __future__ import annotations

from pathlib import Path

from dno.registry.registry import REGISTRIES

GOOD = """
from dno.plugin import RewardConfig
class Sunny(RewardConfig):
    def build(self, ctx):
        return lambda images, prompts: images.mean(dim=(1, 2, 3))
class NotThis: ...
"""

TOY = """
from dno.plugin import SamplerConfig
from dno.testing.toy import ToySampler
class Toy(SamplerConfig):
    "Small pictures without a network."
    def build(self, ctx):
        return ToySampler()
"""


class Site:
    """A folder on the path of this process; `site` in conftest.py makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(
        self, dist: str, entry_points: str, module: str = "", code: str = GOOD, requires: str = ""
    ) -> None:
        """Install version 1.2 of `dist`, with one module if that is named, and one requirement."""
        info = self.path / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n{needs}"
        )
        (info / "entry_points.txt").write_text(entry_points)
        if module:
            (self.path / f"{module}.py").write_text(code)
        for registry in REGISTRIES:
            registry.refresh()

    def install_toy(self) -> None:
        """Install the sampler `toy`, by whose name runs can be resumed that load no model."""
        self.install("dno-toy", "[dno.v1.samplers]\ntoy = toy_plugin:Toy\n", "toy_plugin", TOY)
