"""`dno report`, and runs with and without one."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from distributions import Site

Command: TypeAlias = Callable[..., tuple[int, str, str]]
TOY = ["--sampler", "toy", "--reward", "brightness", "--quiet", "--iterations", 2]


@pytest.fixture(autouse=True)
def _toy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install_toy()
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)


def test_a_run_says_where_its_report_is(dno: Command) -> None:
    code, out, err = dno("optimize", "a cat", *TOY, "--out", "run")
    assert (code, err) == (0, "")
    assert str(Path("run") / "report.html") in out.splitlines()
    assert len(list(Path("run/frames").iterdir())) == 3
    saved = tomllib.loads(Path("run/run.toml").read_text())
    assert [part["use"] for part in saved["observers"]] == ["curve", "frames", "report"]


def test_a_run_goes_without_a_report_where_none_is_wanted(dno: Command) -> None:
    code, out, err = dno("optimize", "a cat", *TOY, "--no-report", "--out", "run")
    assert (code, err) == (0, "")
    assert "report" not in out
    assert not Path("run/report.html").exists()
    assert not Path("run/frames").exists()
    # One is made afterwards, of what there is.
    assert dno("report", "run") == (0, f"{Path('run') / 'report.html'}\n", "")
    assert "No frames were kept" in Path("run/report.html").read_text()


def test_a_resumed_run_has_a_new_report(dno: Command) -> None:
    dno("optimize", "a cat", *TOY, "--out", "run")
    before = Path("run/report.html").read_text()
    assert dno("resume", "run", "--iterations", 4)[0] == 0
    after = Path("run/report.html").read_text()
    assert 'max="2"' in before
    assert 'max="4"' in after
    assert len(list(Path("run/frames").iterdir())) == 5


def test_several_runs_are_put_into_one_page_where_one_is(dno: Command) -> None:
    for name in ("one", "two"):
        dno("optimize", "a cat", *TOY, "--no-report", "--out", name)
    assert dno("report", "one", "two") == (0, "report.html\n", "")
    assert dno("report", "one", "two", "--out", "both/page.html")[0] == 0
    assert Path("both/page.html").read_text().count(" data-run>") == 2
    assert not Path("one/report.html").exists()


def test_it_is_opened_where_that_is_asked(dno: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def remember(address: str) -> bool:
        opened.append(address)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", remember)
    dno("optimize", "a cat", *TOY, "--out", "run")
    assert dno("report", "run", "--open")[0] == 0
    assert opened == [Path("run/report.html").resolve().as_uri()]
    code, _, err = dno("report", "run", "--open")
    assert (code, err) == (0, "dno: there is no browser to open it with\n")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nowhere"], "nowhere holds no run.toml, so it is not a run folder"),
        (["run", "--out", "mine.txt"], "mine.txt is there and no report of dno's; name another"),
        ([], "Missing argument 'RUN'"),
    ],
    ids=["no run", "in the way", "nothing"],
)
def test_what_is_wrong_is_said(dno: Command, args: list[Any], told: str) -> None:
    dno("optimize", "a cat", *TOY, "--no-report", "--out", "run")
    Path("mine.txt").write_text("mine")
    code, out, err = dno("report", *args)
    assert (code, out) == (2, "")
    assert told in err
    assert Path("mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_report_needs_no_torch(dno: Command) -> None:
    dno("optimize", "a cat", *TOY, "--no-report", "--out", "run")
    code = (
        "import sys\n"
        "from dno.report.page import report\n"
        "report(['run'])\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "matplotlib"} & set(done.stdout.split())


@pytest.mark.slow
def test_a_study_has_a_page_and_gets_another(dno: Command) -> None:
    Path("prompts.txt").write_text("a cat\na dog\n")
    code, out, err = dno("batch", "prompts.txt", "--seeds", "0..1", *TOY, "--out", "study")
    assert (code, err) == (0, "")
    page = Path("study/report.html")
    assert str(page) in out.splitlines()
    written = page.read_bytes()
    assert "4 done" in written.decode()
    page.unlink()
    assert dno("report", "study") == (0, f"{page}\n", "")
    assert page.read_bytes() == written
    assert dno("report", "study", "--out", "page.html") == (0, "page.html\n", "")
    code, _, err = dno("report", "study", "study/items")
    assert code == 2
    assert "name it alone" in err


def test_a_study_goes_without_a_page_where_none_is_wanted(dno: Command) -> None:
    Path("prompts.txt").write_text("a cat\n")
    code, out, _ = dno("batch", "prompts.txt", *TOY, "--no-report", "--out", "study")
    assert code == 0
    assert "report.html" not in out
    assert not list(Path("study").rglob("report.html"))


def test_a_study_with_failures_has_a_page(dno: Command) -> None:
    Path("prompts.csv").write_text("prompt,start\na cat,\na dog,none.safetensors\n")
    code, out, _ = dno("batch", "prompts.csv", *TOY, "--out", "study")
    assert code == 1
    assert str(Path("study/report.html")) in out.splitlines()
    page = Path("study/report.html").read_text()
    assert "1 done" in page
    assert "1 failed" in page
