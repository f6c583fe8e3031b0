"""Which image people would pick for a prompt, by PickScore."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dno.plugin import BuildContext, Reward
from dno_builtin.rewards._files import ModelReward, check_model, has_processor, locate, look

PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Whose tokenizer and image processor PickScore's authors use."""


class PickScore(ModelReward):
    """PickScore: a CLIP model trained on people's choices between generated images; mostly 17 to
    24.

    Kirstain et al. (NeurIPS 2023, arXiv 2305.01569): exp(logit_scale), which is about 100, times
    the cosine of the image's and the prompt's embedding. A difference of d means that people prefer
    the better one with probability 1 / (1 + exp(-d)). Only scores of one prompt compare.

    Licence: none is known to us for yuvalkirstain/PickScore_v1, see the model page; the processor's
    repository says MIT.
    """

    weightless = True

    model: str = Field(default="yuvalkirstain/PickScore_v1", min_length=1)
    """A folder that holds a `CLIPModel`, or a hub id (owner/name); no code is run to read its
    weights."""
    processor: str | None = None
    """A folder or hub id that holds a `CLIPProcessor`; if not given, the `model` folder where it
    has one, else laion/CLIP-ViT-H-14-laion2B-s32B-b79K."""

    def check(self) -> None:
        """Raise `ConfigError` where `model` or `processor` is missing, or a folder holds no CLIP
        model.
        """
        check_model(locate(self.model), ["clip"], "CLIP", self.revision)
        look(
            self._processor(), ["processor_config.json", "preprocessor_config.json"], at="processor"
        )

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`.

        Raises:
            ConfigError: it cannot be loaded, is no CLIP model, or has a processor of an unknown
                kind.
        """
        import torch

        from dno_builtin.rewards._clip import CosineScore, load_network, load_processor

        if not ctx.weightless:
            self.check()
        network = load_network(
            locate(self.model),
            "CLIP",
            self.revision,
            getattr(torch, self.dtype),
            device=ctx.device,
            weightless=ctx.weightless,
        )
        tokenizer, preprocess = load_processor(self._processor(), "CLIP", None, "processor")
        # A shape has no number; which does not matter to a plan.
        scale = 100.0 if ctx.weightless else network.logit_scale.float().exp().item()
        return CosineScore(network, tokenizer, preprocess, scale=scale)

    def _processor(self) -> str:
        if self.processor is not None:
            return locate(self.processor, "processor")
        model = locate(self.model)
        return model if Path(model).is_dir() and has_processor(model) else PROCESSOR
