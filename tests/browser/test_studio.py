"""The page of `dno ui` in a real browser, served by a wheel of the plugin."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from browsers import browser
from playwright.sync_api import Browser, Page, expect, sync_playwright
from reported import HOSTILE

import dno
from dno.plugin import Option

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
EVIL = (
    HOSTILE + "${window.owned=3}{{window.owned=4}}<img src=x onerror=window.owned=5>../../../evil"
)
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("studio")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT / "plugins" / "studio", check=True, capture_output=True)
    (file,) = place.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(place / "site")
    environment = {
        **os.environ,
        "PYTHONPATH": str(place / "site"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(place),
        "GRADIO_TEMP_DIR": str(place / "gradio"),
    }
    command = [sys.executable, "-c", "from dno.cli.entry import main; main()", "ui"]
    options = ["--port", "0", "--runs", "mine"]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *options],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), (place / "log").read_text()
        yield Served(process, address, place / "mine")
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) in (0, 130)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert "Traceback" not in (place / "log").read_text()


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if find_spec("gradio") is None:
        pytest.skip("Gradio is not installed here")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser(), args=FLAGS)
        yield launched
        launched.close()


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


def test_a_run_from_click_to_last_picture(chromium: Browser, served: Served) -> None:
    before = served.folders()
    opened = visit(chromium, served)
    opened.wish("a black cat", 12)
    opened.wait_for("running")
    opened.page.wait_for_selector("[data-shot=now]")
    first = opened.page.locator("[data-shot=first]").get_attribute("src")
    opened.page.wait_for_selector(".dno-curve polyline")
    opened.wait_for("ended")
    assert opened.page.locator("[data-shot=first]").get_attribute("src") == first
    assert opened.page.locator("[data-shot=now]").get_attribute("src") != first
    assert "brightness" in opened.told()

    (name,) = served.folders() - before
    run = dno.open_run(served.runs / name)
    assert run.status == "finished"
    assert name.endswith("-a-black-cat")
    assert run.items == [("a black cat", 0)]
    assert len(run.history) == len(
        opened.page.locator(".dno-curve polyline").get_attribute("points").split()
    )
    # Nothing of the page is in it, so that anybody can go on with it.
    assert run.resumable
    assert "python:" not in (run.path / "run.toml").read_text()
    assert (run.path / "report.html").is_file()

    opened.tab("Runs")
    opened.choose("run", name)
    report = opened.page.frame_locator("iframe.dno-report")
    expect(report.locator(".prompt").first).to_have_text("a black cat")
    expect(report.locator("body.live")).to_have_count(1)
    assert opened.page.locator("iframe").get_attribute("sandbox") == "allow-scripts"
    if picture := os.environ.get("DNO_STUDIO_SHOTS"):
        opened.page.screenshot(path=f"{picture}/runs.png")
        opened.tab("Optimise")
        opened.page.screenshot(path=f"{picture}/optimise.png")
    opened.check(served)


def test_stop_keeps_what_was_reached(chromium: Browser, served: Served) -> None:
    before = served.folders()
    opened = visit(chromium, served)
    opened.wish("a red fox", 3000)
    opened.page.wait_for_selector(".dno-curve polyline")
    opened.page.locator("#stop").click()
    opened.wait_for("ended")
    assert "Done" in opened.told()
    expect(opened.page.locator("#start")).to_be_enabled()
    (name,) = served.folders() - before
    run = dno.open_run(served.runs / name)
    assert run.status == "stopped"
    assert 2 <= len(run.history) < 3000
    assert (run.path / "best.png").is_file()
    opened.check(served)


def test_two_people_at_once_do_not_disturb_each_other(chromium: Browser, served: Served) -> None:
    before = served.folders()
    one = visit(chromium, served)
    other = visit(chromium, served)
    one.wish("a blue whale", 3000, seed=1)
    one.page.wait_for_selector("[data-shot=now]")
    other.wish("a green frog", 2, seed=2)
    other.wait_for("waiting")
    assert "1 run comes before yours" in other.told()
    assert other.page.locator("[data-shot=now]").count() == 0
    one.page.locator("#stop").click()
    one.wait_for("ended")
    other.wait_for("ended")
    runs = [dno.open_run(served.runs / name) for name in sorted(served.folders() - before)]
    assert {(*run.items[0], str(run.status)) for run in runs} == {
        ("a blue whale", 1, "stopped"),
        ("a green frog", 2, "finished"),
    }
    # The second run began when the first had ended.
    assert "blue-whale" in one.told()
    assert "green-frog" in other.told()
    for person in (one, other):
        person.check(served)


def test_somebody_who_leaves_makes_room(chromium: Browser, served: Served) -> None:
    before = served.folders()
    one = visit(chromium, served)
    one.wish("a white duck", 3000)
    one.page.wait_for_selector("[data-shot=now]")
    one.page.context.close()
    other = visit(chromium, served)
    other.wish("a brown bear", 1)
    other.wait_for("ended")
    statuses = {str(dno.open_run(served.runs / n).status) for n in served.folders() - before}
    assert statuses == {"stopped", "finished"}
    other.check(served)


def test_what_a_stranger_writes_does_nothing(chromium: Browser, served: Served) -> None:
    before = served.folders()
    around = {path.name for path in served.runs.parent.iterdir()}
    opened = visit(chromium, served)
    opened.wish(EVIL, 1)
    opened.wait_for("ended")
    (name,) = served.folders() - before
    assert re.fullmatch(r"[a-z0-9-]+", name)
    # Nothing beside the runs but what programs keep in a home.
    new = {path.name for path in served.runs.parent.iterdir()} - around
    assert new <= {"mine", "gradio", ".cache", ".config"}
    assert dno.open_run(served.runs / name).items[0][0] == EVIL
    opened.tab("Runs")
    opened.choose("run", name)
    report = opened.page.frame_locator("iframe.dno-report")
    expect(report.locator(".prompt").first).to_contain_text("window.owned")
    opened.check(served)

    # A folder and a report that somebody else put there.
    bad = served.runs / "zz<img src=x onerror=window.owned=6>${window.owned=7}"
    (served.runs / name).rename(bad)
    attack = (
        "<script>try{parent.owned=8;parent.document.title='owned'}catch(e){}</script>"
        f"<img src='https://example.org/x.png'><p class='prompt'>{EVIL}</p>"
    )
    (bad / "report.html").write_text(attack)
    opened.page.locator("#again").click()
    opened.choose("run", "zz<img")
    expect(report.locator("p.prompt").first).to_be_visible()
    assert opened.page.title() == "dno"
    assert opened.page.evaluate("() => window.owned") is None
    # What it wanted from elsewhere was refused by the page's policy before it was asked for.
    assert {url for url in opened.asked if "example.org" in url} <= {"https://example.org/x.png"}
    assert any("Content Security Policy" in line for line in opened.complaints)


class Tags(HTMLParser):
    """The elements of a piece of HTML."""

    def __init__(self, piece: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(piece)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.add(tag)


def test_what_plugins_and_errors_say_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "plugins" / "studio"))
    html = importlib.import_module("dno_studio._html")
    job = importlib.import_module("dno_studio._job")
    option = Option(EVIL, EVIL, EVIL, EVIL)
    view = job.View(job.Phase.ENDED, 1, (0.1, 0.2), folder=Path(EVIL), told=EVIL, failed=True)
    pieces = [
        html.note(EVIL),
        html.plugin(EVIL, EVIL, EVIL, [option]),
        html.progress(view, 0),
        html.frame(f'">{EVIL}'),
    ]
    for piece in pieces:
        assert not Tags(piece).found & {"script", "img"}
        assert "window.owned" in piece


def test_paths_out_of_the_folder_are_refused(chromium: Browser, served: Served) -> None:
    secret = served.runs.parent / "secret"
    secret.mkdir(exist_ok=True)
    (secret / "run.toml").write_text('prompts = ["x"]\n')
    (secret / "report.html").write_text("SECRET")
    served.runs.mkdir(exist_ok=True)
    link = served.runs / "link"
    if not link.exists():
        link.symlink_to(secret)
    opened = visit(chromium, served)
    opened.tab("Runs")
    for name in ("../secret", str(secret), "link", ".", ""):
        opened.fill("run", name)
        if name:
            expect(opened.page.locator("#report")).to_contain_text("There is no such run")
        assert opened.page.locator("iframe").count() == 0
    for path in (f"/file={secret}/report.html", f"/gradio_api/file={secret}/report.html"):
        assert status(urllib.request.Request(served.address + path)) in (403, 404)
    link.unlink()
    opened.check(served)


def test_plugins_and_their_options(chromium: Browser, served: Served) -> None:
    opened = visit(chromium, served)
    opened.tab("Plugins")
    opened.choose("plugin", "sampler ddim")
    options = opened.page.locator("#options")
    expect(options.locator("td").first).to_have_text("model")
    row = options.locator("tr", has=opened.page.get_by_text("steps", exact=True))
    expect(row).to_contain_text("int >= 1")
    expect(row).to_contain_text("50")
    if picture := os.environ.get("DNO_STUDIO_SHOTS"):
        opened.page.screenshot(path=f"{picture}/plugins.png")
    opened.check(served)


def test_a_mistake_is_told(chromium: Browser, served: Served) -> None:
    before = served.folders()
    opened = visit(chromium, served)
    opened.wish(" ", 1)
    expect(opened.page.locator("#progress")).to_contain_text("prompt: write what to draw")
    expect(opened.page.locator("#start")).to_be_enabled()
    assert served.folders() == before
    opened.check(served)


def test_nothing_listens_beyond_this_machine(served: Served) -> None:
    process = psutil.Process(served.process.pid)
    all_of_them = [process, *process.children(recursive=True)]
    places = {
        one.laddr.ip
        for each in all_of_them
        for one in each.net_connections(kind="inet")
        if one.status == psutil.CONN_LISTEN
    }
    assert places == {"127.0.0.1"}

    # Nor does the page answer to a name that somebody had lead here.
    asked = urllib.request.Request(served.address, headers={"Host": "evil.example"})
    assert status(asked) == 400
    assert status(urllib.request.Request(served.address)) == 200


def status(asked: urllib.request.Request) -> int:
    """The code of an answer."""
    try:
        with urllib.request.urlopen(asked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_ctrl_c_keeps_what_was_reached(chromium: Browser, served: Served) -> None:
    """Last, since nothing is served afterwards."""
    before = served.folders()
    opened = visit(chromium, served)
    opened.wish("a pink pig", 3000)
    opened.page.wait_for_selector(".dno-curve polyline")
    served.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert served.process.wait(60) in (0, 130)
    assert time.monotonic() - began < 30
    (name,) = served.folders() - before
    assert dno.open_run(served.runs / name).status == "stopped"
    opened.page.context.close()
