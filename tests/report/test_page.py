"""The page of a run: whole from whatever the folder holds, closed to whoever wrote that."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from distributions import Site
from PIL import Image
from reported import HOSTILE, Elements, kill, rename, run_toy

import dno as library
from dno.errors import RunError, RunFolderError
from dno.plugin import Medium, write_report
from dno.report.page import page_of, report
from dno.runs.saved import open_run
from dno.testing.toy import ToySampler


@pytest.fixture(autouse=True)
def _toy(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site.install_toy()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is that each test gets a copy of."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    if not kept.exists():
        run_toy(kept, ["a black cat", "a dog"], batch=2, monitor="contrast")
    shutil.copytree(kept, tmp_path / "home of me" / "run")
    return tmp_path / "home of me" / "run"


def page(*folders: Path) -> str:
    return page_of([open_run(folder) for folder in folders]).decode()


def addresses(elements: Elements) -> list[str]:
    """All that a browser might ask somebody for."""
    names = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    return [attrs[name] for _, attrs in elements.found for name in names if name in attrs]


def test_a_run_has_a_report_when_it_ends(run: Path) -> None:
    text = (run / "report.html").read_text()
    elements = Elements(text)
    for told in (
        "a black cat",
        "a dog",
        "seed 1",
        "finished",
        "brightness",
        "contrast",
        "held out",
    ):
        assert told in elements.text
    assert "dno optimize" in elements.text
    assert f"torch {torch.__version__.partition('+')[0]}" in elements.text
    facts = elements.facts(text)
    assert facts["at"] == [0, 1, 2, 3, 4]
    assert facts["frames"]["at"] == [0, 1, 2, 3, 4]
    assert len(facts["best"]) == 4
    history = open_run(run).history
    shown = facts["rows"]["climbed.brightness"]["at"]
    for record, values in zip(history, shown, strict=True):
        assert values == pytest.approx(record.rewards["brightness"], rel=1e-4)


def test_it_is_what_the_command_makes_of_the_folder(run: Path) -> None:
    """The page comes from files alone: later, elsewhere, and without the process that ran."""
    assert (run / "report.html").read_bytes() == page_of([open_run(run)])


def test_it_needs_nothing_and_asks_for_nothing(run: Path) -> None:
    text = page(run)
    elements = Elements(text)
    assert addresses(elements)
    assert all(address.startswith(("data:", "#")) for address in addresses(elements))
    (policy,) = [
        attrs["content"]
        for tag, attrs in elements.found
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, element in {"style-src": "style", "script-src": "script"}.items():
        (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    # Neither a style nor a handler in an attribute would be let through, so there must be none.
    assert not [attrs for _, attrs in elements.found if "style" in attrs]
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]


def test_it_says_nothing_of_the_machine(run: Path) -> None:
    values = tomllib.loads((run / "run.toml").read_text())
    secret = run.parent / "secret place"
    values["start"] = str(secret / "noise.safetensors")
    values["sampler"]["callback"] = "~/somebody/model"
    (run / "run.toml").write_text(tomli_w.dumps(values))
    result = json.loads((run / "result.json").read_text())
    result |= {
        "status": "failed",
        "error": f"{run}/best.png cannot be written: see C:\\Users\\me\\x.log or /var/log/me/x.log",
        "failures": {"1": f"{secret}/weights is damaged"},
    }
    (run / "result.json").write_text(json.dumps(result))
    text = page(run)
    for private in (str(run.parent), "home of me", "secret place", "somebody", "Users", "/var"):
        assert private not in text, private
    assert str(Path.home()) not in text
    for told in ("best.png cannot be written", "weights is damaged", "noise.safetensors", "x.log"):
        assert told in text


def test_a_prompt_keeps_its_slashes(tmp_path: Path) -> None:
    prompt = "/imagine a cat and/or dog in /usr/share style"
    assert prompt in Elements(page(run_toy(tmp_path / "run", prompt))).text


def test_what_a_stranger_wrote_is_shown_and_not_run(run: Path) -> None:
    values = tomllib.loads((run / "run.toml").read_text())
    values["prompts"] = [HOSTILE, f"{HOSTILE} 2"]
    values["sampler"]["model"] = HOSTILE
    values[HOSTILE] = HOSTILE
    (run / "run.toml").write_text(tomli_w.dumps(values))
    result = json.loads((run / "result.json").read_text())
    result |= {
        "reason": HOSTILE,
        "failures": {"0": HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "error": HOSTILE,
    }
    (run / "result.json").write_text(json.dumps(result))
    rename(run, "brightness", HOSTILE)
    rename(run, "p_mean", f"p_{HOSTILE}")
    moved = run.with_name("<img src=x onerror=alert(1)>")
    run.rename(moved)

    text = page(moved)
    elements = Elements(text)
    assert {tag for tag, _ in elements.found} & {"img", "script"} == {"img", "script"}
    assert all(address.startswith(("data:", "#")) for address in addresses(elements))
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]
    scripts = [attrs for tag, attrs in elements.found if tag == "script"]
    assert scripts == [{"type": "application/json", "data-facts": ""}, {}]
    assert "</script></style><img src=x onerror" in elements.text
    assert "{{7*7}}" in elements.text
    assert "\u202e" not in text
    assert "\\u202e" in text


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_a_killed_run_shows_how_far_it_came(run: Path, iterations: int) -> None:
    text = page(kill(run, iterations))
    elements = Elements(text)
    assert "not ended" in elements.text
    assert "dno resume run" in elements.text
    facts = elements.facts(text)
    assert facts["at"] == list(range(iterations))
    assert (facts["frames"] is None) == (iterations == 0)


def test_a_run_that_went_on_after_its_end_is_not_told_as_ended(run: Path) -> None:
    lines = (run / "history.jsonl").read_text().splitlines()
    more = {**json.loads(lines[-1]), "iteration": 5}
    (run / "history.jsonl").write_text("\n".join([*lines, json.dumps(more)]) + "\n")
    told = Elements(page(run)).text
    assert "not ended" in told
    assert "went on since" in told


def test_runs_without_frames_and_of_an_earlier_format_are_shown(run: Path) -> None:
    """What earlier versions did not write: frames, versions, figures, what was kept, media."""
    shutil.rmtree(run / "frames")
    result = json.loads((run / "result.json").read_text())
    for name in ("versions", "kept", "medium", "items", "error"):
        del result[name]
    for name in ("initial", "best", "last"):
        del result[name]["figures"]
    (run / "result.json").write_text(json.dumps(result))
    text = page(run)
    elements = Elements(text)
    assert "No frames were kept" in elements.text
    assert "versions it ran with were not recorded" in elements.text
    shots = [attrs for tag, attrs in elements.found if tag == "img"]
    assert [shot["data-shot"] for shot in shots].count("best") == 4
    assert elements.facts(text)["frames"] is None


@dataclass(frozen=True)
class Damage:
    """Something that is wrong with a folder, and what the page says of it."""

    name: str
    data: bytes
    told: str = ""
    gone: tuple[str, ...] = field(default=())


DAMAGES = [
    Damage("history.jsonl", b"{}\n", "history.jsonl is damaged"),
    Damage("history.jsonl", b"", "brightness 0."),
    Damage("result.json", b"[]", "result.json is damaged", ("finished",)),
    Damage("result.json", b"{", "result.json is damaged"),
    Damage("best-0.png", b"\x89PNG\r\n\x1a\n" + b"\xff" * 99, "finished"),
    Damage("best-1.png", b"GIF89a", "finished"),
    Damage("frames/000002.webp", b"RIFF", "finished"),
    Damage("frames/000000.webp", b"", "finished"),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage.name}-{damage.data[:4]!r}")
def test_a_damaged_file_leaves_the_rest_to_be_seen(run: Path, damage: Damage) -> None:
    (run / damage.name).write_bytes(damage.data)
    if damage.name == "history.jsonl" and not damage.data:
        damage = Damage(damage.name, b"", "not ended")
    told = Elements(page(run)).text
    assert damage.told in told
    assert "a black cat" in told
    for word in damage.gone:
        assert word not in told


def test_a_link_is_not_shown(run: Path, tmp_path: Path) -> None:
    """What somebody hands on shows nothing that was not in the folder itself."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4), "red").save(secret)
    (run / "best-0.png").unlink()
    (run / "best-0.png").symlink_to(secret)
    (run / "frames").rename(tmp_path / "frames")
    (run / "frames").symlink_to(tmp_path / "frames")
    text = page(run)
    elements = Elements(text)
    assert elements.facts(text)["frames"] is None
    best = [attrs for tag, attrs in elements.found if attrs.get("data-shot") == "best"]
    assert [attrs["data-item"] for attrs in best] == ["1", "2", "3"]


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_report_is_not_written_through_a_link(run: Path, tmp_path: Path, link: str) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    (run / "report.html").unlink()
    if link == "symbolic":
        (run / "report.html").symlink_to(mine)
    else:
        os.link(mine, run / "report.html")
    write_report(run)
    assert mine.read_text() == "mine"
    assert "<!doctype html>" in (run / "report.html").read_text()


def test_several_runs_stand_side_by_side_on_one_scale(run: Path, tmp_path: Path) -> None:
    other = run_toy(tmp_path / "other", "a fox", reward=[("brightness", 2.0)], iterations=7)
    path = report([run, other])
    assert path == Path("report.html")
    text = path.read_text()
    elements = Elements(text)
    assert elements.text.count("data-run") == 0
    assert len([1 for _, attrs in elements.found if "data-run" in attrs]) == 2
    (slider,) = [attrs for tag, attrs in elements.found if tag == "input"]
    assert slider["max"] == "7"
    scales = re.findall(
        r'data-keys="\[&#34;climbed.brightness&#34;\]".*?<div class="ticks y"[^>]*>(.*?)</div>',
        text,
        re.S,
    )
    assert len(scales) == 2
    assert len(set(scales)) == 1


def test_nothing_but_a_report_of_ours_is_replaced(run: Path, tmp_path: Path) -> None:
    page_file = tmp_path / "page.html"
    report([run], page_file)
    first = page_file.stat().st_ino
    report([run], page_file)
    assert page_file.stat().st_ino != first
    page_file.write_text("<!doctype html><p>mine</p>")
    with pytest.raises(RunFolderError, match="page.html is there and no report of dno's; name"):
        report([run], page_file)
    with pytest.raises(RunFolderError, match="is in the way: it is a folder"):
        report([run], tmp_path)


def test_what_is_no_run_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run.toml"):
        report([tmp_path])


def test_more_samples_than_any_run_has_are_refused(run: Path) -> None:
    values = tomllib.loads((run / "run.toml").read_text())
    values |= {"prompts": ["a cat"] * 9999, "seeds": list(range(9999))}
    (run / "run.toml").write_text(tomli_w.dumps(values))
    with pytest.raises(RunFolderError, match="names 99,980,001 samples, more than a report"):
        page(run)


def test_a_long_run_of_many_samples_stays_small(run: Path) -> None:
    """Lines are thinned, keeping their ends and extremes; numbers are those of fewer iterations."""
    first = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    lines = []
    for i in range(5000):
        values = [math.sin(i / 50 + sample) for sample in range(4)]
        values[0] = 99.0 if i == 2345 else values[0]
        lines.append(json.dumps({**first, "iteration": i, "rewards": {"brightness": values}}))
    (run / "history.jsonl").write_text("\n".join(lines) + "\n")
    result = json.loads((run / "result.json").read_text())
    result["iterations"] = 4999
    result["best"]["iteration"] = [2345, 1, 2, 3]
    (run / "result.json").write_text(json.dumps(result))
    text = page(run)
    facts = Elements(text).facts(text)
    assert len(text) < 1_500_000
    assert {0, 1, 2, 3, 2345, 4999} <= set(facts["at"])
    assert len(facts["at"]) <= 410
    assert ">100</span>" in text


def test_a_run_that_cannot_write_its_report_has_ended_as_it_did(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".DS_Store").touch()

    def blocking(event: Any) -> None:
        (tmp_path / "run" / "report.html").mkdir(exist_ok=True)

    result = library.optimize(
        "a cat",
        reward="brightness",
        sampler="toy",
        iterations=1,
        callback=blocking,
        out=tmp_path / "run",
    )
    assert result.status == "finished"
    assert "there is no report: RunError: " in caplog.text
    assert "report.html cannot be written" in caplog.text


def test_a_page_that_cannot_be_made_fails_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(history: Any, told: Any) -> Any:
        raise ZeroDivisionError("a row of nothing")

    monkeypatch.setattr("dno.report.gathered.rows_of", broken)
    run_toy(tmp_path / "run")
    assert open_run(tmp_path / "run").status == "finished"
    assert "there is no report: ZeroDivisionError: a row of nothing" in caplog.text


@pytest.mark.parametrize("status", ["failed", "interrupted", "partial"])
def test_a_run_that_ended_badly_has_a_report_too(tmp_path: Path, status: str) -> None:
    calls = 0

    def failing(images: torch.Tensor, prompts: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 2 and status == "failed":
            raise RunError("the reward is out of order")
        if calls > 2 and status == "interrupted":
            raise KeyboardInterrupt
        values = images.mean(dim=(1, 2, 3))
        sick = torch.tensor([prompt == "a dog" and status == "partial" for prompt in prompts])
        return values.masked_fill(sick, math.nan)

    result = library.optimize(
        ["a cat", "a dog"], reward=failing, sampler="toy", iterations=4, out=tmp_path / "run"
    )
    assert result.status == status
    told = Elements((tmp_path / "run" / "report.html").read_text()).text
    assert status in told
    assert "its script repeats it" in told
    if status == "failed":
        assert "the reward is out of order" in told


@dataclass(frozen=True)
class Moving:
    """Samples of another medium than images, of the toy's noise."""

    images: Any
    medium: Medium

    def __call__(self, noise_BN: torch.Tensor) -> torch.Tensor:
        images = self.images(noise_BN)
        if self.medium.kind == "video":
            return torch.stack([images, images.flip(3), images], dim=1)
        if self.medium.kind == "audio":
            return images.flatten(2) * 2 - 1
        return images.flatten(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images, name)


@dataclass(frozen=True)
class MovingSampler:
    medium: Medium

    def bind(self, prompts: Any, seeds: Any) -> Moving:
        return Moving(ToySampler().bind(prompts, seeds), self.medium)


@pytest.mark.parametrize("kind", ["video", "audio", "other"])
def test_videos_and_sounds_are_shown_as_elsewhere(tmp_path: Path, kind: Any) -> None:
    def mean(samples: torch.Tensor, prompts: Any) -> torch.Tensor:
        return samples.flatten(1).mean(dim=1)

    library.optimize(
        ["a cat", "a dog"],
        reward=mean,
        sampler=MovingSampler(Medium(kind, rate=8)),
        seed=5,
        iterations=2,
        out=tmp_path / "run",
    )
    text = page(tmp_path / "run")
    elements = Elements(text)
    shots = [attrs for tag, attrs in elements.found if tag == "img"]
    frames = elements.facts(text)["frames"]
    if kind == "other":
        assert shots == []
        assert frames is None
        assert "There are no pictures" in elements.text
        return
    width, height = {"video": (8, 8), "audio": (256, 64)}[kind]
    assert [shot["data-shot"] for shot in shots].count("best") == 2
    assert {(shot["width"], shot["height"]) for shot in shots} == {(str(width), str(height))}
    assert (frames["width"], frames["height"]) == (width, height)
    assert frames["at"] == [0, 1, 2]
