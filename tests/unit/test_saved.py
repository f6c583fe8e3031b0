"""Runs read back from their folders, without torch until tensors are asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from distributions import Site
from PIL import Image
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.core.result import StepRecord
from dno.errors import ConfigError, RunFolderError
from dno.report.facts import facts_of, facts_of_saved
from dno.report.verdict import verdict


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def red(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean(dim=(1, 2))


@dataclass(frozen=True)
class Kept:
    """A run and its folder."""

    result: dno.Result
    path: Path

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.path, to)
        return to


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Two prompts from two seeds, with a monitor, of parts that only Python has."""
    path = tmp_path_factory.mktemp("runs") / "python"
    sampler = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
    options = {
        "reward": bright,
        "monitor": red,
        "sampler": sampler,
        "iterations": 3,
        "paper": True,
        "lr": 0.1,
    }
    result = dno.optimize(["a cat", "a dog"], seed=4, batch=2, out=path, **options)
    return Kept(result, path)


@pytest.fixture
def named(site: Site, tmp_path: Path) -> Kept:
    """A run of named plugins alone."""
    site.install_toy()
    path = tmp_path / "runs" / "named"
    result = dno.optimize("a cat", reward="brightness", sampler="toy", iterations=1, out=path)
    return Kept(result, path)


def test_columns_are_the_history(kept: Kept) -> None:
    run = dno.open_run(kept.path)
    columns = run.columns()
    history = kept.result.history
    assert columns["iteration"] == [0, 1, 2, 3]
    assert columns["seconds"] == [record.seconds for record in history]
    assert columns["rewards.bright"] == [record.rewards["bright"] for record in history]
    assert columns["monitors.red"] == [record.monitors["red"] for record in history]
    assert columns["log_p.permutation"] == [r.log_p["permutation"] for r in history]
    assert columns["penalties.permutation"] == [r.penalties["permutation"] for r in history]
    assert columns["figures.p_mean"] == [record.figures["p_mean"] for record in history]
    assert columns["healthy"] == [record.healthy for record in history]
    assert columns["gamma"] == [None] * 4
    assert {len(column) for column in columns.values()} == {4}
    assert [r.to_json() for r in run.history] == [r.to_json() for r in history]


def test_pictures_files_noise_and_end_are_those_of_the_run(kept: Kept) -> None:
    run = dno.open_run(str(kept.path))
    assert run.items == [("a cat", 4), ("a cat", 5), ("a dog", 4), ("a dog", 5)]
    assert run.status is dno.Status.FINISHED
    for name in ("initial", "best", "last"):
        files = run.files(name)
        assert [file.name for file in files] == [f"{name}-{i}.png" for i in range(4)]
        samples = getattr(kept.result, name).samples
        for picture, file, sample in zip(run.pictures(name), files, samples, strict=True):
            levels = (255 * sample).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(np.asarray(picture), levels)
            with Image.open(file) as opened:
                assert np.array_equal(np.asarray(opened), levels)
    assert torch.equal(run.noise(), kept.result.best.noise_BN)
    assert torch.equal(run.noise("initial"), kept.result.initial.noise_BN)
    assert repr(run) == f"SavedRun({str(kept.path)!r}, finished)"


def test_the_verdict_of_a_folder_is_that_of_the_run(kept: Kept) -> None:
    assert facts_of_saved(dno.open_run(kept.path)) == facts_of(kept.result)
    assert verdict(facts_of_saved(dno.open_run(kept.path))) == kept.result.verdict()


def test_a_run_of_named_parts_can_go_on_and_one_of_python_objects_cannot(
    kept: Kept, named: Kept
) -> None:
    run = dno.open_run(named.path)
    assert run.resumable
    assert run.config.prompts == ("a cat",)
    assert run.config.dump() == run.values

    python = dno.open_run(kept.path)
    assert not python.resumable
    with pytest.raises(
        ConfigError, match=r'sampler "FunctionSampler" was a Python object; run it again'
    ):
        python.config  # noqa: B018
    with pytest.raises(ConfigError):
        dno.resume(kept.path)


def test_a_run_with_a_single_sample_has_one_file(named: Kept) -> None:
    run = dno.open_run(named.path)
    assert run.files() == [named.path / "best.png"]
    assert len(run.pictures()) == 1


def test_a_killed_run_is_read_as_far_as_it_came(named: Kept, tmp_path: Path) -> None:
    path = named.copy(tmp_path / "killed")
    for file in ("result.json", "noise.safetensors", "best.png", "initial.png", "last.png"):
        (path / file).unlink()
    run = dno.open_run(path)
    assert run.status is None
    assert run.result == {}
    assert run.files() == run.pictures() == []
    assert len(run.history) == 2
    assert run.resumable
    assert repr(run).endswith("not ended)")
    with pytest.raises(RunFolderError, match=r"has not ended; go on with it: dno resume "):
        facts_of_saved(run)
    with pytest.raises(RunFolderError, match=r"noise\.safetensors holds no noise 'best'"):
        run.noise()


def test_a_run_killed_before_its_first_state_can_be_gone_on_with(
    named: Kept, tmp_path: Path
) -> None:
    path = tmp_path / "early"
    path.mkdir()
    shutil.copy(named.path / "run.toml", path)
    run = dno.open_run(path)
    assert (run.history, run.columns(), run.status) == ((), {}, None)
    assert run.resumable
    assert dno.resume(path).status is dno.Status.FINISHED
    assert dno.open_run(path).status is dno.Status.FINISHED


@dataclass(frozen=True)
class Damage:
    """What a file has become, what is asked, and a part of what is told."""

    file: str
    text: str
    asks: str
    told: str


DAMAGES = (
    Damage("run.toml", "prompts = [", "values", r"run\.toml: is not valid TOML"),
    Damage("run.toml", "prompts = [", "items", r"run\.toml: is not valid TOML"),
    Damage("run.toml", "iterations = 3", "items", r"run\.toml names no prompts"),
    Damage("run.toml", "iterations = 3", "config", r"prompts: is required"),
    Damage("history.jsonl", "{}\n", "history", r"history\.jsonl is damaged, or .* another version"),
    Damage("history.jsonl", "{\n", "columns", r"history\.jsonl is damaged"),
    Damage("history.jsonl", "null\n", "history", r"history\.jsonl is damaged"),
    Damage("result.json", "{", "result", r"result\.json is damaged"),
    Damage("result.json", "[]", "status", r"result\.json is damaged"),
    Damage("result.json", '{"status": "splendid"}', "status", r"result\.json is damaged"),
    Damage("result.json", '{"status": "finished"}', "facts", r"result\.json is damaged"),
    Damage("noise.safetensors", "noise", "noise", r"noise\.safetensors holds no noise"),
    Damage("best-1.png", "picture", "pictures", r"best-1\.png is damaged"),
)


def ask(run: dno.SavedRun, what: str) -> None:
    if what == "facts":
        facts_of_saved(run)
        return
    asked = getattr(run, what)
    asked()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage.asks}, {damage.told}")
def test_a_damaged_file_is_told_in_one_sentence(kept: Kept, tmp_path: Path, damage: Damage) -> None:
    path = kept.copy(tmp_path / "damaged")
    (path / damage.file).write_text(damage.text)
    run = dno.open_run(path)
    with pytest.raises(ConfigError, match=damage.told) as caught:
        ask(run, damage.asks)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_last_line_that_a_kill_tore_is_left_out(kept: Kept, tmp_path: Path) -> None:
    path = kept.copy(tmp_path / "cut")
    whole = (path / "history.jsonl").read_text()
    (path / "history.jsonl").write_text(whole[:-20])
    assert dno.open_run(path).columns()["iteration"] == [0, 1, 2]


def test_a_torn_line_that_others_follow_is_told(kept: Kept, tmp_path: Path) -> None:
    path = kept.copy(tmp_path / "torn")
    first, *rest = (path / "history.jsonl").read_text().splitlines()
    (path / "history.jsonl").write_text("\n".join([first[:-20], *rest, ""]))
    with pytest.raises(RunFolderError, match=r"history\.jsonl is damaged"):
        dno.open_run(path).columns()


def test_a_list_of_runs_has_the_run_folders_alone(kept: Kept, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    kept.copy(runs / "b")
    kept.copy(runs / "a")
    (runs / "notes.txt").write_text("mine")
    (runs / "empty").mkdir()
    elsewhere = kept.copy(tmp_path / "elsewhere")
    (runs / "link").symlink_to(elsewhere)
    assert [run.path.name for run in dno.list_runs(runs)] == ["a", "b"]
    with pytest.raises(RunFolderError, match=r"there is no folder .*gone"):
        dno.list_runs(runs / "gone")
    with pytest.raises(RunFolderError, match=r"empty holds no run\.toml, so it is not a run fo"):
        dno.open_run(runs / "empty")


@pytest.mark.slow
def test_a_run_is_read_without_torch_until_a_tensor_is_asked_for(named: Kept) -> None:
    code = f"""
import sys
import dno
(run,) = dno.list_runs({str(named.path.parent)!r})
run = dno.open_run({str(named.path)!r})
repr(run), run.values, run.items, run.status, run.resumable, run.result, run.history
run.columns(), run.files(), run.pictures()
from dno.report.facts import facts_of_saved
from dno.report.verdict import verdict
verdict(facts_of_saved(run))
for heavy in ("torch", "diffusers", "transformers", "dno_builtin", "dno_emoji"):
    assert heavy not in sys.modules, heavy
run.noise()
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_listed_before_they_are_imported() -> None:
    code = """
import sys
import dno
assert set(dno.__all__) <= set(dir(dno)), dir(dno)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_record_is_a_line_of_strict_json_and_comes_back(kept: Kept) -> None:
    for line in (kept.path / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
        assert StepRecord.from_json(line).to_json().decode() == line
