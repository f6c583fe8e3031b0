"""How much people would like an image for a prompt, by ImageReward."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dno.plugin import BuildContext, Reward
from dno_builtin.rewards._files import ModelReward, has_tokenizer, locate, look

FILES = ("ImageReward.safetensors", "ImageReward.pt")
TOKENIZER = "google-bert/bert-base-uncased"
"""Whose tokenizer the model was trained with."""


class ImageReward(ModelReward):
    """ImageReward: a BLIP model trained on experts' comparisons of generated images; mostly -2.3 to
    2.

    Xu et al. (NeurIPS 2023, arXiv 2304.05977): the prompt, cut after 35 tokens, reads the image by
    cross-attention, and a head scores it. Scores are made to have mean 0 and deviation 1 over the
    authors' data.

    Licence: Apache-2.0, by the authors' repository, as is that of the tokenizer's repository.
    """

    model: str = Field(default="THUDM/ImageReward", min_length=1)
    """A folder or hub id (owner/name) that holds ImageReward.pt, or the same as .safetensors."""
    tokenizer: str | None = None
    """A folder or hub id that holds BERT's tokenizer; if not given, the `model` folder where it has
    one, else google-bert/bert-base-uncased."""

    def check(self) -> None:
        """Raise `ConfigError` where weights or tokenizer are missing."""
        look(locate(self.model), FILES, self.revision)
        look(
            self._tokenizer(),
            ["tokenizer_config.json", "tokenizer.json", "vocab.txt"],
            at="tokenizer",
        )

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`; a pickled file is converted to safetensors the first
        time.

        Raises:
            ConfigError: the files cannot be had or read, hold code, or hold no such model.
        """
        import torch

        from dno_builtin.rewards._imagereward import load_imagereward

        self.check()
        dtype = getattr(torch, self.dtype)
        return load_imagereward(
            locate(self.model), FILES, self.revision, self._tokenizer(), dtype, ctx.device
        )

    def _tokenizer(self) -> str:
        if self.tokenizer is not None:
            return locate(self.tokenizer, "tokenizer")
        model = locate(self.model)
        return model if Path(model).is_dir() and has_tokenizer(model) else TOKENIZER
