"""Reports in a real browser, opened from a file, without a network."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from distributions import Site
from playwright.sync_api import Browser, Page
from reported import HOSTILE, kill, rename, run_toy

import dno as library
from dno.report.page import report

pytestmark = pytest.mark.slow


@dataclass
class Watched:
    """A page, and what it did that no report may do."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Of the console, and errors of scripts."""
    asked: list[str] = field(default_factory=list)
    """Addresses that it wanted, its own file apart."""

    def number(self) -> int:
        """Where the slider stands."""
        return int(self.page.locator("[data-slider]").input_value())

    def picture(self) -> str:
        """What is to be seen in the middle, as text."""
        seen = "() => document.querySelector('[data-frame=now] canvas').toDataURL()"
        return str(self.page.evaluate(seen))

    def value(self, row: str) -> str:
        """A number at the slider."""
        return self.page.locator(f'[data-row="{row}"] [data-now]').inner_text()


@pytest.fixture
def toy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs on the sampler `toy` are made."""
    site.install_toy()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(chromium: Browser, path: Path, **how: Any) -> Watched:
    """A report, open."""
    page = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}, **how}).new_page()
    watched = Watched(page)
    page.on("console", lambda message: watched.complaints.append(message.text))
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith("data:") else watched.asked.append(request.url)
        ),
    )
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("body.live")
    return watched


def check_quiet(watched: Watched, path: Path) -> None:
    assert watched.complaints == []
    assert watched.asked == [path.resolve().as_uri()]


def test_the_slider_moves_pictures_numbers_and_cursors(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run", iterations=6) / "report.html"
    watched = shown(chromium, path)
    lines = (toy / "run" / "history.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    pictures, values, cursors = [], [], []
    for iteration in range(7):
        watched.page.locator("[data-slider]").fill(str(iteration))
        pictures.append(watched.picture())
        values.append(watched.value("climbed.brightness"))
        cursors.append(watched.page.locator(".plot .cursor").first.get_attribute("x1"))
    assert len(set(pictures)) == 7
    assert values == [f"{one['rewards']['brightness'][0]:.4g}" for one in records]
    assert [round(float(x or "nan")) for x in cursors] == [round(i / 6 * 1000) for i in range(7)]
    assert watched.page.locator("[data-now-title]").inner_text() == "iteration 6"
    check_quiet(watched, path)


def test_keys_step_and_play(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run", iterations=6) / "report.html"
    watched = shown(chromium, path)
    keyboard = watched.page.keyboard
    assert watched.number() == 6
    keyboard.press("Home")
    assert watched.number() == 0
    for _ in range(3):
        keyboard.press("ArrowRight")
    keyboard.press("ArrowLeft")
    assert watched.number() == 2
    keyboard.press("Shift+ArrowRight")
    assert watched.number() == 6

    # On the slider itself, keys do no more than elsewhere.
    watched.page.locator("[data-slider]").focus()
    keyboard.press("ArrowLeft")
    assert watched.number() == 5

    keyboard.press("Home")
    keyboard.press(" ")
    assert watched.page.locator("[data-play]").get_attribute("aria-label") == "Pause"
    watched.page.wait_for_function("() => document.querySelector('[data-slider]').value === '6'")
    assert watched.page.locator("[data-play]").get_attribute("aria-label") == "Play"
    watched.page.locator("[data-play]").click()
    watched.page.wait_for_function("() => document.querySelector('[data-slider]').value === '2'")
    keyboard.press(" ")
    stopped = watched.number()
    watched.page.wait_for_timeout(500)
    assert watched.number() == stopped
    check_quiet(watched, path)


def test_a_chart_is_a_slider_too(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run", iterations=8) / "report.html"
    watched = shown(chromium, path)
    box = watched.page.locator(".plot svg").first.bounding_box()
    assert box is not None
    watched.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    watched.page.mouse.down()
    assert watched.number() == 2
    watched.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20)
    assert watched.number() == 6
    watched.page.mouse.up()
    check_quiet(watched, path)


def test_samples_are_chosen(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run", ["a cat", "a dog"], batch=2) / "report.html"
    watched = shown(chromium, path)
    buttons = watched.page.locator("[data-choose]")
    assert buttons.count() == 4
    best, prompts = [], []
    for i in range(4):
        buttons.nth(i).click()
        prompts.append(watched.page.locator(".prompt:visible").inner_text())
        best.append(watched.page.locator("[data-frame=best] img:visible").get_attribute("src"))
        lines = watched.page.locator(".kind-climbed path.line:not(.other)")
        assert lines.evaluate_all("(all) => all.map((one) => one.dataset.sample)") == [str(i)]
    assert prompts == ["a cat", "a cat", "a dog", "a dog"]
    # The sampler draws the same from a seed, whatever the prompt.
    assert best[:2] == best[2:]
    assert best[0] != best[1]
    # The button has the focus, and the keys are the slider's all the same.
    watched.page.keyboard.press("ArrowLeft")
    assert watched.number() == 3
    assert buttons.nth(3).get_attribute("aria-pressed") == "true"
    check_quiet(watched, path)


def test_what_a_stranger_wrote_does_nothing(chromium: Browser, toy: Path) -> None:
    run = run_toy(toy / "run", ["a cat", "a dog"])
    values = tomllib.loads((run / "run.toml").read_text())
    values["prompts"] = [HOSTILE, "a dog"]
    values["sampler"]["model"] = HOSTILE
    (run / "run.toml").write_text(tomli_w.dumps(values))
    result = json.loads((run / "result.json").read_text())
    result |= {"failures": {"0": HOSTILE}, "versions": {HOSTILE: HOSTILE}, "reason": HOSTILE}
    (run / "result.json").write_text(json.dumps(result))
    rename(run, "brightness", HOSTILE)
    rename(run, "p_mean", f"p_{HOSTILE}")
    path = report([run])
    watched = shown(chromium, path)
    watched.page.keyboard.press("Home")
    watched.page.locator("[data-choose]").nth(1).click()
    watched.page.locator("[data-choose]").nth(0).click()
    assert HOSTILE[:20] in watched.page.locator(".prompt:visible").inner_text()
    assert watched.page.evaluate("() => window.owned") is None
    assert watched.page.locator("img:not([data-shot])").count() == 0
    check_quiet(watched, path)


def test_the_policy_stops_what_would_slip_through(chromium: Browser, toy: Path) -> None:
    """Were anything ever written unescaped, it would still not run."""
    path = run_toy(toy / "run") / "report.html"
    attack = '<img src=x onerror="window.owned=1"><script>window.owned=2</script>'
    page = path.read_text().replace("<main>", f"<main>{attack}")
    path.write_text(page)
    watched = shown(chromium, path)
    watched.page.wait_for_timeout(300)
    assert watched.page.evaluate("() => window.owned") is None
    assert "Content Security Policy" in "".join(watched.complaints)


def test_a_run_that_was_killed_at_once_is_told(chromium: Browser, toy: Path) -> None:
    path = report([kill(run_toy(toy / "run"), 0)])
    page = chromium.new_page()
    page.goto(path.resolve().as_uri())
    assert "not ended" in page.inner_text("main")


def test_a_killed_run_shows_its_frames(chromium: Browser, toy: Path) -> None:
    path = report([kill(run_toy(toy / "run"), 3)])
    watched = shown(chromium, path)
    assert watched.number() == 2
    last = watched.picture()
    watched.page.keyboard.press("Home")
    assert watched.picture() != last
    for name in ("plain", "best"):
        assert watched.page.locator(f"[data-frame={name}] canvas").is_visible()
    check_quiet(watched, path)


def test_several_runs_move_together(chromium: Browser, toy: Path) -> None:
    runs = [run_toy(toy / "one", iterations=3), run_toy(toy / "two", "a fox", iterations=6)]
    path = report(runs)
    watched = shown(chromium, path)
    titles = watched.page.locator("[data-now-title]")
    assert titles.all_inner_texts() == ["iteration 3", "iteration 6"]
    watched.page.keyboard.press("Home")
    watched.page.keyboard.press("ArrowRight")
    assert titles.all_inner_texts() == ["iteration 1", "iteration 1"]
    check_quiet(watched, path)


def test_the_command_is_copied(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run") / "report.html"
    watched = shown(chromium, path, permissions=["clipboard-read", "clipboard-write"])
    watched.page.locator("[data-copy]").click()
    watched.page.wait_for_function(
        "() => ['Copied', 'Marked'].includes(document.querySelector('[data-copy]').textContent)"
    )
    command = watched.page.locator("[data-command]").inner_text()
    told = "'a black cat' --reward brightness --sampler toy --iterations 4 --coarse none"
    assert command == f"dno optimize {told}"
    assert watched.page.evaluate("() => navigator.clipboard.readText()") == command
    check_quiet(watched, path)


SIZES = {"phone": (360, 700), "tablet": (800, 1100), "screen": (1600, 1000)}


@pytest.mark.parametrize(
    ("size", "scheme"), [("phone", "light"), ("tablet", "dark"), ("screen", "light")]
)
def test_nothing_sticks_out_and_words_can_be_read(
    chromium: Browser, toy: Path, size: str, scheme: Any
) -> None:
    prompt = "a very long word: " + "Donaudampfschiff" * 12
    run = run_toy(toy / "run", [prompt, "a dog"], batch=3)
    path = report([run])
    width, height = SIZES[size]
    viewport = {"width": width, "height": height}
    watched = shown(chromium, path, viewport=viewport, color_scheme=scheme)
    wide = watched.page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= width
    contrasts = watched.page.evaluate(CONTRASTS)
    assert contrasts
    assert min(contrasts.values()) >= 4.5, contrasts
    check_quiet(watched, path)


CONTRASTS = """() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    const parts = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const names = ["--ink", "--quiet", "--accent", "--held", "--noise", "--cost", "--good", "--bad"];
  const style = getComputedStyle(document.documentElement);
  const found = {};
  for (const name of names) {
    for (const ground of ["--page", "--card"]) {
      const both = [light(style.getPropertyValue(name)), light(style.getPropertyValue(ground))];
      both.sort((one, other) => other - one);
      found[name + ground] = (both[0] + 0.05) / (both[1] + 0.05);
    }
  }
  return found;
}"""


def test_it_prints_whole_and_without_its_controls(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run") / "report.html"
    watched = shown(chromium, path)
    watched.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    watched.page.emulate_media(media="print")
    assert watched.page.locator("details:not([open])").count() == 0
    assert not watched.page.locator("[data-transport]").is_visible()
    assert watched.page.locator("dl").first.is_visible()
    assert watched.page.pdf(print_background=False).startswith(b"%PDF")
    # Printing tells the page itself, too.
    assert watched.page.locator("details:not([open])").count() > 0
    check_quiet(watched, path)


def test_without_scripts_it_still_tells_the_run(chromium: Browser, toy: Path) -> None:
    path = run_toy(toy / "run") / "report.html"
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    assert page.locator(".prompt").inner_text() == "a black cat"
    assert page.locator("[data-frame=best] img").is_visible()
    assert page.locator(".charts").first.is_visible()
    assert not page.locator("[data-transport]").is_visible()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where studies are that tests get copies of."""
    return tmp_path_factory.mktemp("kept")


Study = Callable[[list[Any]], Path]


@pytest.fixture
def study(kept: Path, toy: Path) -> Study:
    """The page of a study of some prompts, made once for all tests that ask for the same."""

    def copied(prompts: list[Any]) -> Path:
        made = kept / hashlib.sha256(json.dumps(prompts).encode()).hexdigest()[:16]
        if not made.exists():
            wanted = {"reward": "brightness", "monitor": "contrast", "iterations": 2}
            library.batch(prompts, sampler="toy", seeds=[2, 10, 0], out=made, **wanted)
        shutil.copytree(made, toy / "study")
        return toy / "study" / "report.html"

    return copied


def cards(watched: Watched) -> list[tuple[str, str]]:
    """Prompt with seed, and gain, of what is to be seen, in order.

    By what the page holds: the browser leaves out the drawing of cards beyond the screen, and
    has no drawn text ("inner text") of one that it has just moved.
    """
    found = watched.page.locator(".card:not([hidden])")
    words = found.locator("[data-words]").all_text_contents()
    told = found.locator("[data-told]:not([hidden]) b").all_text_contents()
    return list(zip(words, told, strict=True))


def test_items_of_a_study_are_ordered_and_filtered(chromium: Browser, study: Study) -> None:
    path = study(["a cat", "a dog"])
    watched = shown(chromium, path)
    gains = [float(gain.replace("−", "-")) for _, gain in cards(watched)]
    assert gains == sorted(gains, reverse=True)
    turn = watched.page.locator("[data-turn]")
    assert turn.inner_text() == "most first"
    turn.click()
    assert turn.inner_text() == "least first"
    assert [float(gain.replace("−", "-")) for _, gain in cards(watched)] == sorted(gains)

    by = watched.page.locator("[data-sort]")
    by.select_option(label="gain in contrast")
    held_out = [float(gain.replace("−", "-")) for _, gain in cards(watched)]
    assert held_out == sorted(held_out, reverse=True)
    assert held_out != gains
    by.select_option(label="seed")
    seeds = [words.rpartition(" ")[2] for words, _ in cards(watched)]
    assert seeds == ["0", "0", "2", "2", "10", "10"]
    by.select_option(label="prompt")
    prompts = [words.partition(" seed")[0] for words, _ in cards(watched)]
    assert prompts == ["a cat"] * 3 + ["a dog"] * 3

    watched.page.locator("[data-filter]").fill("DOG  10")
    assert [words for words, _ in cards(watched)] == ["a dog seed 10"]
    assert watched.page.locator("[data-count]").inner_text() == "1 of 6"
    assert watched.page.locator(".card:visible").count() == 1
    watched.page.locator("[data-filter]").fill("a whale")
    assert cards(watched) == []
    assert watched.page.locator(".card:visible").count() == 0
    assert watched.page.locator("[data-nothing]").is_visible()
    watched.page.locator("[data-filter]").fill("")
    assert len(cards(watched)) == 6
    check_quiet(watched, path)


def test_an_item_of_a_study_is_one_click_away(chromium: Browser, study: Study) -> None:
    path = study(["a cat & a dog #1?"])
    watched = shown(chromium, path)
    words, _ = cards(watched)[0]
    # The whole card leads there, not its words alone.
    watched.page.locator(".card").first.click(position={"x": 20, "y": 20})
    watched.page.wait_for_selector("[data-slider]")
    assert watched.page.locator(".prompt:visible").inner_text() == "a cat & a dog #1?"
    assert words.rpartition(" ")[2] in watched.page.locator("header").inner_text()
    assert watched.complaints == []


def test_a_study_of_a_stranger_does_nothing(chromium: Browser, study: Study) -> None:
    path = study(["a cat", "a dog"])
    folder = path.parent
    for item in (folder / "items").iterdir():
        values = tomllib.loads((item / "run.toml").read_text())
        values |= {"prompts": [HOSTILE], "start": HOSTILE}
        (item / "run.toml").write_text(tomli_w.dumps(values))
        rename(item, "brightness", HOSTILE)
    line = {"item": HOSTILE, "error": HOSTILE}
    (folder / "failed.jsonl").write_text(json.dumps(line))
    (folder / "batch.toml").write_text(tomli_w.dumps({"asked": [{"item": "x<img src=x>"}]}))
    report([folder])
    watched = shown(chromium, path)
    watched.page.locator("[data-filter]").fill("<img")
    watched.page.locator("[data-turn]").click()
    assert HOSTILE[:20] in cards(watched)[0][0]
    assert watched.page.evaluate("() => window.owned") is None
    assert watched.page.locator("img:not([src^='data:'])").count() == 0
    check_quiet(watched, path)


@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("screen", "light")])
def test_nothing_of_a_study_sticks_out(
    chromium: Browser, study: Study, size: str, scheme: Any
) -> None:
    rows = [
        {"prompt": "a very long word: " + "Donaudampfschiff" * 12, "optimizer.step": step}
        for step in (1.0, 2.0)
    ]
    path = study(rows)
    width, height = SIZES[size]
    viewport = {"width": width, "height": height}
    watched = shown(chromium, path, viewport=viewport, color_scheme=scheme)
    assert watched.page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert watched.page.locator(".board table").is_visible()
    check_quiet(watched, path)


def test_a_study_prints_whole_and_is_told_without_scripts(chromium: Browser, study: Study) -> None:
    path = study(["a cat", "a dog"])
    watched = shown(chromium, path)
    watched.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    watched.page.emulate_media(media="print")
    assert watched.page.locator("details:not([open])").count() == 0
    assert not watched.page.locator(".toolbar").is_visible()
    assert watched.page.pdf().startswith(b"%PDF")
    check_quiet(watched, path)

    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(path.resolve().as_uri())
    assert page.locator(".card:visible").count() == 6
    assert page.locator(".spread").first.is_visible()
    assert not page.locator(".toolbar").is_visible()
