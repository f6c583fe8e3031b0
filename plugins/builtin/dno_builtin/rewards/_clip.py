"""Models that embed images and texts in one space, and the cosine of the two."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dno.plugin import ConfigError, without_weights
from dno_builtin.rewards._files import WEIGHTS, commit, fetch
from dno_builtin.rewards._preprocess import Preprocess
from dno_builtin.rewards._weights import full, loading, read_weights, seen_in

_log = logging.getLogger("dno")

TEXT = "text_"
"""What names of the parts begin with that read texts."""

READING = threading.Lock()
"""Held while a tokenizer reads: transformers' fast ones refuse two threads at once."""

Kind = Literal["CLIP", "SigLIP"]


def load_network(
    model: str,
    kind: Kind,
    revision: str | None,
    dtype: torch.dtype,
    *,
    device: torch.device | None = None,
    weightless: bool = False,
) -> Any:
    """A folder's or hub id's `CLIPModel` or `SiglipModel`, frozen.

    Args:
        model: the folder or hub id.
        kind: which of the two.
        revision: of a hub id.
        dtype: of its weights.
        device: where they go, but for what reads texts, see `placed`; None: all stay on the CPU.
        weightless: whether its weights are to be shapes, and none need be there.

    Raises:
        ConfigError: it cannot be loaded, is of another type, or lacks weights.
    """
    from transformers import AutoConfig, CLIPModel, SiglipModel

    cls = CLIPModel if kind == "CLIP" else SiglipModel
    with loading(model, f"{kind} model"):
        fetch(model, ["config.json"], revision)
        at = commit(model, revision)
        config = AutoConfig.from_pretrained(model, revision=at, trust_remote_code=False)
        if config.model_type != kind.lower():
            raise ConfigError(
                f'"{model}" is a model of type {config.model_type}; name a {kind} model', at="model"
            )
        if weightless:
            with without_weights():
                shape = cls._from_config(config, dtype=dtype)
            return shape.eval().requires_grad_(False)
        weights = fetch(model, WEIGHTS, revision)
        if weights.suffix == ".bin":
            source = {"config": config, "state_dict": read_weights(weights)}
            network, found = cls.from_pretrained(
                None,
                **source,
                dtype=dtype,
                trust_remote_code=False,
                output_loading_info=True,
            )
        else:
            network, found = cls.from_pretrained(
                model,
                revision=at,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f'"{model}" lacks {len(missing)} of a {kind} model\'s weights, such as {missing[0]}',
            at="model",
        )
    if device is not None:
        placed(network, device)
    return network.eval().requires_grad_(False)


def placed(network: Any, device: torch.device) -> Any:
    """A model of two towers, its image tower on a device.

    The text tower, at full size a third of the model, stays on the CPU: it reads each prompt but
    once. There it is widened to float32, since CPUs are slow in half precision.
    """
    for name, part in network.named_children():
        if not name.startswith(TEXT):
            part.to(device)
        elif device.type != "cpu":
            part.float()
    # By these, such as a scale, a model says where it is.
    for name, own in list(network.named_parameters(recurse=False)):
        if own.device != device:
            setattr(network, name, torch.nn.Parameter(own.to(device), requires_grad=False))
    return network


def load_processor(model: str, kind: Kind, revision: str | None, at: str) -> tuple[Any, Preprocess]:
    """A folder's or hub id's tokenizer, and what its image processor does.

    Raises:
        ConfigError: they cannot be loaded, or the image processor is of an unknown kind.
    """
    from transformers import CLIPProcessor, SiglipProcessor

    cls = CLIPProcessor if kind == "CLIP" else SiglipProcessor
    with loading(model, f"{kind} model", at):
        fetch(model, ["processor_config.json", "preprocessor_config.json"], revision, at)
        processor = cls.from_pretrained(
            model, revision=commit(model, revision), trust_remote_code=False
        )
        return processor.tokenizer, Preprocess.from_config(processor.image_processor.to_dict())


@dataclass(frozen=True)
class CosineScore:
    """`(images, prompts) -> scores`. A prompt is embedded the first time it is seen, and
    remembered.
    """

    model: Any
    """A `CLIPModel` or `SiglipModel`, as `placed` leaves it."""
    tokenizer: Any
    preprocess: Preprocess
    kind: Kind = "CLIP"
    template: str = "{}"
    scale: float = 1.0
    """Factor of the cosine."""
    floor: bool = False
    """Whether negative scores are cut off at 0."""
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores for `B x 3 x H x W` images in [0, 1] and B prompts."""
        text_BF = torch.stack([self._text(prompt) for prompt in prompts])
        tower = self.model.vision_model
        pixels = self.preprocess(full(images.to(tower.device)))
        seen_BF = seen_in(tower.dtype, pixels, self._seen)
        scores_B = self.scale * F.cosine_similarity(seen_BF, text_BF, dim=1)
        return scores_B.clamp(min=0) if self.floor else scores_B

    @property
    def on_cpu(self) -> Sequence[Any]:
        """What reads texts; see `dno.plugin.Reward`."""
        return [part for name, part in self.model.named_children() if name.startswith(TEXT)]

    def _seen(self, pixels: Tensor) -> Tensor:
        return features(self.model.get_image_features(pixel_values=pixels))

    def _text(self, prompt: str) -> Tensor:
        """The prompt's embedding."""
        if prompt not in self._texts:
            text = self.template.replace("{}", prompt)
            limit = self.model.config.text_config.max_position_embeddings
            ids = token_ids(
                self.tokenizer, text, limit, f"{self.kind} model", whole=self.kind == "SigLIP"
            )
            with torch.no_grad():
                found = self.model.get_text_features(input_ids=ids)
            self._texts[prompt] = full(features(found))[0].to(self.model.vision_model.device)
        return self._texts[prompt]


def token_ids(tokenizer: Any, text: str, limit: int, who: str, *, whole: bool) -> Tensor:
    """`1 x L` tokens of a text, L up to `limit`; says so where there are more.

    Args:
        tokenizer: of transformers.
        text: what to read.
        limit: the most tokens that the model reads.
        who: what to call the model.
        whole: as SigLIP is trained: lower case, and filled up to the limit.
    """
    shown, text = text, text.lower() if whole else text
    with READING:
        tokens = len(tokenizer(text, verbose=False)["input_ids"])
    if tokens > limit:
        _log.warning(
            "the %s reads %d tokens; the end of this prompt's %d is not scored: %s",
            who,
            limit,
            tokens,
            shown,
        )
    options = {"padding": "max_length"} if whole else {}
    with READING:
        ids: Tensor = tokenizer(
            text, truncation=True, max_length=limit, return_tensors="pt", **options
        )["input_ids"]
    return ids


def features(found: Any) -> Tensor:
    """The embeddings in what `get_image_features` or `get_text_features` hands back."""
    # transformers 5 hands back an object, 4 the tensor.
    embeddings: Tensor = getattr(found, "pooler_output", found)
    return embeddings
