"""Models that tell their folder in another way."""

from __future__ import annotations

from pathlib import Path

from dno.plugin import ModelConfig, find_model


class Text(ModelConfig):
    def folder(self) -> str:  # wrong: a path, not a string
        return "tiny"


class Found(ModelConfig):
    def folder(self) -> Path:
        return find_model("tiny")  # wrong: what find_model gives may be a hub id


class Property(ModelConfig):
    @property
    def folder(self) -> Path:  # wrong: a method, not a property
        return Path("tiny")


class Asking(ModelConfig):
    def folder(self, size: int) -> Path:  # wrong: takes nothing
        return Path(str(size))


class Elsewhere(ModelConfig):
    def path(self) -> Path:
        return Path("tiny")


Elsewhere()  # wrong: folder is missing
