"""`dno batch`, as people type it."""

from __future__ import annotations

import csv
import signal
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from warm import start

pytestmark = pytest.mark.slow

QUICK = ["--steps", "3", "--iterations", "2", "--reward", "brightness"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.csv").write_text("prompt,sampler.eta,Category\na cat,,pets\na dog,0.5,pets\n")


def table() -> list[dict[str, str]]:
    with Path("study/items.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_list_becomes_run_folders_and_a_table(dno, tiny_folder) -> None:
    command = ["batch", "prompts.csv", "--seeds", "0..1", "--model", tiny_folder, *QUICK]
    code, out, err = dno(*command, "--out", "study", "--shard", "1/2")
    assert code == 0
    assert err.startswith("loading ")
    assert err.count("\n") == 1
    assert out.splitlines()[0].startswith("[1/2] a-cat-")
    assert [row["standing"] for row in table()].count("done") == 2

    code, out, _ = dno(*command, "--out", "study")
    assert code == 0
    assert "2 done, 2 before" in out
    assert {row["label.Category"] for row in table()} == {"pets"}
    for row in table():
        text = Path("study/items", row["item"], "run.toml").read_text()
        assert f"eta = {0.5 if row['prompt'] == 'a dog' else 1.0}" in text

    # A run folder is complete: any item can be made again alone.
    item = Path("study/items", table()[0]["item"])
    assert dno("optimize", "--config", item / "run.toml", "--out", "alone", "--quiet")[0] == 0
    assert Path("alone/best.png").read_bytes() == (item / "best.png").read_bytes()


def test_items_side_by_side_are_run_folders_like_any_other(dno, tiny_folder) -> None:
    Path("prompts.txt").write_text("a cat\na dog\na bird\n")
    command = ["batch", "prompts.txt", "--model", tiny_folder, *QUICK, "--quiet"]
    assert dno(*command, "--out", "study", "--batch", "2")[0] == 0
    assert dno(*command, "--out", "alone")[0] == 0
    assert not Path("study/together").exists()
    assert [row["status"] for row in table()] == ["finished"] * 3
    for row in table():
        for name in ("initial", "best"):
            with (
                Image.open(Path("study/items", row["item"], f"{name}.png")) as ours,
                Image.open(Path("alone/items", row["item"], f"{name}.png")) as theirs,
            ):
                # In a batch torch adds up in another order.
                assert (
                    max(high for _, high in ImageChops.difference(ours, theirs).getextrema()) <= 2
                )

    # What a picture carries repeats that item.
    item = Path("study/items", table()[0]["item"])
    assert dno("optimize", "--from", item / "best.png", "--model", tiny_folder, "--quiet")[0] == 0


MISTAKES = {
    "no file": (["none.txt"], "none.txt: there is no such file"),
    "seeds": (["prompts.csv", "--seeds", "all"], "--seeds: needs seeds such as 0..7"),
    "a shard": (["prompts.csv", "--shard", "9/8"], "--shard: needs part i of n"),
    "a reward": (["prompts.csv", "--reward", "brighness"], "did you mean brightness?"),
    "no reward": (["prompts.csv"], "say what to climb"),
    "no cluster": (["prompts.csv", "--ray-gpus", "0.5"], "--ray-gpus: means nothing without --ray"),
    "a client": (["prompts.csv", "--ray", "ray://head:1"], "'ray://head:1' is an address of"),
    "what to keep": (
        ["prompts.csv", "--keep", "some"],
        "--keep: should be all or best",
    ),
    "a cell": (["bad.csv", "--reward", "brightness"], "bad.csv, row 1: "),
}


@pytest.mark.parametrize(("args", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_before_anything_is_made(dno, args, told) -> None:
    Path("bad.csv").write_text("prompt,iterations\nx,many\n")
    code, _, err = dno("batch", *args, "--out", "study")
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert not Path("study").exists()


def test_killed_it_goes_on_to_what_it_would_have_been(dno, warm, tiny_folder, tmp_path) -> None:
    args = ["batch", "prompts.csv", "--seeds", "0..1", "--model", str(tiny_folder), *QUICK]
    assert dno(*args, "--out", "whole", "--quiet")[0] == 0

    for items in (1, 2):
        killed = start(warm, *args, "--out", "study", "--quiet", folder=tmp_path)
        deadline = time.monotonic() + 120
        while len(list(Path("study").rglob("run.toml"))) < items:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    assert dno(*args, "--out", "study", "--quiet")[0] == 0
    for item in Path("whole/items").iterdir():
        again = Path("study/items", item.name, "noise.safetensors")
        assert again.read_bytes() == (item / "noise.safetensors").read_bytes()
