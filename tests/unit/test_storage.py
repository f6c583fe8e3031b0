"""Run folders: written whole, never overwritten, held by one process, resumed to the same state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dno.core.result import Snapshot, StepRecord
from dno.core.stages import LoopState
from dno.errors import RunError, RunFolderError
from dno.media import pictures
from dno.runs import storage
from dno.runs.folders import default_folder, free_folder, slug
from dno.runs.run_config import RunConfig
from dno.runs.storage import RunFolder

PROMPT = "a Black  cat/../../etc"
CONFIG = RunConfig.parse({"prompts": PROMPT, "rewards": "brightness"})


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        yield folder


def loop_state(iteration=3):
    record = StepRecord(
        iteration=0,
        grid=None,
        reward=(0.1,),
        objective=(1.0,),
        rewards={"r": (0.1,)},
        monitors={"m": (0.2,)},
        penalties={"p": (0.0,)},
        log_p={"p": (-0.5,)},
        gamma=(0.01,),
        figures={"p1": (-0.5,)},
        healthy=(True,),
        best=(-float("inf"),),
        grad_norm=(2.0,),
        seconds=0.25,
    )
    snapshot = Snapshot(
        noise_BN=torch.randn(1, 6),
        samples=torch.rand(1, 3, 2, 2),
        score_B=torch.randn(1),
        iteration_B=torch.zeros(1),
        rewards={"r": torch.rand(1), "r.dotted": torch.rand(1)},
        monitors={"m": torch.rand(1)},
        log_p={"p": torch.randn(1)},
        figures={"p1": torch.randn(1)},
    )
    return LoopState(
        iteration=iteration,
        noise_BN=torch.randn(1, 6),
        optimizer={"step": torch.tensor(3), "mean": torch.randn(1, 6)},
        constraints={"shell.norm": torch.rand(1)},
        phase=1,
        steps=2,
        coarse_best=replace(snapshot, score_B=torch.randn(1)),
        fine_BN=torch.randn(1, 8),
        repair_B=torch.tensor([True]),
        last=replace(snapshot, score_B=torch.randn(1)),
        initial=snapshot,
        best=snapshot,
        history=[replace(record, iteration=i) for i in range(iteration)],
        failures={0: "no luck"},
        seconds=1.5,
    )


def test_a_state_comes_back_bit_for_bit(folder):
    state = loop_state()
    folder.save_state(state, CONFIG)
    loaded = folder.load_state(CONFIG, torch.device("cpu"))
    assert (loaded.iteration, loaded.seconds, loaded.history) == (3, 1.5, state.history)
    assert loaded.failures == {0: "no luck"}
    assert (loaded.phase, loaded.steps) == (1, 2)
    assert torch.equal(loaded.fine_BN, state.fine_BN)
    assert torch.equal(loaded.repair_B, state.repair_B)
    assert loaded.constraints.keys() == state.constraints.keys()
    assert torch.equal(loaded.constraints["shell.norm"], state.constraints["shell.norm"])
    assert torch.equal(loaded.noise_BN, state.noise_BN)
    assert loaded.optimizer.keys() == state.optimizer.keys()
    assert all(torch.equal(loaded.optimizer[k], v) for k, v in state.optimizer.items())
    for name in ("initial", "best", "coarse_best", "last"):
        ours, theirs = getattr(loaded, name).tensors(), getattr(state, name).tensors()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_history_rows_past_the_state_are_left_out(folder):
    folder.save_state(loop_state(), CONFIG)
    with (folder.path / "history.jsonl").open("a") as file:
        file.write('{"iteration": 3, "obj')  # what a kill leaves
    assert len(folder.load_state(CONFIG, torch.device("cpu")).history) == 3


def test_history_is_strict_json(folder):
    folder.save_state(loop_state(), CONFIG)
    row = json.loads(
        (folder.path / "history.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail
    )
    assert row["best"] == [None]


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(
        RunFolderError, match=r"mine is in use; name another folder, or .*dno resume"
    ):
        free_folder(tmp_path / "mine")
    with pytest.raises(RunFolderError, match="is in use"):
        free_folder(tmp_path / "mine" / "thesis.tex")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "empty").mkdir()
    assert free_folder(tmp_path / "empty") == tmp_path / "empty"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunFolderError, match=r"file/run cannot be made, because .*file is no folder to write in"
    ):
        free_folder(tmp_path / "file" / "run")
    with pytest.raises(RunFolderError, match=r"run cannot be made: Not a directory"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.slow
def test_one_process_at_a_time(folder):
    code = (
        "from pathlib import Path; from dno.runs.storage import RunFolder; "
        f"RunFolder(Path({str(folder.path)!r}))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "is in use by another process" in other.stderr


def test_default_folders_are_named_after_the_prompt_and_never_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        paths = {stack.enter_context(default_folder(PROMPT)) for _ in range(3)}
        assert len(paths) == 3
        assert all(path.is_dir() for path in paths)
    assert all(p.parent == Path("runs") and "a-black-cat-etc" in p.name for p in paths)


@given(st.text())
def test_no_prompt_becomes_a_path(text):
    name = slug(text)
    assert name
    assert len(name) <= 40
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    "harm", [b"", b"not safetensors", None], ids=["empty", "garbage", "cut short"]
)
def test_a_damaged_state_is_told(folder, harm):
    folder.save_state(loop_state(), CONFIG)
    path = folder.path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-8] if harm is None else harm)
    with pytest.raises(RunFolderError, match="state.safetensors or history.jsonl is damaged"):
        folder.load_state(CONFIG, torch.device("cpu"))


@pytest.mark.slow
def test_a_full_disk_is_told_and_harms_nothing_written_before(folder, tmp_path):
    folder.save_state(loop_state(), CONFIG)
    before = {p.name: p.read_bytes() for p in folder.path.iterdir()}
    code = f"""
import resource, signal
from pathlib import Path
from dno.runs.run_config import RunConfig
from dno.runs.storage import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = RunFolder.__new__(RunFolder)
folder.path = Path({str(folder.path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder.write("state.safetensors", bytes(5000))
"""
    full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "state.safetensors cannot be written: File too large; " in full.stderr
    assert {p.name: p.read_bytes() for p in folder.path.iterdir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(folder):
    folder.path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="Permission denied"):
            folder.write("x", b"")
    finally:
        folder.path.chmod(0o700)


def test_pictures_hold_the_pixels():
    sample = torch.rand(3, 5, 7)
    (picture,) = pictures(sample[None])
    assert picture.size == (7, 5)
    assert picture.getpixel((6, 4)) == tuple(int(v) for v in (sample[:, 4, 6] * 255).round())


@pytest.mark.parametrize("text", ["", "{}\n{}\n{}\n", "null\nnull\nnull\n", "[1\n"])
def test_a_damaged_history_is_told(folder, text):
    folder.save_state(loop_state(), CONFIG)
    (folder.path / "history.jsonl").write_text(text)
    with pytest.raises(
        RunFolderError,
        match=r"history.jsonl is damaged .*start afresh: dno optimize --config .*run",
    ):
        folder.load_state(CONFIG, torch.device("cpu"))


def test_a_changed_configuration_is_told(folder):
    folder.save_state(loop_state(), CONFIG)
    longer = CONFIG.model_copy(update={"iterations": 99})
    assert folder.load_state(longer, torch.device("cpu")).iteration == 3
    changed = RunConfig.parse({"prompts": PROMPT, "rewards": "darkness"})
    with pytest.raises(
        RunFolderError, match=r"not what the run began with \(rewards cannot change midway\)"
    ):
        folder.load_state(changed, torch.device("cpu"))


def test_a_new_folder_that_another_process_filled_meanwhile_is_left_alone(tmp_path):
    free_folder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.png").write_text("theirs")
    with pytest.raises(RunFolderError, match="run is in use"):
        RunFolder(tmp_path / "run", new=True)
    assert (tmp_path / "run" / "best.png").read_text() == "theirs"


@pytest.mark.parametrize(
    ("took", "waits"), [(0.0, 0.0), (0.05, 10.0), (0.6, 120.0), (2.0, 120.0), (10.0, 200.0)]
)
def test_saving_waits_until_it_takes_little_of_the_time(took, waits):
    assert storage._wait_after(took) == pytest.approx(waits)
