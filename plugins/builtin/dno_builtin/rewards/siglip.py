"""How well images show what their prompts say, by a SigLIP model."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dno.plugin import BuildContext, ConfigError, Reward
from dno_builtin.rewards._files import ModelReward, check_model, has_processor, locate


class Siglip(ModelReward):
    """Cosine of the angle between each image's and its prompt's SigLIP embedding, in [-1, 1].

    Zhai et al. (ICCV 2023, arXiv 2303.15343); the default is SigLIP 2, Tschannen et al. (arXiv
    2502.14786). A model's own logit is exp(logit_scale) times the cosine, plus logit_bias. Images
    are squashed into the model's square; prompts are read in lower case and filled up to the text
    tower's length, as in training. Models of flexible resolution (NaFlex) are not supported.

    Licence: google/siglip2-so400m-patch14-384 Apache-2.0; others: see the model page.
    """

    weightless = True

    model: str = Field(default="google/siglip2-so400m-patch14-384", min_length=1)
    """A folder that holds a `SiglipModel` with its `SiglipProcessor`, or a hub id (owner/name); no
    code is run to read its weights."""

    def check(self) -> None:
        """Raise `ConfigError` where `model` is missing, or is a folder without a SigLIP model and
        processor.
        """
        model = locate(self.model)
        check_model(model, ["siglip"], "SigLIP", self.revision)
        if Path(model).is_dir() and not has_processor(model):
            raise ConfigError(
                f'"{model}" holds no processor; save the model\'s SiglipProcessor there', at="model"
            )

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`.

        Raises:
            ConfigError: it cannot be loaded, is no SigLIP model, or has a processor of an unknown
                kind.
        """
        import torch

        from dno_builtin.rewards._clip import CosineScore, load_network, load_processor

        if not ctx.weightless:
            self.check()
        model = locate(self.model)
        network = load_network(
            model,
            "SigLIP",
            self.revision,
            getattr(torch, self.dtype),
            device=ctx.device,
            weightless=ctx.weightless,
        )
        tokenizer, preprocess = load_processor(model, "SigLIP", self.revision, "model")
        return CosineScore(network, tokenizer, preprocess, kind="SigLIP")
