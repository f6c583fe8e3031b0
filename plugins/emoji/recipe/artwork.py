"""Fetch the emoji sets named in `sprites.json` and rasterise one icon a sprite.

Usage, from `plugins/emoji`: `python -m recipe.artwork --help`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipe.words import ANIMALS

#: Vendor -> pinned version of the npm package `@iconify-json/<vendor>`.
VERSIONS = {"noto": "1.2.9", "noto-v1": "1.2.5", "fluent-emoji-flat": "1.2.6", "twemoji": "1.2.5"}
#: Side of a sprite in pixels, about three times what a 64 px picture shows of it.
SIZE = 192

Pixels = npt.NDArray[np.uint8]


def sprite_table() -> dict[str, list[str]]:
    """Animal -> its sprites, each as "vendor/icon"."""
    table: dict[str, list[str]] = json.loads(Path(__file__).with_name("sprites.json").read_text())
    return table


def fetch(vendor: str, folder: Path) -> dict[str, Any]:
    """The icon set of `vendor`, through `npm pack` unless the archive is already in `folder`."""
    archive = folder / f"iconify-json-{vendor}-{VERSIONS[vendor]}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = f"@iconify-json/{vendor}@{VERSIONS[vendor]}"
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True)
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None
        icons: dict[str, Any] = json.load(member)
    return icons


def svg(icons: dict[str, Any], name: str) -> str:
    """One icon of a set as an SVG document."""
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f'viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{icon["body"]}</svg>'


def rasterise(document: str, size: int = SIZE) -> Pixels:
    """An SVG document as `size x size x 4` RGBA bytes, cropped to its ink, in the middle."""
    import resvg_py

    def draw(px: int) -> Image.Image:
        png = bytes(resvg_py.svg_to_bytes(svg_string=document, width=px, height=px))
        return Image.open(io.BytesIO(png)).convert("RGBA")

    big = draw(2 * size)
    box = big.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    assert box is not None
    side = max(box[2] - box[0], box[3] - box[1])
    square = Image.new("RGBA", (side, side))
    square.paste(big.crop(box), ((side - box[2] + box[0]) // 2, (side - box[3] + box[1]) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def save(documents: dict[str, list[str]], out: Path, size: int = SIZE) -> None:
    """Rasterise SVG documents by animal into an archive.

    It holds `rgba` (S x size x size x 4 bytes) and `animal` (S indices).
    """
    pairs = [(ANIMALS.index(animal), text) for animal, texts in documents.items() for text in texts]
    rgba = np.stack([rasterise(text, size) for _, text in pairs])
    animal = np.array([index for index, _ in pairs])

    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, rgba=rgba, animal=animal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work/sprites.npz"))
    parser.add_argument("--size", type=int, default=SIZE, help="side of a sprite, in pixels")
    parser.add_argument(
        "--packages", type=Path, default=Path("work/packages"), help="where archives are kept"
    )
    args = parser.parse_args()
    table = sprite_table()
    sets = {vendor: fetch(vendor, args.packages) for vendor in VERSIONS}
    documents = {
        animal: [svg(sets[vendor], icon) for vendor, icon in (name.split("/") for name in names)]
        for animal, names in table.items()
    }
    save(documents, args.out, args.size)
    print(f"{sum(map(len, documents.values()))} sprites of {len(documents)} animals -> {args.out}")


if __name__ == "__main__":
    main()
