"""`dno compare` and `dno leaderboard`, as people type them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_studies_become_a_table_and_a_page(dno, tiny_folder) -> None:
    Path("prompts.csv").write_text("prompt,optimizer.lr\na cat,0.01\na dog,0.01\n")
    Path("faster.csv").write_text("prompt,optimizer.lr\na cat,0.3\na dog,0.3\n")
    options = ["--model", tiny_folder, "--reward", "brightness", "--optimizer", "adam", "--quiet"]
    for name in ("prompts", "faster"):
        command = ["batch", f"{name}.csv", *options, "--steps", "3", "--iterations", "2"]
        assert dno(*command, "--out", name)[0] == 0

    files = ["--csv", "table.csv", "--items", "items.csv", "--html", "out/page.html"]
    code, out, err = dno("compare", "prompts", "faster", *files)
    assert (code, err) == (0, "")
    assert out.startswith("prompts, faster: 2 pairs of 2 prompts\n")
    assert out.splitlines()[-3:] == ["table.csv", "items.csv", "out/page.html"]
    with Path("table.csv").open(newline="") as file:
        rows = {(row["measure"], row["way"]): row for row in csv.DictReader(file)}
    assert float(rows["brightness", "faster"]["less_first"]) > 0
    assert rows["network evaluations", "faster"]["even"] == "2"
    assert Path("out/page.html").read_text().count("<img ") == 6

    code, out, err = dno("compare", "prompts", "faster", "--to", "1e-6")
    assert (code, err) == (0, "")
    table = out.partition("gain of brightness:\n")[2].splitlines()
    assert [row.split()[0] for row in table[1:]] == ["prompts", "faster"]
    assert "s to +1e-06" in table[0]

    # One run without a history takes nothing from the others; without any nothing is begun.
    first, *others = sorted(Path("faster/items").glob("*/history.jsonl"))
    first.unlink()
    files = ["--csv", "paces.csv", "--html", "paces.html"]
    code, out, err = dno("compare", "prompts", "faster", "--to", "1e-6", *files)
    assert (code, err) == (0, "")
    assert "gain of brightness; 1 of 2 pairs left out: no history in faster:\n" in out
    assert out.splitlines()[-2:] == ["paces.csv", "paces.html"]
    assert ",pace,faster,1," in Path("paces.csv").read_text()

    for other in others:
        other.unlink()
    code, out, err = dno("compare", "prompts", "faster", "--to", "1e-6", "--csv", "none.csv")
    assert (code, out) == (2, "")
    assert "copy each run's history.jsonl with its other files" in err
    assert err.count("\n") == 1
    assert not Path("none.csv").exists()

    code, out, err = dno("leaderboard", "prompts", "faster", "--csv", "board.csv")
    assert (code, err) == (0, "")
    places = [line for line in out.splitlines() if line[:2] in ("1.", "2.")]
    assert [line.split()[1] for line in places] == ["optimizer.lr=0.3", "optimizer.lr=0.01"]
    assert len(Path("board.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["compare", "one", "two", "--to", "-1"], "--to: should be a gain above 0, got -1"),
        (["compare", "one"], "needs two folders or more"),
        (["compare", "one", "two"], "there is no folder one"),
        (["leaderboard", "none"], "there is no folder none"),
        (["leaderboard", "empty"], "empty has no run that ended: it holds none"),
    ],
)
def test_a_mistake_is_told_in_a_line(dno, args, told) -> None:
    Path("empty").mkdir()
    code, out, err = dno(*args)
    assert (code, out) == (2, "") or (code, out) == (1, "")
    assert told in err
    assert err.count("\n") == 1
