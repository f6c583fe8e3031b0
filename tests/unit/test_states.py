"""A saved state is believed only where it is, to the bit, what was saved."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from small_problems import problem
from test_storage import CONFIG, loop_state
from torch import Tensor

from dno.core.stages import LoopState, Phase, Stay
from dno.errors import ConfigError, RunFolderError
from dno.runs.run_config import RunConfig
from dno.runs.states import misfit
from dno.runs.storage import RunFolder, read_noise
from dno.runs.tensor_files import FORMAT, pack, unpack

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run") as folder:
        folder.save_state(loop_state(), CONFIG)
        yield folder


def content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["dno"])
        return about, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def write_format_2(folder: Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """As versions before this one wrote it: no checksum, no mark of the history."""
    for key in ("tensors", "checksum", "history"):
        about.pop(key, None)
    about["format"] = "2"
    save_file(tensors, folder / "state.safetensors", {"dno": json.dumps(about)})


def loaded_or_told(folder: RunFolder) -> LoopState | None:
    """The state; None where a sentence says why there is none, and nothing else may be raised."""
    with contextlib.suppress(RunFolderError):
        return folder.load_state(CONFIG, CPU)
    with pytest.raises(RunFolderError) as caught:
        folder.load_state(CONFIG, CPU)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    return None


@given(place=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_no_flipped_bit_is_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    with RunFolder(tmp_path_factory.mktemp("run")) as folder:
        state = loop_state()
        folder.save_state(state, CONFIG)
        path = folder.path / "state.safetensors"
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= 1 << bit
        path.write_bytes(bytes(data))
        loaded = loaded_or_told(folder)
        # A blank between words of the header means nothing.
        if loaded is None:
            return
        assert torch.equal(loaded.noise_BN, state.noise_BN)
        assert torch.equal(loaded.optimizer["mean"], state.optimizer["mean"])
        assert (loaded.iteration, loaded.seconds) == (state.iteration, state.seconds)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
KEYS = ("iteration", "phase", "steps", "seconds", "failures", "config", "format", "history")


@given(key=st.sampled_from(KEYS), value=JUNK, gone=st.booleans(), old=st.booleans())
def test_no_edit_of_a_states_words_ends_in_anything_but_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any, gone: bool, old: bool
) -> None:
    with RunFolder(tmp_path_factory.mktemp("run")) as folder:
        folder.save_state(loop_state(), CONFIG)
        path = folder.path / "state.safetensors"
        about, tensors = content(path)
        if old:
            write_format_2(folder.path, about, tensors)
            about, tensors = content(path)
        before = about.get(key)
        if gone:
            about.pop(key, None)
        else:
            about[key] = value
        # As somebody would who knows how to make it look whole.
        whole = {k: v for k, v in about.items() if k not in ("tensors", "checksum")}
        save_file(tensors, path, {"dno": json.dumps(whole)})
        if not old and whole.get("format") == FORMAT:
            path.write_bytes(pack(tensors, {k: v for k, v in whole.items() if k != "format"}))
        loaded = loaded_or_told(folder)
        if loaded is None:
            return
        assert loaded.iteration == 3
        unread = old and key == "history"
        assert unread or key in ("phase", "steps", "seconds", "failures") or value == before


Edit = Callable[[dict[str, Tensor]], object]
EDITS: dict[str, Edit] = {
    "noise gone": lambda t: t.pop("noise"),
    "best gone": lambda t: t.pop("best.noise_BN"),
    "a score gone": lambda t: t.pop("initial.score_B"),
    "a figure gone": lambda t: t.pop("best.figures.p1"),
    "one too many": lambda t: t.update(more=torch.zeros(1)),
    "a group too many": lambda t: t.update({"best.more.r": torch.zeros(1)}),
    "a field too many": lambda t: t.update({"best.more": torch.zeros(1)}),
    "two samples": lambda t: t.update(noise=torch.zeros(2, 6)),
    "no samples": lambda t: t.update(noise=torch.zeros(0, 6)),
    "a number alone": lambda t: t.update(noise=torch.tensor(1.0)),
    "whole numbers": lambda t: t.update(noise=torch.zeros(1, 6, dtype=torch.int64)),
    "a score of two": lambda t: t.update({"best.score_B": torch.zeros(2)}),
    "a score in a table": lambda t: t.update({"best.score_B": torch.zeros(1, 1)}),
    "repair of floats": lambda t: t.update(repair_B=torch.zeros(1)),
    "fine noise of two": lambda t: t.update(fine_BN=torch.zeros(2, 8)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
@pytest.mark.parametrize("old", [True, False], ids=["format 2", "format 3"])
def test_tensors_of_another_kind_are_told(folder: RunFolder, edit: Edit, old: bool) -> None:
    path = folder.path / "state.safetensors"
    about, tensors = content(path)
    edit(tensors)
    if old:
        write_format_2(folder.path, about, tensors)
    else:
        words = ("format", "tensors", "checksum")
        path.write_bytes(pack(tensors, {k: v for k, v in about.items() if k not in words}))
    with pytest.raises(RunFolderError, match=r"is damaged \(.+\); start afresh") as caught:
        folder.load_state(CONFIG, CPU)
    assert "\n" not in str(caught.value)


def test_a_coarse_grid_may_have_too_little_noise_to_report_on(folder: RunFolder) -> None:
    state = loop_state()
    assert state.coarse_best is not None
    little = replace(state.coarse_best, log_p={}, figures={})
    folder.save_state(replace(state, coarse_best=little, last=little), CONFIG)
    loaded = folder.load_state(CONFIG, CPU)
    assert loaded is not None
    assert loaded.coarse_best is not None
    assert not loaded.coarse_best.log_p


@pytest.mark.parametrize("lost", ["best", "coarse_best"])
def test_a_reward_that_one_snapshot_alone_tells_of_is_told(folder: RunFolder, lost: str) -> None:
    state = loop_state()
    fewer = replace(getattr(state, lost), rewards={})
    folder.save_state(replace(state, **{lost: fewer}), CONFIG)
    with pytest.raises(RunFolderError, match="different figures"):
        folder.load_state(CONFIG, CPU)


def test_a_state_of_format_2_is_gone_on_with(folder: RunFolder) -> None:
    before = folder.load_state(CONFIG, CPU)
    assert before is not None
    about, tensors = content(folder.path / "state.safetensors")
    write_format_2(folder.path, about, tensors)
    with (folder.path / "history.jsonl").open("a") as file:
        file.write('{"iteration": 3, "obj')
    loaded = folder.load_state(CONFIG, CPU)
    assert loaded is not None
    assert torch.equal(loaded.noise_BN, before.noise_BN)
    assert loaded.history == before.history


@pytest.mark.parametrize("written", ["1", "4", "99\x1b[31m", 3, None])
def test_a_format_that_is_not_known_is_told(folder: RunFolder, written: Any) -> None:
    path = folder.path / "state.safetensors"
    about, tensors = content(path)
    save_file(tensors, path, {"dno": json.dumps({**about, "format": written})})
    told = r"is of format .*, and this dno reads 2 and 3; resume it with the dno that wrote it"
    with pytest.raises(RunFolderError, match=told) as caught:
        folder.load_state(CONFIG, CPU)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4)[:, 1][:1],
        torch.arange(12.0).view(3, 4).T,
        torch.ones(1).expand(5),
        torch.arange(12.0).view(3, 4)[:, ::2],
        torch.tensor(3),
        torch.zeros(0, 4),
        torch.arange(6, dtype=torch.bfloat16)[::3],
    ],
    ids=[
        "a column of one row",
        "turned",
        "expanded",
        "every second",
        "a number",
        "empty",
        "halves",
    ],
)
def test_a_tensor_of_any_layout_comes_back(tmp_path: Path, tensor: Tensor) -> None:
    (tmp_path / "file").write_bytes(pack({"one": tensor}, {"said": 1}))
    about, found = unpack(tmp_path / "file")
    assert about["said"] == 1
    assert torch.equal(found["one"], tensor)


def test_states_of_equal_runs_are_equal_files(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 2, dtype=torch.bfloat16)}
    assert pack(tensors, {"x": 1}) == pack(dict(reversed(tensors.items())), {"x": 1})
    (tmp_path / "a").write_bytes(pack(tensors, {"x": 1}))
    about, read = unpack(tmp_path / "a")
    assert about["x"] == 1
    assert torch.equal(read["a"], tensors["a"])


def test_a_state_that_belongs_to_another_problem_is_told() -> None:
    state = loop_state()
    assert "it is in part 2 of a run of 1" in misfit(state, problem(), [Phase(Stay(), 1)])
    phases = [Phase(Stay(), 1)] * 2
    assert misfit(state, problem(), phases) == (
        "its noise is 1 x 6, where the sampler draws 1 x 384"
    )


def noise_file(path: Path, tensors: dict[str, Tensor], **about: Any) -> Path:
    path.write_bytes(pack(tensors, about))
    return path


def test_noise_to_start_from_is_checked_whole(tmp_path: Path) -> None:
    draws = [(2, 3)]
    noise_BN = torch.randn(1, 6)
    path = noise_file(tmp_path / "a.safetensors", {"best": noise_BN}, draws=[[2, 3]])
    assert torch.equal(read_noise(path, draws, 1), noise_BN)

    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="its checksum is another"):
        read_noise(path, draws, 1)


BAD_NOISE = {
    "not finite": ({"best": torch.full((1, 6), torch.nan)}, "is not finite"),
    "whole numbers": ({"best": torch.zeros(1, 6, dtype=torch.int64)}, "none of noise"),
    "one row alone": ({"best": torch.zeros(6)}, "none of noise"),
    "other draws": ({"best": torch.zeros(1, 7)}, "holds 1 samples of 1 draws"),
    "no best": ({"other": torch.zeros(1, 6)}, 'a tensor "best": it has none'),
}


@pytest.mark.parametrize(("tensors", "told"), BAD_NOISE.values(), ids=BAD_NOISE.keys())
def test_noise_that_cannot_be_started_from_is_told(
    tmp_path: Path, tensors: dict[str, Tensor], told: str
) -> None:
    for name, path in {
        "ours": noise_file(tmp_path / "a.safetensors", tensors, draws=[[2, 3]]),
        "old": tmp_path / "b.safetensors",
    }.items():
        if name == "old":
            save_file(tensors, path, {"dno": json.dumps({"format": "2", "draws": [[2, 3]]})})
        with pytest.raises(ConfigError, match=told):
            read_noise(path, [(2, 3)], 1)


def test_noise_of_others_needs_no_words(tmp_path: Path) -> None:
    save_file({"best": torch.ones(1, 6)}, tmp_path / "mine.safetensors")
    assert read_noise(tmp_path / "mine.safetensors", [(2, 3)], 2).shape == (2, 6)


def test_saving_takes_no_more_than_a_share_of_the_time(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic() + 1000.0
    writes: list[float] = []
    write = RunFolder.write

    def slow(self: RunFolder, name: str, data: bytes) -> None:
        nonlocal now
        now += 2.0
        writes.append(now)
        write(self, name, data)

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(RunFolder, "write", slow)
    for _ in range(400):
        now += 1.0
        folder.save_state(loop_state(), CONFIG, every=5.0)
    # 2 s each are worth it every two minutes.
    assert 3 <= len(writes) <= 5


def test_a_config_is_taken_apart_once_a_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunConfig] = []
    dump = RunConfig.dump
    monkeypatch.setattr(RunConfig, "dump", lambda self: asked.append(self) or dump(self))
    config = RunConfig.parse({"prompts": "x", "rewards": "brightness"})
    for _ in range(5):
        folder.save_state(loop_state(), config)
    assert len(asked) == 1
