"""How well images show what their prompts say, by a CLIP model."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, field_validator

from dno.plugin import BuildContext, ConfigError, Reward, RewardConfig, find_model


class Clip(RewardConfig):
    """Cosine of the angle between each image's and its prompt's CLIP embedding, in [-1, 1].

    The plain cosine of Radford et al. (ICML 2021, arXiv 2103.00020). CLIPScore is 2.5 times that, cut off
    below 0, where it has no gradient; a model's own logit is exp(logit_scale), mostly 100, times that:
    `weight` gives either. Model and preprocessing are float32.
    """

    model: str = Field(default="emoji-clip", min_length=1)
    """An installed model's name, a folder that holds a `CLIPModel` with its `CLIPProcessor`, or a hub id
    (owner/name); weights are read from safetensors files alone."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its main branch if not given."""
    template: str = "{}"
    """What the model reads for a prompt, with {} in the prompt's place: "a photo of {}"."""

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError("needs {} once, in the prompt's place")
        return value

    def check(self) -> None:
        """Raise `ConfigError` where `model` is missing, or is a folder without a CLIP model and processor."""
        folder = Path(self._find())
        if not folder.is_dir() and not folder.is_absolute():
            return  # A hub id: only loading tells.
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        except FileNotFoundError:
            raise ConfigError(f'"{folder}" holds no model: it has no config.json', at="model") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'"{folder / "config.json"}" cannot be read: {error!r}', at="model") from None
        if kind != "clip":
            raise ConfigError(f'"{folder}" holds a model of type {kind}; name a CLIP model', at="model")
        if not any(folder.glob("*.safetensors")):
            raise ConfigError(f'"{folder}" holds no weights in a .safetensors file', at="model")
        if not any((folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json")):
            raise ConfigError(f'"{folder}" holds no processor; save the model\'s CLIPProcessor there', at="model")

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`, in float32.

        Raises:
            ConfigError: it cannot be loaded, is no CLIP model, or has a processor of an unknown kind.
        """
        from dno_builtin.rewards._clip import load_clip

        self.check()
        return load_clip(self._find(), revision=self.revision, template=self.template, device=ctx.device)

    def _find(self) -> str:
        try:
            return find_model(self.model)
        except ConfigError as error:
            raise error.inside("model") from None
