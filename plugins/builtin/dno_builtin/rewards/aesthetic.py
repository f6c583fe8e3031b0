"""How beautiful people would find an image, by LAION's aesthetic predictor v2."""

from __future__ import annotations

from pydantic import Field

from dno.plugin import BuildContext, Reward
from dno_builtin.rewards._files import ModelReward, check_model, locate, look

HEAD = "camenduru/improved-aesthetic-predictor"
HEAD_FILES = (
    "sac+logos+ava1-l14-linearMSE.safetensors",
    "sac+logos+ava1-l14-linearMSE.pth",
    "aesthetic-model.safetensors",
    "aesthetic-model.pth",
)
HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
"""Of the authors' sac+logos+ava1-l14-linearMSE.pth."""


class Aesthetic(ModelReward):
    """LAION's aesthetic score, version 2: about 1 to 10, whatever the prompt; mostly 4 to 7.

    Schuhmann (2022): five linear layers, trained on people's ratings of photographs and generated
    images, on the embedding of OpenAI's CLIP ViT-L/14, made to have length 1.

    Licences: OpenAI's CLIP MIT, by its repository; the head Apache-2.0 as far as we know, see
    github.com/christophschuhmann/improved-aesthetic-predictor.
    """

    model: str = Field(default="openai/clip-vit-large-patch14", min_length=1)
    """A folder that holds a `CLIPModel`, or a hub id (owner/name); no code is run to read its
    weights."""
    head: str = Field(default=HEAD, min_length=1)
    """A folder or hub id that holds sac+logos+ava1-l14-linearMSE.pth, or the same as
    aesthetic-model.pth or .safetensors; the default's content is checked by its SHA-256."""

    def check(self) -> None:
        """Raise `ConfigError` where the CLIP model or the head is missing."""
        check_model(locate(self.model), ["clip"], "CLIP", self.revision)
        look(locate(self.head, "head"), HEAD_FILES, at="head")

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`; a pickled head is converted to safetensors the first
        time.

        Raises:
            ConfigError: the files cannot be had or read, hold code, or do not fit together.
        """
        import torch

        from dno_builtin.rewards._aesthetic import load_aesthetic

        self.check()
        return load_aesthetic(
            locate(self.model),
            self.revision,
            locate(self.head, "head"),
            HEAD_FILES,
            HEAD_SHA256 if self.head == HEAD else None,
            getattr(torch, self.dtype),
            ctx.device,
        )
