"""A small diffusion model of emoji animals, its scorer and an independent judge, as folders."""

from __future__ import annotations

from pathlib import Path

from dno.plugin import ModelConfig

_HERE = Path(__file__).parent
#: A `StableDiffusionPipeline` folder: 64 x 64 px pictures of 45 animals in 11 colours.
PIPELINE = _HERE / "pipeline"
#: A `CLIPModel` and `CLIPProcessor` folder, for rewards.
CLIP = _HERE / "clip"
#: A classifier folder that no reward uses, for measuring.
JUDGE = _HERE / "judge"


class Emoji(ModelConfig):
    """Stable Diffusion pipeline that draws 45 animals in 11 colours, 64 x 64 pixels."""

    def folder(self) -> Path:
        """Folder of the pipeline."""
        return PIPELINE


class EmojiCLIP(ModelConfig):
    """CLIP model of the same animals and colours, for rewards."""

    def folder(self) -> Path:
        """Folder of the model and its processor."""
        return CLIP


class EmojiJudge(ModelConfig):
    """Classifier of the same animals and colours that no reward uses, to check results with."""

    def folder(self) -> Path:
        """Folder of the classifier."""
        return JUDGE
