"""The page of `dno ui` in a real browser, served by a wheel of the plugin."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest
from pages import (
    Served,
    ask_for_four,
    dno_ui,
    serving,
    status,
    visit,
    wait_for_four,
)
from PIL import Image
from playwright.sync_api import Browser, expect
from reported import HOSTILE
from warm import start

import dno
from dno.plugin import Option

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EVIL = (
    HOSTILE + "${window.owned=3}{{window.owned=4}}<img src=x onerror=window.owned=5>../../../evil"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("studio")
    with serving(place, dno_ui("--port", "0", "--runs", "mine"), place / "mine") as server:
        assert server.address.startswith("http://127.0.0.1:")
        yield server


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


def pixels(folder: Path) -> bytes:
    with Image.open(folder / "best.png") as picture:
        return picture.convert("RGB").tobytes()


def test_five_picks_and_the_command_that_draws_the_last_one_again(
    chromium: Browser, served: Served, warm: Path, tmp_path: Path
) -> None:
    before = served.folders()
    opened = visit(chromium, served)
    ask_for_four(opened, "a blue fish", seed=40)
    assert len(served.folders() - before) == 4
    sources = set()
    for number in range(5):
        shots = opened.page.locator("#board .dno-shot img")
        sources |= {shots.nth(i).get_attribute("src") for i in range(4)}
        if number % 2:
            opened.page.keyboard.press(str(number))
        else:
            opened.page.locator(f'.dno-shot[data-number="{number % 4 + 1}"]').click()
        opened.page.wait_for_selector(f'#board [data-picks="{number + 1}"]')
        wait_for_four(opened, number + 1)
        if (folder := os.environ.get("DNO_STUDIO_SHOTS")) and number == 2:
            opened.page.screenshot(path=f"{folder}/pick.png")
    assert len(sources) == 20
    told = opened.page.locator("#board .dno-learnt").inner_text()
    assert re.search(r"5 picks; the picks before each foresaw [0-4] of 4", told)
    assert re.search(r"gives its favourite [2-9]\d%|100%", told)

    (file,) = (served.runs / "picks").glob("*-a-blue-fish-*.jsonl")
    lines = file.read_text().splitlines()
    assert len(lines) == 6
    assert all(len(json.loads(line)["others"]) == 3 for line in lines[1:])
    names = served.folders() - before - {"picks"}
    runs = {name: dno.open_run(served.runs / name) for name in names}
    assert len(runs) == 24
    assert {str(run.status) for run in runs.values()} == {"finished"}
    assert all(run.resumable for run in runs.values())
    assert {run.items[0][1] for run in runs.values()} == {*range(40, 64)}
    # Three of each four climb, one of them from the noise that was picked.
    last = [run for run in runs.values() if run.items[0][1] >= 60]
    assert sorted(len(run.history) for run in last)[0] == 1
    assert sum("start" in run.values for run in last) == 1
    with opened.page.expect_download() as download:
        opened.page.locator(".dno-kept a").click()
    assert download.value.path().read_bytes() == file.read_bytes()

    command = opened.page.locator(".dno-command").first.inner_text()
    anew = opened.page.locator(".dno-command").nth(1).inner_text()
    assert "rewards.0.lines=6 --model emoji" in anew
    picked = opened.page.locator(".dno-kept code").nth(1).inner_text()
    words = shlex.split(command)
    assert words[:2] == ["dno", "optimize"]
    assert f"rewards.0.file=mine/picks/{file.name}" in words
    assert "rewards.0.lines=5" in words
    again = [*words[1:], "--out", str(tmp_path / "again"), "--quiet"]
    assert start(warm, *again, folder=served.runs.parent).wait() == 0
    assert pixels(tmp_path / "again") == pixels(served.runs / picked)
    # The run folder by itself says the same.
    assert runs[picked].values["rewards"][0]["lines"] == 5
    opened.check(served)


def test_undo_shows_what_was_there_and_takes_the_pick_back(
    chromium: Browser, served: Served
) -> None:
    opened = visit(chromium, served)
    ask_for_four(opened, "a small snail", seed=3, iterations=1)
    shots = opened.page.locator("#board .dno-shot img")
    first = [shots.nth(i).get_attribute("src") for i in range(4)]
    expect(opened.page.locator("#pick-undo")).to_be_disabled()
    opened.page.locator('.dno-shot[data-number="2"]').click()
    wait_for_four(opened, 1)
    opened.page.locator("#pick-undo").click()
    wait_for_four(opened, 0)
    assert [shots.nth(i).get_attribute("src") for i in range(4)] == first
    # While the next are drawn, too.
    opened.page.keyboard.press("3")
    opened.page.wait_for_selector('#board [data-picks="1"]')
    opened.page.locator("#pick-undo").click()
    wait_for_four(opened, 0)
    assert [shots.nth(i).get_attribute("src") for i in range(4)] == first
    opened.page.keyboard.press("4")
    wait_for_four(opened, 1)
    (file,) = (served.runs / "picks").glob("*-a-small-snail-*.jsonl")
    undone = ["undo" in line for line in file.read_text().splitlines()[1:]]
    assert undone == [False, True, False, True, False]
    # A number that is written into a field picks nothing.
    opened.fill("pick-seed", 1234)
    expect(opened.page.locator("#board [data-picks]")).to_have_attribute("data-picks", "1")
    opened.check(served)


def test_two_people_who_pick_have_files_of_their_own(chromium: Browser, served: Served) -> None:
    one = visit(chromium, served)
    other = visit(chromium, served)
    ask_for_four(one, "a red apple", seed=7, iterations=1)
    ask_for_four(other, "a red apple", seed=7, iterations=1)
    one.page.keyboard.press("1")
    other.page.keyboard.press("2")
    wait_for_four(one, 1)
    wait_for_four(other, 1)
    files = [*(served.runs / "picks").glob("*-a-red-apple-*.jsonl")]
    chosen = [json.loads(file.read_text().splitlines()[1])["chosen"] for file in files]
    assert len(chosen) == 2
    assert chosen[0] != chosen[1]
    expect(one.page.locator("#board [data-picks]")).to_have_attribute("data-picks", "1")
    for person in (one, other):
        person.check(served)


def test_pictures_that_are_stopped_can_be_picked_from(chromium: Browser, served: Served) -> None:
    opened = visit(chromium, served)
    ask_for_four(opened, "a brown owl", seed=5, iterations=3000)
    opened.page.keyboard.press("1")
    opened.page.wait_for_selector("#board .dno-coming")
    opened.page.locator("#pick-stop").click()
    state = opened.page.locator("#board .dno-state")
    expect(state).to_have_attribute("data-phase", "ended")
    # What leads on is said.
    expect(state).to_have_text(
        'Stopped. Undo the last pick to pick another, or begin anew: "Four pictures".'
    )
    opened.page.locator("#pick-undo").click()
    wait_for_four(opened, 0)
    opened.check(served)


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines())


UNDO_AND_PICK = """() => {
  const shot = () => document.querySelector('.dno-shot[data-number="1"]:enabled');
  document.querySelector("#pick-undo").click();
  const look = () => shot() ? shot().click() : setTimeout(look, 1);
  look();
}"""


def test_a_pick_right_after_an_undo_counts(chromium: Browser, served: Served) -> None:
    opened = visit(chromium, served)
    other = visit(chromium, served)
    ask_for_four(opened, "a grey mouse", seed=11, iterations=1)
    other.wish("a long road", 3000)
    other.wait_for("running")
    # What is picked for waits in the line, where nothing wakes those that watch it.
    opened.page.keyboard.press("1")
    opened.page.wait_for_selector('#board [data-phase="waiting"]')
    for undone in (1, 2, 3):
        opened.page.evaluate(UNDO_AND_PICK)
        (file,) = (served.runs / "picks").glob("*-a-grey-mouse-*.jsonl")
        until = time.monotonic() + 10
        while lines_of(file) < 2 + 2 * undone and time.monotonic() < until:
            opened.page.wait_for_timeout(50)
        assert lines_of(file) == 2 + 2 * undone
        opened.page.wait_for_selector('#board [data-phase="waiting"]', timeout=10_000)
    other.page.locator("#stop").click()
    other.wait_for("ended")
    opened.check(served)


def test_pictures_come_back_where_a_click_is_not_answered(
    chromium: Browser, served: Served
) -> None:
    opened = visit(chromium, served)
    ask_for_four(opened, "a lost letter", seed=12, iterations=1)
    opened.page.route("**/queue/join*", lambda route: None)
    opened.page.keyboard.press("2")
    expect(opened.page.locator("#board .dno-shot:disabled")).to_have_count(4)
    expect(opened.page.locator("#board .dno-shot:enabled")).to_have_count(4, timeout=10_000)
    expect(opened.page.locator("#board .dno-picked")).to_have_count(0)
    opened.page.unroute("**/queue/join*")
    opened.page.keyboard.press("2")
    wait_for_four(opened, 1)
    opened.check(served)


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
    board = importlib.import_module("dno_studio._board")
    job = importlib.import_module("dno_studio._job")
    option = Option(EVIL, EVIL, EVIL, EVIL)
    view = job.View(job.Phase.ENDED, 1, (0.1, 0.2), folder=Path(EVIL), told=EVIL, failed=True)
    pieces = [
        html.note(EVIL),
        html.plugin(EVIL, EVIL, EVIL, [option]),
        html.progress(view, 0),
        html.frame(f'">{EVIL}'),
        board.board(view, 0, 4, can_pick=False, can_undo=True),
        board.kept(Path(EVIL), EVIL, EVIL, EVIL, Path(), whole=True, saved=True),
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
