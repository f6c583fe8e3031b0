"""What an independent classifier sees in pictures of the embedded model, as held-out rewards.

It knows 45 animals and the colours. Its word counts as it is in no loss: whether the animal that
was asked for is still the one to be seen tells whether a climb left its subject.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ResNetForImageClassification

from dno.plugin import find_model

LABELS = 45
"""Animals, which it names first; colours follow."""
SIDE = 32
"""Pixels of a picture that it was trained on, enlarged twice."""


@functools.cache
def judge() -> Any:
    """The classifier."""
    model = ResNetForImageClassification.from_pretrained(
        find_model("emoji-judge"), dtype=torch.float32
    )
    return model.eval()


def seen(images: Tensor) -> list[tuple[str, str]]:
    """Animal and colour of each of `B x 3 x H x W` images in [0, 1]."""
    model = judge()
    with torch.no_grad():
        small = torch.nn.functional.adaptive_avg_pool2d(images * 2 - 1, SIDE)
        large = torch.nn.functional.interpolate(
            small, scale_factor=2, mode="bilinear", align_corners=False
        )
        animals, colours = model(large).logits.tensor_split([LABELS], dim=1)
    names = model.config.id2label
    found = zip(animals.argmax(1).tolist(), colours.argmax(1).tolist(), strict=True)
    return [(names[animal], names[LABELS + colour]) for animal, colour in found]


def animal(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """`B` values: 1 where it sees the animal of "a <colour> <animal>", else 0."""
    asked = [prompt.split()[2] for prompt in prompts]
    return _same([found for found, _ in seen(images)], asked)


def colour(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """`B` values: 1 where it sees the colour of "a <colour> <animal>", else 0."""
    asked = [prompt.split()[1] for prompt in prompts]
    return _same([found for _, found in seen(images)], asked)


def _same(found: Sequence[str], asked: Sequence[str]) -> Tensor:
    return torch.tensor([float(a == b) for a, b in zip(found, asked, strict=True)])
