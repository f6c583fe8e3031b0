"""Where a judge's weights are, and how it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dno.plugin import BuildContext, ConfigError, find_model, hub_is_offline
from dno_vlm_judge._question import QuestionReward

if TYPE_CHECKING:
    from dno_vlm_judge._model import YesNo

PROCESSOR = ("processor_config.json", "preprocessor_config.json")


class LocalReward(QuestionReward):
    """Base of rewards whose model is loaded here."""

    model: str = Field(min_length=1)
    """A folder that holds a transformers model of the kind image-text-to-text with its processor,
    or a hub id (owner/name). Weights are read from .safetensors files alone, and no code that comes
    with them is run."""
    revision: str | None = None
    """Branch, tag or commit of a `model` that is a hub id; its main branch if not given. Give a
    commit, and a saved run is scored by the same weights when it is run again."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in; the score is float32 in any case. The half types take half the
    memory, but their scores move in steps, which estimates of a direction feel."""
    chat_template: str | None = None
    """Jinja template in place of the model's own, for models that come without one; the question is
    `messages[0].content[1].text`."""

    def check(self) -> None:
        """Raise `ConfigError` where `model` is missing, or is a folder without an
        image-text-to-text model.
        """
        model = self.locate()
        if Path(model).is_dir():
            _check_folder(Path(model))
        else:
            _check_cache(model, self.revision)

    def locate(self) -> str:
        """The folder or hub id that `model` stands for; `ConfigError` at `model` if there is
        none.
        """
        try:
            return find_model(self.model)
        except ConfigError as error:
            raise error.inside("model") from None

    def load(self, ctx: BuildContext, *, exact: bool) -> YesNo:
        """The judge on `ctx.device`, asked with a gradient or without.

        Raises:
            ConfigError: the model or its processor cannot be loaded, or cannot be asked like this.
        """
        import torch

        from dno_vlm_judge._model import load

        self.check()
        dtype = getattr(torch, self.dtype)
        return load(
            self.locate(),
            self.revision,
            dtype,
            ctx.device,
            self.ask,
            self.chat_template,
            exact=exact,
        )


def _check_folder(folder: Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError:
        raise ConfigError(f'"{folder}" holds no model: it has no config.json', at="model") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'"{folder / "config.json"}" cannot be read: {error!r}', at="model"
        ) from None
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ConfigError(
            f'"{folder}" holds a model of type {kind}, which does not answer questions about '
            "images; name one of the "
            "kind that transformers calls image-text-to-text, such as LLaVA or Qwen-VL",
            at="model",
        )
    if not any((folder / name).is_file() for name in PROCESSOR):
        raise ConfigError(
            f'"{folder}" holds no processor ({" or ".join(PROCESSOR)}); save the model\'s own '
            "there",
            at="model",
        )


def _check_cache(model: str, revision: str | None) -> None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json", revision=revision)
    if hub_is_offline() and not isinstance(cached, str):
        raise ConfigError(
            f'"{model}" is not on this machine and HF_HUB_OFFLINE forbids downloading it; unset '
            "that once, or name a local folder",
            at="model",
        )
