"""The CLIP reward's model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dno.plugin import ConfigError
from dno_builtin._quiet import quiet
from dno_builtin.rewards._preprocess import Preprocess

_log = logging.getLogger("dno")


def load_clip(model: str, *, revision: str | None, template: str, device: torch.device) -> ClipScore:
    """Load a folder or hub id that `CLIPModel` and `CLIPProcessor` read, frozen, in float32.

    Raises:
        ConfigError: it cannot be loaded, is no whole CLIP model, or has a processor of an unknown kind.
    """
    from transformers import AutoConfig, CLIPModel, CLIPProcessor

    try:
        with quiet():
            kind = AutoConfig.from_pretrained(model, revision=revision).model_type
            if kind != "clip":
                raise ConfigError(f'"{model}" is a model of type {kind}; name a CLIP model', at="model")
            network, loading = CLIPModel.from_pretrained(
                model, revision=revision, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
            processor = CLIPProcessor.from_pretrained(model, revision=revision)
        preprocess = Preprocess.from_config(processor.image_processor.to_dict())
    except ConfigError as error:
        raise error if error.at else ConfigError(f'"{model}": {error.problem}', at="model") from None
    except Exception as error:  # What goes wrong in there has many types, most of them plain ones.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f'"{model}" could not be loaded as a CLIP model: {reason}', at="model") from error
    if missing := sorted(loading["missing_keys"]):
        raise ConfigError(
            f'"{model}" lacks {len(missing)} of a CLIP model\'s weights, such as {missing[0]}', at="model"
        )
    network.requires_grad_(False).to(device)
    return ClipScore(network, processor.tokenizer, preprocess, template)


@dataclass(frozen=True)
class ClipScore:
    """`(images, prompts) -> cosines`. A prompt is embedded the first time it is seen, and remembered."""

    model: Any
    """A `CLIPModel`."""
    tokenizer: Any
    preprocess: Preprocess
    template: str
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` cosines in [-1, 1] for `B x 3 x H x W` images in [0, 1] and B prompts."""
        text_BF = torch.stack([self._text(prompt) for prompt in prompts])
        pixels = self.preprocess(images.to(self.model.device, self.model.dtype))
        seen = _features(self.model.get_image_features(pixel_values=pixels))
        return F.cosine_similarity(seen, text_BF, dim=1)

    def _text(self, prompt: str) -> Tensor:
        """The prompt's embedding."""
        if prompt not in self._texts:
            text = self.template.replace("{}", prompt)
            limit = self.model.config.text_config.max_position_embeddings
            tokens = len(self.tokenizer(text, verbose=False)["input_ids"])
            if tokens > limit:
                _log.warning(
                    "the CLIP model reads %d tokens; the end of this prompt's %d is not scored: %s", limit, tokens, text
                )
            inputs = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            with torch.no_grad():
                found = self.model.get_text_features(**inputs.to(self.model.device))
            self._texts[prompt] = _features(found)[0]
        return self._texts[prompt]


def _features(found: Any) -> Tensor:
    # transformers 5 hands back an object, 4 the tensor.
    features: Tensor = getattr(found, "pooler_output", found)
    return features
