"""Make pictures whose captions are true: recolour a sprite and put it on a background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipe.words import COLOUR_NAMES, COLOURS, NATURAL, UNNAMED

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_PALETTE: Floats = np.array([COLOURS[name] for name in COLOUR_NAMES], np.float32) / np.float32(255)
#: Two colours closer than this (Euclidean, sRGB in [0, 1]) are never put on each other.
_CONTRAST = 0.42


def _shades(base: Floats, name: str) -> tuple[Floats, Floats]:
    """What `base` becomes where the sprite is darkest and lightest: eyes and stripes survive."""
    if name == "black":
        return np.full(3, 0.30, np.float32), np.full(3, 0.62, np.float32)
    if name == "white":
        return np.full(3, 0.20, np.float32), np.full(3, 0.80, np.float32)
    return base * 0.22, base + (1 - base) * 0.72


def recolour(rgba: Floats, colour: int, rng: np.random.Generator) -> Floats:
    """Paint a sprite (`H x W x 4` in [0, 1]) in a named colour along a ramp of luminance.

    The sprite's most common luminance becomes the colour itself, so that most of the body is so.
    """
    name = COLOUR_NAMES[colour]
    base = np.clip(_PALETTE[colour] + rng.uniform(-0.03, 0.03, 3).astype(np.float32), 0, 1)
    dark, light = _shades(base, name)
    luma = rgba[..., :3] @ _LUMA
    body = np.median(luma[rgba[..., 3] > 0.5])
    offset = luma - body
    # A dead zone keeps shading that belongs to the body from washing its colour out.
    amount = np.clip((np.abs(offset) - 0.06) / 0.44, 0, 1)[..., None]
    rgb = base + amount * (np.where(offset[..., None] < 0, dark, light) - base)
    return np.concatenate([rgb, rgba[..., 3:]], axis=-1).astype(np.float32)


def place(
    rgba: Floats, size: int, rng: np.random.Generator, scale: tuple[float, float], shift: float
) -> Floats:
    """Flip half the time, scale to a fraction of `size`, shift by up to `shift` pixels.

    The layer is `size x size x 4`. Its colours come out multiplied by alpha, ready to be laid on a
    background.
    """
    if rng.random() < 0.5:
        rgba = rgba[:, ::-1]
    # Source pixels a target pixel, before centring.
    side = rgba.shape[0] / (size * rng.uniform(*scale))
    centre = rgba.shape[0] / 2
    dx, dy = rng.uniform(-shift, shift, 2) * side
    half = side * size / 2
    box = (centre - half + dx, centre - half + dy, centre + half + dx, centre + half + dy)
    pad = rgba.shape[0] // 2
    laid = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
    canvas = np.pad(laid, ((pad, pad), (pad, pad), (0, 0)))
    planes = [
        Image.fromarray(np.ascontiguousarray(canvas[..., channel])).resize(
            (size, size),
            Image.Resampling.BOX,
            box=tuple(edge + pad for edge in box),
            reducing_gap=None,
        )
        for channel in range(4)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def background(colour: int, size: int, rng: np.random.Generator) -> Floats:
    """A flat or softly graded background, `size x size x 3`."""
    base = np.clip(_PALETTE[colour] + rng.uniform(-0.04, 0.04, 3).astype(np.float32), 0, 1)
    if rng.random() < 0.5:
        return np.broadcast_to(base, (size, size, 3)).astype(np.float32)
    other = np.clip(base * rng.uniform(0.8, 1.15), 0, 1)
    mix = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return np.broadcast_to(base + mix * (other - base), (size, size, 3)).astype(np.float32)


def choose_background(body: Floats, rng: np.random.Generator, avoid: int = NATURAL) -> int:
    """A background colour that `body` (three values in [0, 1]) stands out from."""
    far = np.linalg.norm(_PALETTE - body, axis=1) > _CONTRAST
    if avoid != NATURAL:
        far[avoid] = False
    return int(rng.choice(np.flatnonzero(far)))


def body_colour(rgba: Floats) -> Floats:
    """The median colour of a sprite's ink."""
    return np.median(rgba[rgba[..., 3] > 0.5][:, :3], axis=0).astype(np.float32)


def picture(
    sprite: Pixels,
    rng: np.random.Generator,
    size: int = 64,
    scale: tuple[float, float] = (0.86, 0.92),
    shift: float = 2.0,
) -> tuple[Pixels, int, int, int]:
    """One picture of a sprite, its colour, its background, and that as captioned.

    The picture is `size x size x 3` bytes.
    """
    rgba: Floats = sprite.astype(np.float32) / np.float32(255)
    colour = NATURAL if rng.random() < 0.2 else int(rng.integers(len(COLOUR_NAMES)))
    if colour != NATURAL:
        rgba = recolour(rgba, colour, rng)
    ground = choose_background(body_colour(rgba), rng, colour)
    layer = place(rgba, size, rng, scale, shift)
    image = layer[..., :3] + (1 - layer[..., 3:]) * background(ground, size, rng)
    named = rng.random() < 0.5
    return (
        (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8),
        colour,
        ground,
        ground if named else UNNAMED,
    )
