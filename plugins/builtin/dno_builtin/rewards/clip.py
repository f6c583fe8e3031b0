"""How well images show what their prompts say, by a CLIP model."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from dno.plugin import BuildContext, ConfigError, Reward
from dno_builtin.rewards._files import ModelReward, check_model, has_processor, locate


class Clip(ModelReward):
    """Cosine of the angle between each image's and its prompt's CLIP embedding, in [-1, 1].

    The plain cosine of Radford et al. (ICML 2021, arXiv 2103.00020). A model's own logit is
    exp(logit_scale), mostly 100, times that: `weight` gives it. With `clipscore`, the CLIPScore of
    Hessel et al. (EMNLP 2021, arXiv 2104.08718), whose model is openai/clip-vit-base-patch32: 2.5
    max(cos, 0), without a gradient where the cosine is negative.

    Licences: the embedded emoji-clip: see its README; OpenAI's models MIT, by their repository;
    others: see the model page.
    """

    weightless = True

    model: str = Field(default="emoji-clip", min_length=1)
    """An installed model's name, a folder that holds a `CLIPModel` with its `CLIPProcessor`, or a
    hub id (owner/name); no code is run to read its weights."""
    template: str = "{}"
    """What the model reads for a prompt, with {} in the prompt's place: "a photo of {}". With
    `clipscore`, "A photo depicts {}" unless given."""
    clipscore: bool = False
    """Score 2.5 max(cos, 0) instead of the cosine."""

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError("needs {} once, in the prompt's place")
        return value

    def check(self) -> None:
        """Raise `ConfigError` where `model` is missing, or is a folder without a CLIP model and
        processor.
        """
        model = locate(self.model)
        check_model(model, ["clip"], "CLIP", self.revision)
        if Path(model).is_dir() and not has_processor(model):
            raise ConfigError(
                f'"{model}" holds no processor; save the model\'s CLIPProcessor there', at="model"
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
        model = locate(self.model)
        network = load_network(
            model,
            "CLIP",
            self.revision,
            getattr(torch, self.dtype),
            device=ctx.device,
            weightless=ctx.weightless,
        )
        tokenizer, preprocess = load_processor(model, "CLIP", self.revision, "model")
        depicts = self.clipscore and "template" not in self.model_fields_set
        return CosineScore(
            network,
            tokenizer,
            preprocess,
            template="A photo depicts {}" if depicts else self.template,
            scale=2.5 if self.clipscore else 1.0,
            floor=self.clipscore,
        )
