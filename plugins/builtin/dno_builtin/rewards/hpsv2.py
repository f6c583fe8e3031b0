"""How much people would like an image for a prompt, by the Human Preference Score v2."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from dno.plugin import BuildContext, Reward
from dno_builtin.rewards._files import ModelReward, has_tokenizer, locate, look

TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""A repository with the tokenizer that the model was trained with, OpenAI's."""


class HPSv2(ModelReward):
    """Human Preference Score v2: a CLIP ViT-H/14 trained on people's rankings of generated images;
    mostly 0.2 to 0.35.

    Wu et al. (arXiv 2306.09341): the cosine of the image's and the prompt's embedding, 100 times
    which is in the authors' tables. Only scores of one prompt compare. As in their package, the
    whole image is shown, with black bars where it is not square, and resized as a tensor: by
    torchvision's antialiased filter, or with `antialias` off by the plain one of torchvision before
    0.17.

    Licence: Apache-2.0, by the authors' package; the tokenizer's repository says MIT.
    """

    files: ClassVar[tuple[str, ...]] = ("HPS_v2_compressed.safetensors", "HPS_v2_compressed.pt")

    model: str = Field(default="xswu/HPSv2", min_length=1)
    """A folder or hub id (owner/name) that holds HPS_v2_compressed.pt, or the same as
    .safetensors."""
    tokenizer: str | None = None
    """A folder or hub id that holds a CLIP tokenizer; if not given, the `model` folder where it has
    one, else laion/CLIP-ViT-H-14-laion2B-s32B-b79K."""
    antialias: bool = True
    """Whether reducing an image averages over pixels; off gives the scores of torchvision before
    0.17."""

    def check(self) -> None:
        """Raise `ConfigError` where weights or tokenizer are missing."""
        look(locate(self.model), self.files, self.revision)
        look(self._tokenizer(), ["tokenizer_config.json", "tokenizer.json"], at="tokenizer")

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`; a pickled file is converted to safetensors the first
        time.

        Raises:
            ConfigError: the files cannot be had or read, hold code, or hold no such model.
        """
        import torch

        from dno_builtin.rewards._openclip import load_openclip

        self.check()
        dtype = getattr(torch, self.dtype)
        return load_openclip(
            locate(self.model),
            self.files,
            self.revision,
            self._tokenizer(),
            dtype,
            ctx.device,
            antialias=self.antialias,
        )

    def _tokenizer(self) -> str:
        if self.tokenizer is not None:
            return locate(self.tokenizer, "tokenizer")
        model = locate(self.model)
        return model if Path(model).is_dir() and has_tokenizer(model) else TOKENIZER


class HPSv21(HPSv2):
    """Human Preference Score v2.1: the model of `hpsv2` trained on more and better rankings; mostly
    0.18 to 0.35.

    Wu et al. (arXiv 2306.09341), released in January 2024. Everything else is as in `hpsv2`; scores
    of the two do not compare.

    Licence: Apache-2.0, by the authors' package; the tokenizer's repository says MIT.
    """

    files: ClassVar[tuple[str, ...]] = ("HPS_v2.1_compressed.safetensors", "HPS_v2.1_compressed.pt")

    model: str = Field(default="xswu/HPSv2", min_length=1)
    """A folder or hub id (owner/name) that holds HPS_v2.1_compressed.pt, or the same as
    .safetensors."""
