"""Pages of `dno-studio` that are served by its wheel, and visits to them in a real browser."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
SECONDS = 60_000
"""How long a step may take, in milliseconds: models load in between."""


@dataclass
class Served:
    """A running `dno ui`."""

    process: subprocess.Popen[str]
    address: str
    runs: Path

    def folders(self) -> set[str]:
        """Names of the runs so far."""
        return {path.name for path in self.runs.iterdir()} if self.runs.exists() else set()


def dno_ui(*options: str) -> list[str]:
    """The command `dno ui`."""
    return [sys.executable, "-c", "from dno.cli.entry import main; main()", "ui", *options]


@contextlib.contextmanager
def serving(
    place: Path, command: Sequence[str], runs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """A process that serves a page by a wheel of the plugin, and is asked to end afterwards.

    Args:
        place: an empty folder, which is the process's own and its home.
        command: what to run there.
        runs: where it keeps runs.
        environment: variables besides.
    """
    if find_spec("gradio") is None:
        pytest.skip("Gradio is not installed here")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT / "plugins" / "studio", check=True, capture_output=True)
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(place / "site")
    variables = {
        **os.environ,
        "PYTHONPATH": str(place / "site"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(place),
        "GRADIO_TEMP_DIR": str(place / "gradio"),
        **(environment or {}),
    }
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=place, env=variables, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            assert address.startswith("http://"), (place / "log").read_text()
            yield Served(process, address, runs)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 130)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    # Gradio logs one of its own where it refuses what a stranger sends.
    ours = re.findall(r'File ".*dno_studio.*', (place / "log").read_text())
    assert ours == []


@dataclass
class Visit:
    """An open page, and what it did that it may not do."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def fill(self, name: str, value: object) -> None:
        """Write into a field."""
        box = self.page.locator(f"#{name} input, #{name} textarea").first
        box.fill(str(value))
        box.press("Tab")

    def choose(self, name: str, value: str) -> None:
        """Choose from a list."""
        self.page.locator(f"#{name} input").first.click()
        self.page.get_by_role("option", name=value).first.click()

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def wish(self, prompt: str, iterations: int, seed: int = 0) -> None:
        """Ask for a run of few steps."""
        self.fill("prompt", prompt)
        self.fill("steps", 6)
        self.fill("iterations", iterations)
        self.fill("seed", seed)
        self.page.locator("#start").click()

    def wait_for(self, phase: str) -> None:
        """Wait until the run is so far."""
        self.page.wait_for_selector(f'[data-phase="{phase}"]', timeout=SECONDS)

    def told(self) -> str:
        """What the page tells of its run."""
        return self.page.locator("#progress").inner_text()

    def check(self, served: Served) -> None:
        """It complained of nothing, and asked nobody else."""
        assert self.complaints == []
        assert {url for url in self.asked if not url.startswith(served.address)} == set()
        assert self.page.evaluate("() => window.owned") is None


def visit(chromium: Browser, served: Served) -> Visit:
    page = chromium.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.set_default_timeout(SECONDS)
    opened = Visit(page)
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("data:", "blob:")) else opened.asked.append(request.url)
        ),
    )
    page.goto(served.address)
    page.wait_for_selector("#start")
    return opened


def ask_for_four(opened: Visit, prompt: str, seed: int = 0, iterations: int = 2) -> None:
    """Have four pictures drawn in few steps."""
    opened.tab("Pick")
    opened.fill("pick-prompt", prompt)
    opened.fill("pick-steps", 5)
    opened.fill("pick-iterations", iterations)
    opened.fill("pick-seed", seed)
    opened.page.locator("#pick-start").click()
    wait_for_four(opened, 0)


def wait_for_four(opened: Visit, picks: int) -> None:
    """Wait until four pictures can be picked from, after so many picks."""
    told = opened.page.locator("#board [data-picks]")
    if picks:
        expect(told).to_have_attribute("data-picks", str(picks), timeout=SECONDS)
    else:
        expect(told).to_have_count(0, timeout=SECONDS)
    opened.page.wait_for_selector('#board [data-pick="true"]', timeout=SECONDS)
    expect(opened.page.locator("#board .dno-shot:enabled")).to_have_count(4)


def status(asked: urllib.request.Request) -> int:
    """The code of an answer."""
    try:
        with urllib.request.urlopen(asked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
