"""A reward that is fitted to picks: what computes features, the fit, and the score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dno.plugin import BuildContext
from dno_builtin.rewards._clip import features as embeddings
from dno_builtin.rewards._clip import load_network, load_processor
from dno_builtin.rewards._colours import COUNT, colours
from dno_builtin.rewards._preprocess import Preprocess
from dno_builtin.rewards._weights import full, seen_in
from dno_builtin.rewards.picks_file import Kind, Pick

Features = Callable[[Tensor], Tensor]
"""`B x F` in at least float32 from `B x 3 x H x W` images in [0, 1]."""

_NEWTON: Final = 100
"""Steps at most; a handful is usual."""
_DIGITS: Final = 8
_ROUNDING: Final = 0.01
"""How far beyond [0, 1] a picture's values may be: bfloat16 has steps of 1/128 at 1."""


@dataclass(frozen=True)
class Tower:
    """The image tower of a CLIP model, with embeddings of length 1."""

    model: Any
    """A `CLIPModel` without its text tower."""
    preprocess: Preprocess

    def __call__(self, images: Tensor) -> Tensor:
        """`B x F` unit vectors."""
        pixels = self.preprocess(full(images.to(self.model.device)))
        return F.normalize(seen_in(self.model.dtype, pixels, self._seen), dim=1)

    def _seen(self, pixels: Tensor) -> Tensor:
        return embeddings(self.model.get_image_features(pixel_values=pixels))


def load_tower(model: str, revision: str | None, dtype: torch.dtype, ctx: BuildContext) -> Tower:
    """The image tower of a folder or hub id, frozen.

    Raises:
        ConfigError: it cannot be loaded, or is no CLIP model.
    """
    network = load_network(
        model, "CLIP", revision, dtype, device=ctx.device, weightless=ctx.weightless
    )
    # Nothing reads a prompt.
    network.text_model = network.text_projection = None
    _, preprocess = load_processor(model, "CLIP", revision, "model")
    return Tower(network, preprocess)


def kind_of(features: Features, name: str) -> Kind:
    """What a file of these features says in its first line."""
    if features is colours:
        return Kind(name, COUNT)
    with torch.no_grad():
        probe = numbers(features(probe_picture()))[0]
    return Kind(name, len(probe), probe)


def probe_picture() -> Tensor:
    """A picture that is always the same, `1 x 3 x 64 x 64`: stripes and slopes in all colours."""
    place = torch.linspace(0, 1, 64)
    across = place.expand(64, 64)
    stripes = (torch.sin(40 * across) * torch.sin(25 * across.T) + 1) / 2
    return torch.stack([across, across.T, stripes])[None]


def numbers(features_BF: Tensor) -> list[tuple[float, ...]]:
    """Features as a file holds them: as many digits as float32 has."""
    rows: list[list[float]] = features_BF.detach().double().cpu().tolist()
    return [tuple(float(f"{value:.{_DIGITS}g}") for value in row) for row in rows]


@dataclass(frozen=True)
class Fit:
    """The Bradley-Terry model that picks led to."""

    weights_F: Tensor
    """float64; a difference of d in what they give means odds of exp(d)."""
    centre_F: Tensor
    """Mean features of the pictures that were shown, float64; they have score 0."""

    def scores(self, features_BF: Tensor) -> Tensor:
        """`B` scores, in the features' dtype and on their device."""
        centred = features_BF - self.centre_F.to(features_BF)
        return centred @ self.weights_F.to(features_BF)


def fit(picks: Sequence[Pick], ridge: float) -> Fit:
    """The most likely weights of a Bradley-Terry model, with a ridge.

    Each pick is a comparison of the chosen picture with each of the others. With their differences
    d_c, measured in units of their root-mean-square length, the weights w minimise

        sum_c log(1 + exp(-w . d_c)) + ridge / 2 |w|^2,

    a convex problem whose one solution Newton's method finds, in float64.

    Args:
        picks: at least one.
        ridge: > 0.
    """
    chosen = [pick.chosen for pick in picks for _ in pick.others]
    others = [other for pick in picks for other in pick.others]
    differences_CF = torch.tensor(chosen).double() - torch.tensor(others).double()
    shown = [features for pick in picks for features in (pick.chosen, *pick.others)]
    centre_F = torch.tensor(shown, dtype=torch.float64).mean(dim=0)
    return Fit(_weights(differences_CF, ridge), centre_F)


def _weights(differences_CF: Tensor, ridge: float) -> Tensor:
    unit = float(differences_CF.square().sum(dim=1).mean().sqrt())
    if unit == 0:
        # Pictures that are alike tell nothing.
        return torch.zeros(differences_CF.shape[1], dtype=torch.float64)
    scaled_CF = differences_CF / unit
    # The solution is a sum of differences: where they are few, it is looked for among their sums.
    basis_FR = None
    if len(scaled_CF) < scaled_CF.shape[1]:
        basis_FR = torch.linalg.qr(scaled_CF.T).Q
        scaled_CF = scaled_CF @ basis_FR
    weights = _newton(scaled_CF, ridge)
    return (weights if basis_FR is None else basis_FR @ weights) / unit


def _newton(rows_CR: Tensor, ridge: float) -> Tensor:
    """Newton's method with steps that are halved until the loss falls enough (Armijo's rule)."""
    weights_R = torch.zeros(rows_CR.shape[1], dtype=torch.float64)
    ridge_RR = ridge * torch.eye(rows_CR.shape[1], dtype=torch.float64)

    def loss(weights_R: Tensor) -> Tensor:
        return F.softplus(-rows_CR @ weights_R).sum() + ridge / 2 * weights_R.square().sum()

    now = loss(weights_R)
    for _ in range(_NEWTON):
        missed_C = torch.sigmoid(-rows_CR @ weights_R)
        gradient_R = ridge * weights_R - missed_C @ rows_CR
        if float(gradient_R.abs().max()) < 1e-11 * (1 + len(rows_CR)):
            break
        curve_RR = ridge_RR + (rows_CR.T * (missed_C * (1 - missed_C))) @ rows_CR
        step_R = torch.linalg.solve(curve_RR, gradient_R)
        slope = float(gradient_R @ step_R)
        length = 1.0
        while (then := loss(weights_R - length * step_R)) > now - 1e-4 * length * slope:
            length /= 2
            if length < 1e-9:
                # As low as float64 tells.
                return weights_R
        weights_R = weights_R - length * step_R
        now = then
    return weights_R


def foreseen(picks: Sequence[Pick], ridge: float) -> tuple[int, int]:
    """Of all picks but the first, how many the picks before them foresaw, and how many there are.

    A pick is foreseen where the model fitted to those before it gives the chosen picture the
    highest score, and no other picture the same.
    """
    hits = sum(is_foreseen(picks[:count], picks[count], ridge) for count in range(1, len(picks)))
    return hits, max(len(picks) - 1, 0)


def is_foreseen(before: Sequence[Pick], pick: Pick, ridge: float) -> bool:
    """Whether picks, at least one, foresaw another, as `foreseen` has it."""
    model = fit(before, ridge)
    scores = model.scores(torch.tensor([pick.chosen, *pick.others], dtype=torch.float64))
    return bool((scores[0] > scores[1:]).all())


def chances(scores_B: Tensor) -> list[float]:
    """How likely each of some pictures is to be picked among them, by Luce's choice rule."""
    shares: list[float] = torch.softmax(scores_B.double(), dim=0).tolist()
    return shares


@dataclass(frozen=True)
class PicksScore:
    """`(images, prompts) -> scores`; prompts change nothing."""

    features: Features
    fit: Fit

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores for `B x 3 x H x W` images in [0, 1]."""
        return self.fit.scores(self.features(full(images)))


def picture_tensor(picture: Any) -> Tensor:
    """`1 x 3 x H x W` in [0, 1], of a picture of Pillow or a tensor `3 x H x W` or `1 x 3 x H x W`.

    Raises:
        ValueError: it is neither, has no pixels, or pixels that are not finite or beyond [0, 1] by
            more than rounding; or it is Pillow's and cannot be read, or has more than 8 bits a
            channel.
    """
    from PIL.Image import Image

    if isinstance(picture, Image):
        return _of_pillow(picture)
    if not isinstance(picture, Tensor):
        raise ValueError(
            f"a picture is a tensor 3 x H x W or Pillow's, not a {type(picture).__name__}"
        )

    found = picture.detach()[None] if picture.dim() == 3 else picture.detach()
    is_one = found.dim() == 4 and found.shape[:2] == (1, 3) and found.numel() > 0
    if not is_one or not found.is_floating_point():
        raise ValueError(
            f"a picture is a floating-point tensor 3 x H x W in [0, 1], not {picture.dtype} of "
            f"{' x '.join(map(str, picture.shape))}"
        )
    found = found.float()
    low, high = map(float, found.aminmax())
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("a picture has pixels that are not finite")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"a picture is a tensor in [0, 1], not from {low:.4g} to {high:.4g}; scale it to that"
        )
    return found


def _of_pillow(picture: Any) -> Tensor:
    import numpy as np

    if 0 in picture.size:
        raise ValueError(f"a picture is of pixels, not of {picture.width} x {picture.height}")
    # Pillow cuts these off at 255.
    if picture.mode.startswith(("I", "F")):
        raise ValueError(
            f'a picture is of 8 bits a channel, not of Pillow\'s mode "{picture.mode}"; scale its '
            "values to 0..255 and convert it to RGB"
        )
    try:
        rgb = picture.convert("RGB")
    except (OSError, SyntaxError) as error:
        # Pillow reads a file no earlier than its pixels are needed.
        raise ValueError(f"a picture cannot be read: {error}") from error
    pixels = torch.from_numpy(np.array(rgb, dtype=np.float32) / 255)
    return pixels.permute(2, 0, 1)[None]
