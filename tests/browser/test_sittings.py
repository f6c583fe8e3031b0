"""The tab Pick of `dno ui` without a browser: what clicks do, and what they leave alone."""

from __future__ import annotations

import importlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dno_builtin.rewards import _picks as picks_model

from dno.plugin import ConfigError

pytestmark = pytest.mark.slow

STUDIO = Path(__file__).parents[2] / "plugins" / "studio"


@pytest.fixture(autouse=True)
def _studio(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    monkeypatch.syspath_prepend(str(STUDIO))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Any]:
    """One with room for a single job beside the one at work."""
    limits = importlib.import_module("dno_studio._limits").Limits(waiting=1)
    opened = importlib.import_module("dno_studio._desk").Desk(tmp_path / "runs", limits)
    yield opened
    opened.close()


@dataclass
class Person:
    """Somebody who picks; each click is watched to its end, and gives what is shown then."""

    desk: Any
    shown: list[str] = field(default_factory=list)
    """By the last click."""

    def __post_init__(self) -> None:
        self.tab = importlib.import_module("dno_studio._pick").PickTab(
            self.desk, ["emoji"], self.desk.runs.parent
        )
        self.request = SimpleNamespace(session_hash="ann")

    def _watch(self, answers: Iterator[tuple[Any, ...]]) -> str:
        self.shown = [answer[0] for answer in answers]
        return self.shown[-1]

    def four(self) -> str:
        return self._watch(self.tab.begin(self.request, "a cat", "emoji", 2, 1, 0))

    def pick(self, number: int) -> str:
        return self._watch(self.tab.picks(number - 1)(self.request))

    def undo(self) -> str:
        return self._watch(self.tab.undo(self.request))

    @property
    def file(self) -> Path:
        return Path(self.tab._sittings["ann"].picker.file)


@pytest.fixture
def person(desk: Any) -> Person:
    return Person(desk)


def picks_of(shown: str) -> int:
    found = re.search(r'data-picks="(\d+)"', shown)
    return int(found[1]) if found else 0


def can_pick(shown: str) -> bool:
    return 'data-pick="true"' in shown and shown.count(" disabled>") == 0


class Lasting:
    """A job that goes on until it is let go, whether or not it is asked to stop."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def carry_out(self, job: Any, workshop: Any) -> Any:
        assert self.over.wait(60)
        return importlib.import_module("dno_studio._job").NOTHING


def fill(desk: Any) -> list[Lasting]:
    """Have one job at work, and one wait."""
    errands = [Lasting(), Lasting()]
    first = desk.submit(errands[0])
    while first.version == 0:
        time.sleep(0.01)
    desk.submit(errands[1])
    return errands


def test_a_full_line_writes_nothing_and_leaves_the_pictures_to_pick_from(person: Person) -> None:
    assert can_pick(person.four())
    errands = fill(person.desk)
    for _ in range(2):
        told = person.pick(2)
        assert "1 job waits already; try again later" in told
        assert can_pick(told)
        assert picks_of(told) == 0
        assert not person.file.exists()
    for errand in errands:
        errand.over.set()
    while person.desk._waiting or person.desk._running:
        time.sleep(0.01)
    told = person.pick(2)
    assert can_pick(told)
    assert picks_of(told) == 1
    assert len(person.file.read_text().splitlines()) == 2


def test_a_place_is_kept_while_an_errand_is_prepared(desk: Any) -> None:
    working = Lasting()
    job = desk.submit(working)
    while job.version == 0:
        time.sleep(0.01)
    waiting = Lasting()

    def prepare() -> Lasting:
        with pytest.raises(ConfigError, match="1 job waits already"):
            desk.submit(Lasting())
        return waiting

    def fail() -> Lasting:
        raise OSError("no space")

    # What cannot be prepared takes no place.
    with pytest.raises(OSError, match="no space"):
        desk.submit_prepared(fail)
    desk.submit_prepared(prepare)
    called: list[int] = []
    with pytest.raises(ConfigError, match="1 job waits already"):
        desk.submit_prepared(lambda: called.append(1))
    assert called == []
    working.over.set()
    waiting.over.set()


def test_who_waits_for_a_job_that_is_stopped_looks_again(desk: Any) -> None:
    errand = Lasting()
    job = desk.submit(errand)
    while job.version == 0:
        time.sleep(0.01)
    waiter = threading.Thread(target=job.wait, args=(job.version, 60), daemon=True)
    waiter.start()
    time.sleep(0.1)
    desk.stop(job)
    waiter.join(10)
    woken = not waiter.is_alive()
    errand.over.set()
    assert woken


def gone(file: Path) -> None:
    file.unlink()


def longer(file: Path) -> None:
    with file.open("a") as opened:
        opened.write('{"undo": true}\n')


def shorter(file: Path) -> None:
    file.write_text(file.read_text().splitlines()[0] + "\n")


def damaged(file: Path) -> None:
    first, *_ = file.read_text().splitlines()
    file.write_text(f'{first}\n{{"chosen": [1.0], "others": []}}\n')


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


WAYS = {
    gone: "is gone",
    longer: "has 3 lines, and this page wrote 2",
    shorter: "has 1 lines?, and this page wrote 2",
    damaged: "line 2 of .* is damaged",
    folder: "cannot be read",
}


def test_a_file_that_somebody_spoils_is_told_and_nothing_is_lost(person: Person) -> None:
    person.four()
    assert picks_of(person.pick(1)) == 1
    kept = person.file.read_bytes()
    for spoil, says in WAYS.items():
        spoil(person.file)
        for click in (lambda: person.pick(1), person.undo, lambda: person.pick(4)):
            told = click()
            note = told.partition('<p class="dno-state"')[0]
            assert re.search(says, note.replace("&quot;", '"')), note
            assert "Traceback" not in told
            assert picks_of(told) == 1
            assert can_pick(told)
        if person.file.is_dir():
            person.file.rmdir()
        person.file.write_bytes(kept)
    # As if nothing had been.
    assert picks_of(person.pick(2)) == 2
    assert picks_of(person.undo()) == 1
    assert picks_of(person.undo()) == 0
    assert can_pick(person.pick(3))
    lines = person.file.read_text().splitlines()
    assert ["undo" in json.loads(line) for line in lines[1:]] == [False, False, True, True, False]


def test_a_file_that_is_gone_while_pictures_are_drawn_is_told(person: Person) -> None:
    person.four()
    answers = person.tab.picks(0)(person.request)
    next(answers)
    person.file.unlink()
    shown = [answer[0] for answer in answers][-1]
    assert picks_of(shown) == 1
    assert "is gone" in person.undo()
    assert can_pick(person.four())


def test_the_cost_of_a_click_does_not_grow_with_the_picks(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []
    fit = picks_model.fit

    def counted(picks: Any, *rest: Any, **options: Any) -> Any:
        fits.append(len(picks))
        return fit(picks, *rest, **options)

    monkeypatch.setattr(picks_model, "fit", counted)
    person.four()
    per_click = []
    for number in (1, 3, 2, 4, 4):
        before = len(fits)
        shown = person.pick(number)
        per_click.append(len(fits) - before)
    assert len(set(per_click)) == 1, per_click
    # The file is long; it is not sent at each step of a picture on its way.
    sent = ["x-ndjson" in answer for answer in person.shown]
    assert sent == [False] * (len(sent) - 1) + [True]
    assert len(sent) > 1

    # What is told is what the file says, also of picks that were taken back.
    def check(shown: str) -> None:
        hits, tries = person.tab._sittings["ann"].picker.foreseen()
        assert re.search(rf"foresaw {hits} of {tries} ", shown), (hits, tries, shown[-3000:])

    check(shown)
    check(person.undo())
    check(person.undo())
    shown = person.pick(1)
    check(shown)
    sitting = person.tab._sittings["ann"]
    chances = sitting.picker.chances([one.picture for one in sitting.turns[-1].drawn])
    assert f"gives its favourite {max(chances):.0%}" in shown
