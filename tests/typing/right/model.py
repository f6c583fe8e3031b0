"""Models that come with a distribution."""

from __future__ import annotations

from pathlib import Path

from dno.plugin import ModelConfig


class Tiny(ModelConfig):
    def folder(self) -> Path:
        return Path(__file__).parent / "tiny"


class Sized(ModelConfig):
    size: int = 64

    def folder(self) -> Path:
        return Path(__file__).parent / str(self.size)


weights: Path = Sized(size=32).folder()
