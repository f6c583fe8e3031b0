"""The page of a study: what its folder holds, summed up, and closed to whoever wrote that."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import tomli_w
from distributions import Site
from reported import HOSTILE, Elements, rename
from torch import Tensor

import dno as library
from dno.errors import RunFolderError
from dno.plugin import RunFinished, hookimpl
from dno.report import cards, study_read
from dno.report.page import report
from dno.report.spreads import spread_of, told_interval
from dno.report.study_page import study_page, write_study_page
from dno.report.study_read import Stage, evenly, read_study
from dno.report.study_view import study_view
from dno.runs.ended import ended
from dno.runs.intervals import Interval, interval
from dno.runs.lock import hold
from dno.runs.saved import SavedRun

PROMPTS = ["a black cat", "a dog", "a fox"]


@pytest.fixture(autouse=True)
def _toy(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site.install_toy()
    monkeypatch.chdir(tmp_path)


def run_study(out: Path, prompts: Any = PROMPTS, **options: Any) -> Path:
    wanted = {"reward": "brightness", "monitor": "contrast", "iterations": 3, **options}
    library.batch(prompts, sampler="toy", out=out, seeds=[0, 1], **wanted)
    return out


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the study is that each test gets a copy of."""
    return tmp_path_factory.mktemp("kept") / "study"


@pytest.fixture
def study(kept: Path, tmp_path: Path) -> Path:
    if not kept.exists():
        run_study(kept)
    shutil.copytree(kept, tmp_path / "home of me" / "study")
    return tmp_path / "home of me" / "study"


def page(study: Path) -> str:
    return study_page(study, study / "report.html").decode()


def view(study: Path) -> Any:
    return study_view(read_study(study), study / "report.html")


def items(study: Path) -> list[Path]:
    return sorted((study / "items").iterdir())


def change(file: Path, **values: Any) -> None:
    """Put other values into a file of JSON or TOML."""
    if file.suffix == ".json":
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    else:
        file.write_text(tomli_w.dumps({**tomllib.loads(file.read_text()), **values}))


def gains(study: Path, group: str = "rewards", name: str = "brightness") -> dict[str, float]:
    """What each item gained, by its folder's name."""
    results = {path.name: json.loads((path / "result.json").read_text()) for path in items(study)}
    return {
        item: found["best"][group][name][0] - found["initial"][group][name][0]
        for item, found in results.items()
    }


def test_a_study_has_a_page_of_its_files_alone(kept: Path, study: Path) -> None:
    assert (kept / "report.html").read_bytes() == study_page(study, study / "report.html")


def test_it_tells_what_was_asked_and_what_was_gained(study: Path) -> None:
    told = view(study)
    assert (told.total, told.prompts, told.seeds) == (6, 3, 2)
    assert told.stages == {"done": 6}
    by_name = {spread.name: spread for spread in told.spreads}
    assert [spread.name for spread in told.spreads] == ["brightness", "contrast"]
    for group, name in (("rewards", "brightness"), ("monitors", "contrast")):
        found = gains(study, group, name)
        by_prompt = [
            sum(found[path.name] for path in items(study) if SavedRun(path).items[0][0] == prompt)
            / 2
            for prompt in PROMPTS
        ]
        spread = by_name[name]
        assert spread.climbed == (name == "brightness")
        assert spread.gain.mean == pytest.approx(interval(by_prompt).mean)
        assert spread.gain.half == pytest.approx(interval(by_prompt).half, nan_ok=True)
        assert spread.rose == sum(gain > 0 for gain in found.values())
        assert spread.count == 6
    results = [json.loads((path / "result.json").read_text()) for path in items(study)]
    assert told.cost.seconds == pytest.approx(sum(found["seconds"] for found in results))
    assert told.cost.network_evaluations == sum(found["network_evaluations"] for found in results)
    assert told.failures == []
    assert told.board is None


def test_free_p_values_stand_beside_those_of_true_draws(study: Path) -> None:
    plain = view(study).noise
    assert plain.tests % 6 == 0
    assert plain.expected == pytest.approx(plain.tests / 100)
    first = items(study)[0] / "result.json"
    content = json.loads(first.read_text())
    free = next(
        name
        for name in content["best"]["figures"]
        if ".p_" in f".{name.rpartition('.')[2]}" and name.rpartition(".")[2] not in content["kept"]
    )
    content["best"]["figures"][free] = [1e-9]
    first.write_text(json.dumps(content))
    assert view(study).noise.after == plain.after + 1
    assert view(study).noise.before == plain.before


def test_cards_are_in_the_order_of_their_gains_and_lead_to_their_items(study: Path) -> None:
    found = gains(study)
    told = view(study).cards
    assert len(told.cards) == 6
    linked = [Path(unquote(card.link)).parent.name for card in told.cards]
    assert [found[name] for name in linked] == sorted(found.values(), reverse=True)
    for card in told.cards:
        assert (study / unquote(card.link)).is_file()
        assert card.plain is not None
        assert card.best is not None
    by_key = {order.key: order for order in told.orders}
    assert [by_key["gain-0"].title, by_key["gain-1"].title] == [
        "gain in brightness",
        "gain in contrast",
    ]
    assert list(by_key["gain-0"].places) == list(range(6))
    held_out = gains(study, "monitors", "contrast")
    by_contrast = [held_out[linked[place]] for place in by_key["gain-1"].places]
    assert by_contrast == sorted(held_out.values(), reverse=True)
    by_prompt = [(told.cards[i].prompt, told.cards[i].seed) for i in by_key["prompt"].places]
    assert by_prompt == sorted(by_prompt)
    by_seed = [(told.cards[i].seed, told.cards[i].prompt) for i in by_key["seed"].places]
    assert by_seed == sorted(by_seed)


def test_it_asks_for_nothing_and_leads_to_items_alone(study: Path) -> None:
    elements = Elements(page(study))
    names = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
    addresses = {attrs[name] for _, attrs in elements.found for name in names if name in attrs}
    links = {address for address in addresses if not address.startswith("data:")}
    assert links == {f"items/{path.name}/report.html" for path in items(study)}
    assert not [attrs for _, attrs in elements.found if "style" in attrs]
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]


def test_failures_and_what_has_not_ended_are_told(study: Path) -> None:
    cut, lost, failed, early, *_ = items(study)
    (cut / "result.json").unlink()
    shutil.rmtree(lost)
    change(failed / "result.json", status="failed", error="the disk is full")
    shutil.rmtree(early)
    line = {"item": early.name, "place": "list.csv, row 3", "error": "no such model"}
    (study / "failed.jsonl").write_text(f"{json.dumps(line)}\nno json\n[1]\n")

    told = view(study)
    assert told.total == 6
    assert told.stages == {
        "done": 2,
        "failed": 2,
        "begun, not ended": 1,
        "not begun": 1,
    }
    assert {one.name: one.why for one in told.failures} == {
        failed.name: "the disk is full",
        early.name: "no such model",
    }
    assert len(told.cards.cards) == 2
    text = Elements(page(study)).text
    for words in ("the disk is full", "no such model", "1 not begun"):
        assert words in text


def test_one_that_failed_before_and_is_done_by_now_did_not_fail(study: Path) -> None:
    line = {"item": items(study)[0].name, "place": "", "error": "no memory left"}
    (study / "failed.jsonl").write_text(json.dumps(line))
    assert view(study).stages == {"done": 6}


def test_a_study_of_which_nothing_ended_has_a_page(study: Path) -> None:
    for path in items(study):
        (path / "result.json").unlink()
    text = Elements(page(study)).text
    assert "No item has ended yet" in text
    assert "6 begun" in text
    shutil.rmtree(study / "items")
    (study / "items").mkdir()
    assert "6 not begun" in Elements(page(study)).text


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no numbers": lambda found: {**found, "initial": {}},
    "others": lambda found: {**found, "best": {**found["best"], "rewards": {"other": [1.0]}}},
    "huge": lambda found: {**found, "seconds": 10**400},
    "no list": lambda found: {**found, "climbed": 5},
    "not ours": lambda found: [found],
    "text": lambda found: {**found, "best": {**found["best"], "rewards": {"brightness": "x"}}},
}


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_damaged_is_a_failure_of_its_own(study: Path, how: str) -> None:
    file = items(study)[0] / "result.json"
    file.write_text(json.dumps(DAMAGE[how](json.loads(file.read_text()))))
    told = view(study)
    assert told.stages == {"done": 5, "failed": 1}
    assert "damaged" in told.failures[0].why
    page(study)


def test_prompts_that_are_none_are_a_failure(study: Path) -> None:
    change(items(study)[0] / "run.toml", prompts=[["a"]])
    (items(study)[1] / "run.toml").write_text("prompts = [")
    assert view(study).stages == {"done": 4, "failed": 2}


def test_scores_that_are_not_finite_come_last(study: Path) -> None:
    file = items(study)[0] / "result.json"
    content = json.loads(file.read_text())
    content["best"]["rewards"]["brightness"] = [None]
    file.write_text(json.dumps(content))
    told = view(study)
    assert told.spreads[0].count == 5
    first = told.cards.orders[0]
    assert first.known == 5
    assert items(study)[0].name in told.cards.cards[first.places[-1]].link
    assert told.cards.cards[-1].told[0].gain == "–"
    assert "nan" not in Elements(page(study)).text


def test_it_says_nothing_of_the_machine(study: Path) -> None:
    first, second, *_ = items(study)
    secret = study.parent / "secret place"
    values = tomllib.loads((first / "run.toml").read_text())
    values["sampler"]["callback"] = f"{secret}/model"
    values["start"] = "~/somebody/noise.safetensors"
    (first / "run.toml").write_text(tomli_w.dumps(values))
    change(second / "result.json", status="failed", error=f"{second}/best.png: see /var/log/x.log")
    text = page(study)
    for private in (str(study.parent), "home of me", "secret place", "somebody", "/var"):
        assert private not in text, private
    for told in ("best.png", "x.log", "noise.safetensors"):
        assert told in text


def test_what_a_stranger_wrote_is_shown_and_not_run(study: Path) -> None:
    first, second, *_ = items(study)
    for path in items(study):
        change(path / "run.toml", prompts=[f"{HOSTILE} {path.name[-1]}"], start=HOSTILE)
        rename(path, "brightness", HOSTILE)
        rename(path, "contrast", f"{HOSTILE}!")
    change(first / "run.toml", model=f"<b>{HOSTILE}", start=f"{HOSTILE} other")
    change(second / "result.json", status="failed", error=HOSTILE)
    line = {"item": HOSTILE, "place": HOSTILE, "error": HOSTILE}
    (study / "failed.jsonl").write_text(json.dumps(line))
    asked = [{"item": name} for name in ("../../etc", "/etc", "..", "", HOSTILE.replace("/", ""))]
    change(study / "batch.toml", asked=asked)
    second.rename(second.with_name("<img src=x onerror=alert(1)> & more"))

    text = page(study)
    elements = Elements(text)
    scripts = [attrs for tag, attrs in elements.found if tag == "script"]
    assert scripts == [{"type": "application/json", "data-study": ""}, {}]
    assert all(
        attrs["src"].startswith("data:image/webp") for tag, attrs in elements.found if tag == "img"
    )
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]
    assert HOSTILE[:30] in elements.text
    assert "etc" not in {one.name for one in view(study).failures}
    assert view(study).total == 7
    assert "\u202e" not in text


def test_links_are_not_followed(study: Path, tmp_path: Path) -> None:
    first, second, third, *_ = items(study)
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    for name in ("best.png", "report.html"):
        (second / name).rename(tmp_path / name)
        (second / name).symlink_to(tmp_path / name)
    (third / "report.html").unlink()
    told = view(study)
    assert told.total == 5
    by_link = {card.link: card for card in told.cards.cards}
    assert len(by_link) == 4
    (unlinked,) = [card for card in told.cards.cards if not card.link and card.best is None]
    assert unlinked.plain is not None
    (study / "items").rename(tmp_path / "items")
    (study / "items").symlink_to(tmp_path / "items")
    with pytest.raises(RunFolderError):
        read_study(study)


def test_of_many_items_those_with_cards_are_chosen(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = items(study)[0]
    for i in range(10):
        copy = shutil.copytree(first, first.with_name(f"copy-{i}"))
        content = json.loads((copy / "result.json").read_text())
        content["best"]["rewards"]["brightness"] = [10.0 + i]
        (copy / "result.json").write_text(json.dumps(content))
    monkeypatch.setattr(cards, "SHOWN", 8)
    told = view(study)
    assert told.spreads[0].count == 16
    names = [unquote(card.link).split("/")[1] for card in told.cards.cards]
    assert names[:2] == ["copy-9", "copy-8"]
    # The toy draws the same whatever the prompt, so that several gained as little.
    found = gains(study)
    assert [found[name] for name in names[-2:]] == sorted(found.values())[1::-1]
    assert len(names) == 8
    assert len(set(names)) == 8
    assert told.cards.left_out == 8
    assert "8 of 16 items" in Elements(page(study)).text


def test_of_very_many_items_an_even_choice_is_read(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_read, "_READ", 4)
    told = view(study)
    assert (told.total, told.read) == (6, 4)
    assert "Of 6 items, 4 were read" in Elements(page(study)).text


def test_pictures_that_take_too_long_are_left_out(study: Path) -> None:
    read = read_study(study)
    done = [(member, item) for member in read.members for item in member.ended]
    spread = spread_of("brightness", [item for _, item in done])
    assert spread is not None
    told = cards.cards_of(done, [spread], {}, lambda member: "", seconds=0.0)
    assert all(card.plain is None and card.best is None for card in told.cards)
    assert "6 items" in told.note


@pytest.mark.slow
def test_several_settings_are_ordered_and_named(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "optimizer.step": step} for prompt in PROMPTS for step in (0.5, 4.0)]
    told = view(run_study(tmp_path / "study", rows))
    assert told.board is not None
    assert [row[0] for row in told.board.rows] == ["1. optimizer.step=4.0", "2. optimizer.step=0.5"]
    (difference,) = told.differences
    assert difference.place == "optimizer.step"
    assert list(difference.values) == [("0.5", 6), ("4.0", 6)]
    assert "step" not in {row.place for row in told.settings["optimizer"]}
    assert {row.place for row in told.settings["optimizer"]} >= {"use"}
    assert {card.way for card in told.cards.cards} == {"optimizer.step=0.5", "optimizer.step=4.0"}
    # Settings of one prompt are no more prompts.
    assert told.spreads[0].prompts == 3
    assert "optimizer.step=4.0" in Elements(page(tmp_path / "study")).text


def test_settings_that_share_no_prompt_are_not_ordered(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "steps": 1}, {"prompt": "a dog", "iterations": 2}]
    told = view(run_study(tmp_path / "study", [{**row} for row in rows if "iterations" in row]))
    assert told.board is None
    run_study(tmp_path / "study", ["a fox"])
    told = view(tmp_path / "study")
    assert told.board is None
    assert "not ordered" in told.board_note
    assert told.total == 4


def test_a_report_is_made_of_a_study_and_where_it_is_wanted(study: Path, tmp_path: Path) -> None:
    (study / "report.html").unlink()
    assert report([study]) == study / "report.html"
    assert "items/" in (study / "report.html").read_text()

    beside = report([study], study.parent / "page.html")
    assert f"study/items/{items(study)[0].name}/report.html" in beside.read_text()
    # From elsewhere, links would name the folders on the way.
    away = report([study], tmp_path / "away" / "page.html").read_text()
    assert "home of me" not in away
    assert "home%20of%20me" not in away
    assert not re.findall(r'<a [^>]*href="', away)
    assert "lead nowhere" in away

    with pytest.raises(RunFolderError, match="name it alone"):
        report([study, items(study)[0]])
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(RunFolderError, match="no report of dno's"):
        report([study], tmp_path / "mine.html")


def test_a_page_of_somebody_else_stays_and_the_study_is_none_the_worse(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "study"
    out.mkdir()
    (out / "report.html").write_text("mine")
    run_study(out, ["a cat"], iterations=1)
    assert (out / "report.html").read_text() == "mine"
    assert "the study has no page" in caplog.text
    assert len(items(out)) == 2


@pytest.mark.parametrize("where", ["in an evaluation", "between items"])
def test_a_study_that_is_interrupted_has_a_page(tmp_path: Path, where: str) -> None:
    out = tmp_path / "study"

    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        begun = len(list((out / "items").iterdir()))
        if where == "in an evaluation" and begun == 2:
            raise KeyboardInterrupt
        return images.mean(dim=(1, 2, 3))

    class Impatient:
        @hookimpl
        def run_finished(self, event: RunFinished) -> None:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"reward": brightness, "iterations": 2}
    if where == "between items":
        options["observer"] = Impatient()
    # Where it strikes an evaluation that is not the first, the run ends as interrupted.
    with contextlib.suppress(KeyboardInterrupt):
        run_study(out, **options)
    text = Elements((out / "report.html").read_text()).text
    assert "1 done" in text
    assert "not begun" in text


def test_a_study_without_reports_has_none_itself(tmp_path: Path) -> None:
    out = run_study(tmp_path / "study", ["a cat"], settings={"observers": ["curve"]}, iterations=1)
    assert not (out / "report.html").exists()
    told = view(out)
    assert [card.link for card in told.cards.cards] == ["", ""]
    assert any("lead nowhere" in note for note in told.notes)


def test_of_processes_that_end_together_the_last_tells_of_all(study: Path) -> None:
    result = items(study)[0] / "result.json"
    content = result.read_bytes()
    result.unlink()
    release = hold(study)
    other = threading.Thread(target=write_study_page, args=(study,))
    other.start()
    time.sleep(0.3)
    # It waits, and reads only what is there when its turn has come.
    result.write_bytes(content)
    release()
    other.join()
    assert "6 done" in Elements((study / "report.html").read_text()).text


def test_the_held_out_one_that_falls_is_warned_of(study: Path) -> None:
    def put(held_out: float) -> None:
        for path in items(study):
            content = json.loads((path / "result.json").read_text())
            moves = (("rewards", "brightness", 1.0), ("monitors", "contrast", held_out))
            for group, name, moved in moves:
                content["best"][group][name] = [content["initial"][group][name][0] + moved]
            (path / "result.json").write_text(json.dumps(content))

    put(1.0)
    assert view(study).warnings == []
    put(-1.0)
    (warning,) = view(study).warnings
    assert "brightness rose while contrast, held out, fell by 1" in warning


def test_histograms_count_each_item_once(study: Path) -> None:
    found = ended(study).items
    spread = spread_of("brightness", found)
    assert spread is not None
    for half, name in zip(spread.halves, ("best", "initial"), strict=True):
        counts = [int(re.findall(r": (\d+) from", bar.title)[0]) for bar in half.bars]
        assert sum(counts) == len(found)
        values = [getattr(item, name)["brightness"] for item in found]
        assert half.mean == pytest.approx(sum(values) / len(values))
        assert all(half.top <= bar.y < half.floor for bar in half.bars)
        assert 0 <= half.x <= 1000
    assert spread_of("nothing", found) is None


def test_a_gain_has_as_many_digits_as_its_interval() -> None:
    assert told_interval(Interval(0.090764, 0.0281)) == ("+0.091", "0.028")
    assert told_interval(Interval(-12.3456, 3.4)) == ("−12.3", "3.4")
    assert told_interval(Interval(1234.5, 67.8)) == ("+1234", "68")
    assert told_interval(Interval(0.5, math.nan)) == ("+0.5", "")
    assert told_interval(Interval(0.5, 0.0)) == ("+0.5", "")
    assert told_interval(Interval(math.nan, math.nan)) == ("–", "")


def test_an_even_choice_has_both_ends() -> None:
    assert list(evenly(range(10), 4)) == [0, 3, 6, 9]
    assert list(evenly(range(3), 4)) == [0, 1, 2]
    assert list(evenly(range(3), 1)) == [0]
    assert list(Stage) == [Stage.DONE, Stage.FAILED, Stage.BEGUN, Stage.NEW]
