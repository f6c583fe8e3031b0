"""The picture of a report in the docs: `python docs/figures/report.py`, for two minutes.

It needs Chromium (`bash tests/browser/install.sh`) and playwright.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import dno

PICTURE = Path(__file__).parents[1] / "images" / "report.png"
WIDTH, HEIGHT = 1180, 900
COLOURS = 200
"""Of the picture's palette, by which it is a third of the size."""


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fox"
        dno.optimize(
            ["a red fox", "a blue whale"],
            reward=[("clip", 5.0), ("contrast", 1.0)],
            monitor="brightness",
            seed=3,
            batch=2,
            out=folder,
            progress=True,
        )
        shown = picture_of(folder / "report.html")
    with Image.open(io.BytesIO(shown)) as picture:
        picture.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    print(PICTURE, PICTURE.stat().st_size)


def picture_of(page: Path) -> bytes:
    """What a browser shows of a report, some way through the run."""
    browser = os.environ.get("DNO_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        size = {"width": WIDTH, "height": HEIGHT}
        tab = chromium.new_page(viewport=size, device_scale_factor=1.5)  # type: ignore[arg-type]
        tab.goto(page.as_uri())
        for _ in range(9):
            tab.keyboard.press("ArrowLeft")
        tab.wait_for_timeout(300)
        shown = tab.screenshot()
        chromium.close()
    return shown


if __name__ == "__main__":
    main()
