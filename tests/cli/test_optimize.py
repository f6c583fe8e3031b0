"""The command line as people use it, on a tiny real Stable Diffusion folder."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from warm import start

from dno.runs.saved import open_run

QUICK = ["--steps", "3", "--iterations", "3", "--quiet"]


@pytest.fixture(autouse=True)
def _empty_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def bits(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes()
        for name in ("initial.png", "best.png", "last.png", "noise.safetensors")
    }


def test_a_run_says_where_the_pictures_are_and_how_it_went(dno, tiny_folder, tmp_path):
    code, out, err = dno(
        "optimize", "a black cat", "--reward", "brightness", "--model", tiny_folder, *QUICK
    )
    assert (code, err) == (0, "")
    *paths, change, ending, cost = out.splitlines()
    (folder,) = (tmp_path / "runs").iterdir()
    assert [(tmp_path / p).resolve() for p in paths] == [
        folder / n for n in ("initial.png", "best.png", "curve.png", "report.html")
    ]
    assert all((tmp_path / p).is_file() for p in paths)
    assert change.startswith("brightness 0.")
    assert ", log P (permutation) -" in change
    assert ending.startswith("finished: best at iteration ")
    # Three steps with guidance are six passes of the network; three iterations and the last look
    # make four.
    assert " s; a sample: 24 network evaluations, 4 reward calls; peak memory " in cost


def test_its_file_gives_the_same_bits_again(dno, tiny_folder, tmp_path):
    first = [
        "optimize",
        "a cat",
        "a dog",
        "--reward",
        "brightness=2",
        "--reward",
        "contrast=0",
        "--batch",
        2,
    ]
    assert dno(*first, "--seed", 7, "--model", tiny_folder, *QUICK, "--out", "one")[0] == 0
    assert dno("optimize", "--config", "one/run.toml", "--out", "two", "--quiet")[0] == 0
    assert bits(tmp_path / "one") == bits(tmp_path / "two")
    assert (tmp_path / "one" / "best-3.png").is_file()


def test_options_go_over_the_file(dno, tiny_folder, tmp_path):
    (tmp_path / "my.toml").write_text(
        f'prompts = ["a cat"]\nrewards = ["brightness"]\niterations = 1\n[sampler]\nuse = "ddim"\n'
        f'model = "{tiny_folder}"\nsteps = 2\n'
    )
    args = [
        "--config",
        "my.toml",
        "--regularizer",
        "permutation",
        "--gamma",
        0.5,
        "--optimizer",
        "sgd",
        "--lr",
        3,
        "--set",
        "sampler.eta=0.5",
    ]
    assert dno("optimize", *args, "--out", "run", "--quiet")[0] == 0
    text = (tmp_path / "run" / "run.toml").read_text()
    for line in (
        'use = "sgd"',
        "lr = 3.0",
        "eta = 0.5",
        "weight = 0.5",
        "steps = 2",
        "iterations = 1",
    ):
        assert line in text


def test_progress_goes_to_stderr(dno, tiny_folder):
    code, _, err = dno(
        "optimize", "x", "--reward", "brightness", "--model", tiny_folder, *QUICK[:-1]
    )
    assert code == 0
    assert "iteration 3/3" in err
    assert "log P" in err


def test_what_loads_is_told_on_stderr_unless_it_should_be_quiet(dno, tiny_folder):
    run = ["optimize", "x", "--model", tiny_folder, "--reward", "brightness", *QUICK[:-1]]
    code, out, err = dno(*run, "--monitor", "clip", "--out", "loud")
    assert code == 0
    assert err.startswith("loading ")
    assert err.splitlines()[0].endswith(f"{tiny_folder.name}, clip ...")
    assert "loading" not in out
    assert dno("resume", "loud")[2].startswith("loading ")
    assert dno(*run, "--quiet", "--out", "quiet")[2] == ""
    assert dno("resume", "quiet")[2] == ""


def test_a_list_of_prompts_is_read_from_a_file(dno, tiny_folder, tmp_path):
    (tmp_path / "list").write_text("a cat\na dog\n")
    run = ["optimize", "--model", tiny_folder, "--reward", "brightness", *QUICK, "--iterations", 0]
    assert dno(*run, "--prompts-file", "list", "--out", "run")[0] == 0
    assert open_run(tmp_path / "run").items == [("a cat", 0), ("a dog", 0)]


def test_observers_and_weighted_regularizers_by_name(dno, tiny_folder, tmp_path):
    options = [
        "--observer",
        "images",
        "--regularizer",
        "norm=0.5",
        "--regularizer",
        "whiteness=0",
        "--out",
        "here",
    ]
    code, _, err = dno(
        "optimize", "a cat", "--reward", "brightness", "--model", tiny_folder, *QUICK, *options
    )
    assert (code, err) == (0, "")
    saved = tomllib.loads((tmp_path / "here" / "run.toml").read_text())
    assert [(r["use"], r["weight"]) for r in saved["regularizers"]] == [
        ("norm", 0.5),
        ("whiteness", 0.0),
    ]
    assert [o["use"] for o in saved["observers"]] == ["curve", "frames", "report", "images"]
    assert (tmp_path / "here" / "steps" / "0-0.png").is_file()
    assert (tmp_path / "here" / "curve.png").is_file()


def test_a_black_box_reward_can_be_watched(dno, tiny_folder):
    args = [
        "optimize",
        "x",
        "--reward",
        "brightness",
        "--reward",
        "jpeg=0",
        "--model",
        tiny_folder,
        *QUICK,
    ]
    code, out, _ = dno(*args)
    assert code == 0
    assert "jpeg -" in out


def test_a_held_out_reward_that_falls_is_told(dno, tiny_folder):
    args = [
        "--reward",
        "brightness",
        "--monitor",
        "darkness",
        "--model",
        tiny_folder,
        "--gamma",
        0,
        *QUICK,
    ]
    code, out, _ = dno("optimize", "x", *args)
    assert code == 0
    assert "darkness 0." in out
    assert out.splitlines()[-1].startswith(
        "careful: brightness rose while darkness, held out, fell"
    )


def test_a_warm_start_and_a_rival_of_equal_seconds(dno, tiny_folder, tmp_path):
    args = [
        "--reward",
        "brightness",
        "--warm-start",
        "best-of-2",
        "--compare",
        "best-of-n",
        "--regularizer",
        "permutation=auto",
    ]
    code, out, _ = dno("optimize", "x", *args, "--model", tiny_folder, *QUICK, "--out", "run")
    assert code == 0
    ours, theirs = (
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("run", "run-best-of-n")
    )
    assert ours["iterations"] == 5
    assert theirs["status"] == "stopped"
    assert theirs["seconds"] >= ours["seconds"]
    assert f"best-of-n in the same {ours['seconds']:.0f} s:" in out
    assert out.count("brightness 0.") == 2


def test_a_rivals_folder_that_is_taken_is_told_first(dno, tiny_folder, tmp_path):
    (tmp_path / "run-best-of-n" / "mine").mkdir(parents=True)
    args = [
        "--reward",
        "brightness",
        "--compare",
        "best-of-n",
        "--model",
        tiny_folder,
        *QUICK,
        "--out",
        "run",
    ]
    code, _, err = dno("optimize", "x", *args)
    assert code == 2
    assert "run-best-of-n is in use" in err
    assert not (tmp_path / "run").exists()


def test_budgets_stop_and_a_stopped_run_can_be_given_more(dno, tiny_folder, tmp_path):
    args = [
        "optimize",
        "x",
        "--reward",
        "brightness",
        "--model",
        tiny_folder,
        "--quiet",
        "--steps",
        2,
        "--out",
        "run",
    ]
    code, out, _ = dno(*args, "--set", "budget.reward_calls=2")
    assert code == 0
    assert "stopped (its budget of 2 calls is spent): best at iteration" in out
    code, out, _ = dno("resume", "run", "--set", "budget.reward_calls=4")
    assert "stopped (its budget of 4 calls is spent)" in out
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 4


def test_a_run_starts_from_the_best_noise_of_another(dno, tiny_folder, tmp_path):
    args = ["optimize", "x", "--reward", "brightness", "--model", tiny_folder, *QUICK]
    assert dno(*args, "--out", "one")[0] == 0
    assert dno(*args, "--out", "two", "--start", "one", "--seed", 9)[0] == 0
    one, two = (load_file(tmp_path / name / "noise.safetensors") for name in ("one", "two"))
    assert torch.equal(two["initial"], one["best"])
    code, _, err = dno(*args, "--start", "one", "--set", "sampler.steps=4", "--out", "three")
    assert code == 2
    assert (
        "one/noise.safetensors holds 1 samples of 4 draws, this run needs 1 (or 1 for "
        "all) of 5 draws" in err
    )
    assert not (tmp_path / "three").exists()


MISTAKES = {
    "no prompt": (["--reward", "brightness"], "PROMPT: say what to draw: dno optimize"),
    "no reward": (["x"], "--reward: say what to climb, such as --reward brightness"),
    "unknown reward": (["x", "--reward", "brigtness"], "did you mean brightness?"),
    "weight no number": (
        ["x", "--reward", "brightness=lots"],
        "rewards.0.weight: input should be a valid number",
    ),
    "misspelt key": (
        ["x", "--reward", "brightness", "--set", "sampler.stepz=3"],
        "unknown option; did you mean steps?",
    ),
    "no place": (
        ["x", "--reward", "brightness", "--set", "steps"],
        "--set: needs the form PLACE=VALUE, got 'steps'",
    ),
    "impossible eta": (
        ["x", "--reward", "brightness", "--eta", "2"],
        "--eta: sampler.eta: input should be less than",
    ),
    "steps no number": (
        ["x", "--reward", "brightness", "--set", "sampler.steps=many"],
        "sampler.steps: input should be",
    ),
    "no such model": (
        ["x", "--reward", "brightness", "--model", "./no"],
        'sampler.model: there is no model "./no"',
    ),
    "no such config": (["--config", "no.toml"], "no.toml: there is no such file"),
    "no gradient": (
        ["x", "--reward", "jpeg", "--set", "gradient.method=exact"],
        '"jpeg" has no exact gradient',
    ),
    "all weights nought": (
        ["x", "--reward", "brightness=0", "--gamma", "0"],
        "rewards: every weight is 0",
    ),
    "no GPU": (
        ["x", "--reward", "brightness", "--device", "cuda:77"],
        'device: there is no device "cuda:77" here',
    ),
    "no device": (["x", "--reward", "brightness", "--device", "gpu"], "use one of: "),
    "a warm start without a number": (
        ["x", "--reward", "brightness", "--warm-start", "best-of"],
        "--warm-start: needs the form best-of-8 or NAME=COUNT, got 'best-of'",
    ),
    "an unknown warm start": (
        ["x", "--reward", "brightness", "--warm-start", "nope=3"],
        'no optimizer is called "nope"',
    ),
    "an unknown rival": (
        ["x", "--reward", "brightness", "--compare", "nope"],
        'no optimizer is called "nope"',
    ),
    "no noise to start from": (
        ["x", "--reward", "brightness", "--start", "nowhere.safetensors"],
        "nowhere.safetensors",
    ),
    "a weight that is no number": (
        ["x", "--reward", "brightness", "--paper", "--gamma", "lots"],
        "--gamma: regularizers.0.weight",
    ),
}


@pytest.mark.parametrize(("args", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_in_one_sentence_before_anything_is_made(dno, tmp_path, args, told):
    code, out, err = dno("optimize", *args)
    assert code == 2
    assert out == ""
    # What can be seen without loading anything is told before that is begun.
    *before, last, _ = err.split("\n")
    assert told in last
    assert last.startswith("dno: ")
    assert not before or (before == ["loading emoji ..."] and "device" in last)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_pipeline(dno, tmp_path):
    (tmp_path / "photos").mkdir()
    code, _, err = dno("optimize", "x", "--reward", "brightness", "--model", "photos")
    assert code == 2
    assert "sampler.model: " in err
    assert "model_index.json" in err


def test_a_mistake_in_a_file_names_the_file(dno, tmp_path):
    (tmp_path / "run.toml").write_text(
        'prompts = ["x"]\n[[rewards]]\nuse = "brightness"\nweight = "big"\n'
    )
    code, _, err = dno("optimize", "--config", "run.toml")
    assert code == 2
    assert "dno: run.toml: rewards.0.weight: input should be a valid number" in err


def test_a_run_is_never_overwritten(dno, tiny_folder, tmp_path):
    args = [
        "optimize",
        "x",
        "--reward",
        "brightness",
        "--model",
        tiny_folder,
        *QUICK,
        "--out",
        "run",
    ]
    assert dno(*args)[0] == 0
    before = bits(tmp_path / "run")
    code, _, err = dno(*args, "--seed", 5)
    assert code == 2
    assert "run is in use; name another folder" in err
    assert bits(tmp_path / "run") == before


def test_resume_needs_a_run(dno, tmp_path):
    code, _, err = dno("resume", tmp_path)
    assert code == 2
    assert "holds no run.toml" in err


def test_a_finished_run_resumes_to_itself_and_can_be_made_longer(dno, tiny_folder, tmp_path):
    args = ["optimize", "x", "--reward", "brightness", "--model", tiny_folder, *QUICK]
    assert dno(*args, "--out", "run")[0] == 0
    before = bits(tmp_path / "run")
    assert dno("resume", "run")[0] == 0
    assert bits(tmp_path / "run") == before
    assert dno("resume", "run", "--iterations", 6)[0] == 0
    assert dno(*args, "--iterations", 6, "--out", "long")[0] == 0
    assert bits(tmp_path / "run") == bits(tmp_path / "long")


def test_a_killed_run_resumes_to_the_same_bits(dno, warm, tiny_folder, tmp_path):
    args = [
        "optimize",
        "x",
        "--reward",
        "brightness",
        "--model",
        tiny_folder,
        "--steps",
        3,
        "--quiet",
    ]
    args += ["--iterations", 60, "--batch", 2]
    state = tmp_path / "killed" / "state.safetensors"
    killed = start(warm, *args, "--out", "killed", folder=tmp_path)
    waited = time.monotonic()
    while not state.exists() and time.monotonic() - waited < 120:
        time.sleep(0.01)
    time.sleep(0.2)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert state.exists()
    assert not (tmp_path / "killed" / "best.png").exists()
    assert dno("resume", "killed")[::2] == (0, "")
    assert dno(*args, "--out", "whole")[0] == 0
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def test_a_full_disk_ends_the_run_in_a_sentence_and_it_can_go_on(dno, warm, tiny_folder, tmp_path):
    args = ["optimize", "x", "--reward", "brightness", "--model", str(tiny_folder), *QUICK]
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        f"sys.argv = {['dno', *args, '--out', 'full']!r}\n"
        "import dno.cli.main; dno.cli.main.main()\n"
    )
    full = subprocess.run(
        [warm / "python", "-"],
        input=limited, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 1
    assert "cannot be written: File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert "dno resume full" in full.stderr
    assert dno("resume", "full")[::2] == (0, "")
    assert dno(*args, "--out", "whole")[0] == 0
    assert bits(tmp_path / "full") == bits(tmp_path / "whole")
