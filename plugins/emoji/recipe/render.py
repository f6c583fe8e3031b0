"""Render a pool of captioned pictures from the sprites.

Usage, from `plugins/emoji`: `python -m recipe.render --help`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from recipe.draw import picture
from recipe.words import ANIMALS


def render(
    sprites: Path,
    images: int,
    seed: int,
    out: Path,
    scale: tuple[float, float],
    shift: float,
    size: int = 64,
) -> None:
    """Write a pool of pictures and what is true of them.

    The archive holds `pixels` (N x size x size x 3 bytes), the caption's `animal`, `colour` and
    `background`, and the background as painted, `ground` (N each, indices into `recipe.words`).

    Args:
        sprites: what `recipe.artwork` wrote.
        images: how many pictures.
        seed: of everything that is drawn.
        out: the archive.
        scale: least and greatest side of an animal, as fractions of the picture's.
        shift: the farthest that an animal is put from the middle, as a fraction of the side.
        size: side of a picture, in pixels.
    """
    rng = np.random.default_rng(seed)
    art = np.load(sprites)
    rgba, owner = art["rgba"], art["animal"]
    by_animal = {
        index: np.flatnonzero(owner == index) for index in range(len(ANIMALS)) if index in owner
    }
    order = np.resize(np.array(sorted(by_animal)), images)  # every animal equally often

    rows = []
    for animal in rng.permutation(order):
        sprite = rgba[rng.choice(by_animal[animal])]
        image, colour, ground, named = picture(sprite, rng, size, scale, shift * size)
        rows.append((image, animal, colour, named, ground))

    names = ("pixels", "animal", "colour", "background", "ground")
    columns = {
        name: np.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    columns |= {name: columns[name].astype(np.int8) for name in names[1:]}
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, **columns)
    print(f"{images} pictures of {len(by_animal)} animals, {len(rgba)} sprites -> {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", type=Path, default=Path("work/sprites.npz"))
    parser.add_argument("--size", type=int, default=64, help="side of a picture, in pixels")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, nargs=2, default=(0.86, 0.92))
    parser.add_argument("--shift", type=float, default=1 / 32, help="as a fraction of the side")
    parser.add_argument("--out", type=Path, default=Path("work/train.npz"))
    args = parser.parse_args()
    scale = tuple(args.scale)
    render(args.sprites, args.images, args.seed, args.out, scale, args.shift, args.size)


if __name__ == "__main__":
    main()
