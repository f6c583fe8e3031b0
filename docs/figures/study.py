"""The picture of a study's page in the docs: `python docs/figures/study.py --work runs/animals`.

It takes some five minutes of one core, and goes on where it was stopped. It needs Chromium
(`bash tests/browser/install.sh`) and playwright.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import dno

PICTURE = Path(__file__).parents[1] / "images" / "study.png"
WIDTH, HEIGHT = 1000, 900
ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow",
    "goat", "lion", "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant",
    "butterfly", "fish", "shark", "whale", "dolphin", "squirrel", "mouse", "rat", "snake",
    "turtle", "frog", "chicken", "duck", "goose", "bee", "pig", "turkey", "fly", "llama", "camel",
    "bat", "gorilla", "hedgehog", "kangaroo",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="The picture of a study's page.")
    parser.add_argument("--work", type=Path, default=Path("runs/animals"))
    folder = parser.parse_args().work
    dno.batch(
        [f"a {animal}" for animal in ANIMALS],
        seeds=[0, 1, 2, 3],
        size=8,
        reward="clip",
        monitor=["brightness", "contrast"],
        steps=10,
        iterations=10,
        out=folder,
    )
    shown = picture_of(folder / "report.html")
    with Image.open(io.BytesIO(shown)) as picture:
        picture.convert("RGB").quantize(256).save(PICTURE, optimize=True)
    print(PICTURE, PICTURE.stat().st_size)


def picture_of(page: Path) -> bytes:
    """What a browser shows of a page first."""
    browser = os.environ.get("DNO_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        size = {"width": WIDTH, "height": HEIGHT}
        tab = chromium.new_page(viewport=size)  # type: ignore[arg-type]
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("body.live")
        shown = tab.screenshot()
        chromium.close()
    return shown


if __name__ == "__main__":
    main()
