"""LAION's aesthetic predictor: CLIP's image tower and a head."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dno.plugin import ConfigError
from dno_builtin.rewards._clip import features, load_network
from dno_builtin.rewards._files import fetch
from dno_builtin.rewards._preprocess import Preprocess
from dno_builtin.rewards._weights import (
    apply_layers,
    full,
    linear_layers,
    loading,
    read_weights,
    seen_in,
)


def load_aesthetic(
    model: str,
    revision: str | None,
    head: str,
    files: Sequence[str],
    sha256: str | None,
    dtype: torch.dtype,
    device: torch.device,
) -> AestheticScore:
    """The scorer, frozen.

    Args:
        model: folder or hub id of a `CLIPModel`.
        revision: of that hub id.
        head: folder or hub id of the head.
        files: its names, in order of preference.
        sha256: what the head's file must have, if anything.
        dtype: what the image tower computes in; the head is float32.
        device: where both compute.

    Raises:
        ConfigError: something cannot be had or read, or the two do not fit together.
    """
    network = load_network(model, "CLIP", revision, dtype)
    network.text_model = network.text_projection = None  # Nothing reads a prompt.
    path = fetch(head, files, at="head")
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ConfigError(
            f'"{path}" is not the published file: its SHA-256 is another; remove it and try again',
            at="head",
        )
    with loading(head, "head", "head"):
        layers = linear_layers(read_weights(path, "head"), "layers.")
    if layers[0][0].shape[1] != network.config.projection_dim:
        raise ConfigError(
            f'"{head}" is for embeddings of {layers[0][0].shape[1]} numbers, "{model}" makes '
            f"{network.config.projection_dim}; name the head's own CLIP model",
            at="head",
        )
    layers = [(weight.to(device), bias.to(device)) for weight, bias in layers]
    return AestheticScore(
        network.to(device), layers, Preprocess.torchvision(network.config.vision_config.image_size)
    )


@dataclass(frozen=True)
class AestheticScore:
    """`(images, prompts) -> scores`; prompts change nothing."""

    model: Any
    """A `CLIPModel`; its text tower is not used."""
    head: list[tuple[Tensor, Tensor]]
    preprocess: Preprocess

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores for `B x 3 x H x W` images in [0, 1]."""
        pixels = self.preprocess(full(images.to(self.model.device)))
        features_BF = seen_in(self.model.dtype, pixels, self._seen)
        return apply_layers(self.head, F.normalize(features_BF, dim=1))

    def _seen(self, pixels: Tensor) -> Tensor:
        return features(self.model.get_image_features(pixel_values=pixels))
