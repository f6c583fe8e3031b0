"""Runs are logged to real trackers, offline: what their own files hold is read back."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dno_builtin.observers._tracker import ID_FILE
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError
from dno.runs.run import go_on
from dno.runs.run_config import RunConfig

pytestmark = pytest.mark.slow

TRACKERS = ["wandb", "trackio", "swanlab", "tensorboard"]
SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


@pytest.fixture(autouse=True)
def _nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests, and a cache that is thrown away."""
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_MODE", "SWANLAB_MODE", "TRACKIO_DIR", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def needed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not among what the tests install")


def config(*observers: Any, iterations: int = 3, **values: Any) -> RunConfig:
    return RunConfig.parse(
        {
            "prompts": ["a cat", "a dog"],
            "sampler": {"use": SAMPLER},
            "rewards": [{"use": bright}],
            "iterations": iterations,
            "observers": list(observers),
            **values,
        }
    )


def all_bytes(folder: Path, ending: str) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob(f"*{ending}")))


def in_wandb(folder: Path) -> bytes:
    # A log of records that are not compressed. A process of wandb's own writes it to its end.
    runs = len(list((folder / "wandb").iterdir()))
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        held = all_bytes(folder / "wandb", ".wandb")
        if held.count(b"finished") >= runs:
            break
        time.sleep(0.1)
    return held


def in_swanlab(folder: Path) -> bytes:
    return all_bytes(folder / "swanlab", ".swanlab") + all_bytes(folder / "swanlab", ".yaml")


def in_trackio(folder: Path) -> bytes:
    found: list[Any] = []
    database = sqlite3.connect(folder / "trackio" / "dno.db")
    try:
        for table in ("metrics", "configs"):
            found += database.execute(f"select * from {table}").fetchall()
    finally:
        database.close()
    return repr(found).encode()


def in_tensorboard(folder: Path) -> bytes:
    return all_bytes(folder / "tensorboard", "")


READ: dict[str, Callable[[Path], bytes]] = {
    "wandb": in_wandb,
    "trackio": in_trackio,
    "swanlab": in_swanlab,
    "tensorboard": in_tensorboard,
}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_is_logged_and_gone_on_with(name: str, tmp_path: Path) -> None:
    needed(name)
    folder = tmp_path / "run"
    made = config({"use": name, "every": 2, "essential": True})
    outcome = dno.run(made, folder)
    assert (outcome.status, outcome.error) == ("finished", None)
    key = (folder / ID_FILE).read_text().strip()

    held = READ[name](folder)
    for word in ("rewards/bright", "grad_norm", "log_p/permutation", "p_mean", "seconds", "grid"):
        assert word.encode() in held, word
    for word in ("pictures/now/1", "pictures/initial/0", "pictures/best/1", "max_grad_norm"):
        assert word.encode() in held, word
    assert b"finished" in held

    # In another process it would be a new observer, which finds the run by what its folder holds.
    more = made.model_copy(update={"iterations": 5})
    outcome = dno.Result.of(go_on(more, folder))
    assert (outcome.status, outcome.error) == ("finished", None)
    assert (folder / ID_FILE).read_text().strip() == key
    assert len(READ[name](folder)) > len(held)
    if name in ("wandb", "swanlab"):
        runs = [path.name for path in (folder / name).iterdir() if path.is_dir()]
        assert runs
        assert all(run.endswith(key) for run in runs), runs
    if name == "trackio":
        assert set(steps_in_trackio(folder)) == {(f"run-{key[:8]}", step) for step in range(6)}

    # Nothing elsewhere, and no link to a folder, with which it could not be gone on with.
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "home"}
    assert not [path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]


def steps_in_trackio(folder: Path) -> list[tuple[str, int]]:
    database = sqlite3.connect(folder / "trackio" / "dno.db")
    try:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    finally:
        database.close()
    return [(run, step) for run, step, metrics in rows if "rewards/bright" in json.loads(metrics)]


def test_tensorboard_reads_numbers_pictures_and_texts(tmp_path: Path) -> None:
    needed("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = dno.run(config({"use": "tensorboard", "every": 2}), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = [(one.step, one.value) for one in events.Scalars("rewards/bright")]
    expected = [(record.iteration, sum(record.rewards["bright"]) / 2) for record in outcome.history]
    assert logged == [(step, pytest.approx(value)) for step, value in expected]
    assert [one.step for one in events.Images("pictures/now/0")] == [0, 2]
    (best,) = [one for one in events.Images("pictures/best/1") if one.step == 3]
    assert (best.width, best.height) == (8, 8)
    told = events.Tensors("ended/text_summary")[0].tensor_proto.string_val[0]
    assert json.loads(told)["status"] == "finished"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_told_before_anything_loads(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    told = rf'observers.0: needs the package {name}; try: pip install "dno\[{name}\]"'
    with pytest.raises(ConfigError, match=told):
        dno.run(config(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_without_a_folder_is_refused(name: str) -> None:
    needed(name)
    with pytest.raises(ConfigError, match="writes into the run folder, and this run has none"):
        dno.run(config(name))


def test_what_is_sent_nowhere_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of wandb and swanlab, whose own default is to upload."""
    seen: dict[str, Any] = {}

    def of(name: str) -> Any:
        needed(name)
        real = importlib.import_module(name)

        def init(**options: Any) -> Any:
            seen[name] = options["mode"]
            raise RuntimeError("not now")

        monkeypatch.setattr(real, "init", init)
        return real

    for name, variable in (("wandb", "WANDB_MODE"), ("swanlab", "SWANLAB_MODE")):
        of(name)
        for said, chosen, mode in (
            (None, None, "offline"),
            ("disabled", None, "disabled"),
            ("online", "offline", "offline"),
        ):
            monkeypatch.delenv(variable, raising=False)
            if said is not None:
                monkeypatch.setenv(variable, said)
            options = {"use": name, **({} if chosen is None else {"mode": chosen})}
            dno.run(config(options), Path(f"{name}-{said}"))
            assert seen[name] == mode
