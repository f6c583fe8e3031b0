"""The pictures of docs/gallery.md, made by the commands that stand on that page.

    python docs/figures/gallery.py --work runs/gallery

A command whose run folder is there already is left out. Writes docs/images/gallery-*.png, and
tells what each run reached.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

from PIL import Image

import dno

DOCS = Path(__file__).parents[1]
SIDE = 112
"""Width and height of a picture on the page, in pixels."""


def commands() -> dict[str, str]:
    """The commands of runs that the page has a picture of, by the folders that they make."""
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    found = re.findall(r"^(dno optimize .* --out (\w+))$", page, re.M)
    return {name: line for line, name in found if f"images/gallery-{name}.png" in page}


def strip(run: dno.SavedRun) -> Image.Image:
    """The plain samples beside the best ones; above them where there are several."""
    rows = [run.pictures("initial"), run.pictures("best")]
    if len(rows[0]) == 1:
        rows = [rows[0] + rows[1]]

    drawn = Image.new("RGB", (SIDE * len(rows[0]), SIDE * len(rows)))
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            shown = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            drawn.paste(shown, (SIDE * across, SIDE * down))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)

    for name, command in commands().items():
        if not (work / name).exists():
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(["bash", "-c", command], cwd=work, env=env, check=True)
        run = dno.open_run(work / name)
        strip(run).save(DOCS / "images" / f"gallery-{name}.png", optimize=True)
        for kind in ("initial", "best"):
            print(name, kind, run.result[kind]["rewards"])


if __name__ == "__main__":
    main()
