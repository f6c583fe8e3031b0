"""Run folders for tests of reports: real runs on a sampler without a network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dno as library

HOSTILE = "</script></style><img src=x onerror=window.owned=1>\"'`${window.owned=1}{{7*7}}\u202e"
"""What a page must show as it is, and never run."""


def run_toy(out: Path, prompt: Any = "a black cat", **options: Any) -> Path:
    """A run of four iterations on the sampler `toy`, which `Site.install_toy` installs."""
    wanted = {"reward": "brightness", "iterations": 4, **options}
    library.optimize(prompt, sampler="toy", out=out, **wanted)
    return out


def kill(folder: Path, iterations: int = 3) -> Path:
    """What a run leaves that is killed when so many records are written."""
    names = ["result.json", "noise.safetensors", "curve.png", "report.html"]
    names += [path.name for path in folder.glob("*.png")]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    lines = (folder / "history.jsonl").read_text().splitlines()[:iterations]
    (folder / "history.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for frame in sorted((folder / "frames").iterdir())[iterations:]:
        frame.unlink()
    return folder


def rename(folder: Path, old: str, new: str) -> None:
    """Put another name of a reward into what a run left."""
    for name in ("history.jsonl", "result.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(json.dumps(old), json.dumps(new)))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data

    def facts(self, page: str) -> dict[str, Any]:
        """What the first run's script reads."""
        (text, *_) = re.findall(r"<script[^>]* data-facts>(.*?)</script>", page, re.S)
        values: dict[str, Any] = json.loads(text)
        return values
