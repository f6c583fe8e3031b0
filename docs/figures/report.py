"""The picture of a report in the docs: `python docs/figures/report.py`, for a minute.

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
WIDTH, HEIGHT = 920, 940


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "duck"
        dno.optimize(
            ["a white duck on a blue background", "a red fox"],
            reward=[("clip", 5.0), ("contrast", 1.0)],
            monitor="brightness",
            seed=3,
            batch=2,
            iterations=8,
            steps=20,
            coarse=10,
            out=folder,
            progress=True,
        )
        shown = picture_of(folder / "report.html")
    with Image.open(io.BytesIO(shown)) as picture:
        picture.convert("RGB").save(PICTURE, optimize=True)
    print(PICTURE, PICTURE.stat().st_size)


def picture_of(page: Path) -> bytes:
    """What a browser shows of a report, some way through the run."""
    browser = os.environ.get("DNO_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        size = {"width": WIDTH, "height": HEIGHT}
        tab = chromium.new_page(viewport=size)  # type: ignore[arg-type]
        tab.goto(page.as_uri())
        tab.locator("[data-choose]").nth(3).click()
        for _ in range(4):
            tab.keyboard.press("ArrowLeft")
        tab.wait_for_timeout(300)
        shown = tab.screenshot()
        chromium.close()
    return shown


if __name__ == "__main__":
    main()
