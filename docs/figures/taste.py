"""A reward that was learnt from choices between pictures, as human-preference rewards are.

No such reward fits the embedded model's pictures, so one is trained: somebody who always picks the
more colourful of two of its samples is asked about pairs, and a Bradley-Terry model (1952) on the
features of the embedded CLIP tower learns to tell which one. What is climbed is that model; the
colourfulness that the choices went by is never seen by the climb, and tells whether it was fooled.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

import dno
from dno.plugin import BuildContext
from dno.registry.registry import REWARDS

ANIMALS = ("cat", "dog", "duck", "frog", "bear", "zebra", "cow", "pig", "wolf", "turtle")
"""None of them is drawn in the measurements."""
COLOURS = ("brown", "red", "blue", "gray")
SEEDS = range(200, 206)
HELD_OUT = 40
"""Pictures whose pairs are not trained on."""
RIDGE = 1e-3


class Colourfulness:
    """How colourful pictures are: Hasler and Suesstrunk, Human Vision and Electronic Imaging
    (2003)."""

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` values for `B x 3 x H x W` images in [0, 1]; about 0 for grey ones, 0.4 for vivid."""
        red, green, blue = images.flatten(2).unbind(1)
        red_green = red - green
        yellow_blue = (red + green) / 2 - blue
        spread = (red_green.var(1) + yellow_blue.var(1) + 1e-12).sqrt()
        distance = (red_green.mean(1).square() + yellow_blue.mean(1).square() + 1e-12).sqrt()
        return spread + 0.3 * distance


@dataclass(frozen=True)
class Taste:
    """The score of a linear Bradley-Terry model on features of the embedded CLIP tower."""

    clip: Any
    """The reward `clip`, whose tower and preprocessing it shares."""
    weights_F: Tensor

    def features(self, images: Tensor) -> Tensor:
        """`B x F` unit vectors."""
        pixels = self.clip.preprocess(images)
        found = self.clip.model.get_image_features(pixel_values=pixels)
        return functional.normalize(getattr(found, "pooler_output", found), dim=1)

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores: a difference of d means that the better one is picked with probability
        1 / (1 + exp(-d))."""
        return self.features(images) @ self.weights_F


def taste(path: Path) -> Taste:
    """The trained reward; its weights are kept at `path`, and made where they are not there."""
    clip: Any = REWARDS.load("clip")().build(BuildContext(torch.device("cpu"), torch.float32))
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        save_file({"weights_F": trained(clip)}, part)
        part.replace(path)
    return Taste(clip, load_file(path)["weights_F"])


def trained(clip: Any) -> Tensor:
    """The weights of the Bradley-Terry model, `F`."""
    prompts = [f"a {colour} {animal}" for colour in COLOURS for animal in ANIMALS]
    pictures = []
    session = dno.load(reward="brightness", steps=20, iterations=0, device="cpu")
    for seed in SEEDS:
        # Nothing is climbed: the plain samples are what is asked about.
        pictures.append(session.optimize(prompts, seed=seed).initial.samples)
    images = torch.cat(pictures)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = images[order]

    blank = Taste(clip, torch.zeros(0))
    with torch.no_grad():
        features_BF = torch.cat([blank.features(chunk) for chunk in images.split(40)])
    liked_B = Colourfulness()(images, ())
    weights_F = _bradley_terry(features_BF[HELD_OUT:], liked_B[HELD_OUT:])
    scores_B = features_BF[:HELD_OUT] @ weights_F
    agree = _pairs(scores_B) > 0
    right = (agree == (_pairs(liked_B[:HELD_OUT]) > 0)).float().mean()
    print(f"taste: {right:.1%} of pairs of pictures it was not trained on", flush=True)
    return weights_F


def _pairs(values_B: Tensor) -> Tensor:
    """Of each pair of places, the first value less the second."""
    first, second = torch.triu_indices(len(values_B), len(values_B), offset=1)
    return values_B[first] - values_B[second]


def _bradley_terry(features_BF: Tensor, liked_B: Tensor) -> Tensor:
    """The most likely weights, with a ridge, given which of each pair was picked."""
    first, second = torch.triu_indices(len(liked_B), len(liked_B), offset=1)
    signs = (liked_B[first] > liked_B[second]).float() * 2 - 1
    differences = (features_BF[first] - features_BF[second]) * signs[:, None]
    weights_F = torch.zeros(features_BF.shape[1], requires_grad=True)
    fit = torch.optim.LBFGS([weights_F], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        fit.zero_grad()
        missed = functional.softplus(-differences @ weights_F).mean()
        value: Tensor = missed + RIDGE * weights_F.square().mean()
        value.backward()
        return value

    fit.step(loss)
    return weights_F.detach()
