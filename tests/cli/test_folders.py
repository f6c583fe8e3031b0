"""Where runs are kept: folders that nobody shares, paths that lead to one place from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from distributions import Site
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dno as library
from dno.errors import ConfigError, RunFolderError
from dno.plugin import find_model
from dno.registry.configs import RewardConfig
from dno.registry.registry import REWARDS
from dno.runs import run as running
from dno.runs.run_config import RunConfig

pytestmark = pytest.mark.slow

Command: TypeAlias = Callable[..., tuple[int, str, str]]
QUICK = {"reward": "brightness", "sampler": "toy", "settings": {"observers": []}}

SIZED = """
from pathlib import Path
from typing import Any
from dno.plugin import ConfigError, SamplerConfig
from dno.testing.toy import ToySampler
class Sized(SamplerConfig):
    "Small pictures of a size that a file says."
    model: str = "none"
    mask: Path | None = None
    callback: Any = None
    def check(self):
        if self.mask is not None and not self.mask.is_file():
            raise ConfigError(f"there is no mask {self.mask}")
    def build(self, ctx):
        return ToySampler(int((Path(self.model) / "size").read_text()))
"""


@pytest.fixture
def toys(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samplers `toy` and `sized`, and an empty folder to work in."""
    site.install_toy()
    site.install("dno-sized", "[dno.v1.samplers]\nsized = sized_here:Sized\n", "sized_here", SIZED)
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def model(folder: Path, size: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "size").write_text(str(size))
    return folder


def args(*more: object) -> list[object]:
    run = ["optimize", "x", "--reward", "brightness", "--iterations", 1]
    return [*run, "--quiet", "--set", "observers=[]", *more]


def test_runs_of_one_second_each_get_a_folder(
    toys: Path, dno: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    for _ in range(3):
        assert dno(*args("--sampler", "toy"))[0] == 0
    names = sorted(path.name for path in (toys / "runs").iterdir())
    assert names == [f"20260101-000000-x{end}" for end in ("", "-1", "-2")]
    assert all((toys / "runs" / name / "best.png").is_file() for name in names)


def test_processes_of_one_second_each_get_a_folder(toys: Path) -> None:
    """Ten at once, none of which knows of the others."""
    code = (
        "import sys, time\n"
        "time.strftime = lambda form: 'then'\n"
        "from dno.runs.folders import default_folder\n"
        "sys.stdin.readline()\n"
        "with default_folder('x') as folder:\n"
        "    (folder / 'mine').touch()\n"
        "    print(folder)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=toys,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert len({process.communicate()[0] for process in started}) == 10
    assert len(list((toys / "runs").iterdir())) == 10


def test_a_run_that_cannot_begin_leaves_no_folder(toys: Path, dno: Command) -> None:
    (toys / "photos").mkdir()
    code, _, err = dno(*args("--sampler", "sized", "--model", "photos"))
    assert code == 2
    assert "could not be made: FileNotFoundError" in err
    assert [path.name for path in toys.iterdir()] == ["photos"]


@pytest.mark.parametrize("left", [[".lock"], [".gitkeep"], [f".dno-{'a' * 16}.part", ".lock"], []])
def test_a_folder_with_nothing_but_markers_is_empty(
    toys: Path, dno: Command, left: list[str]
) -> None:
    (toys / "run").mkdir()
    for name in left:
        (toys / "run" / name).touch()
    code, _, err = dno("resume", "run")
    assert code == 2
    assert "holds no run" in err
    assert dno(*args("--sampler", "toy", "--out", "run"))[0] == 0
    assert dno("resume", "run", "--iterations", 2)[0] == 0


def test_a_rival_beside_the_current_folder(toys: Path, dno: Command) -> None:
    more = args("--sampler", "toy", "--compare", "best-of-n", "--out", ".")
    code, _, err = dno(*more)
    assert (code, err) == (0, "")
    assert (toys / "best.png").is_file()
    assert (toys.with_name("work-best-of-n") / "best.png").is_file()
    code, _, err = dno(*args("--sampler", "toy", "--compare", "best-of-n", "--out", "/"))
    assert code == 2
    assert err.startswith("dno: ")


BAD_PATHS = {
    "too long": ("n" * 300, "the name is too long"),
    "nobody's": ("~nosuchuser/run", 'there is no user "nosuchuser"'),
    "not UTF-8": (os.fsdecode(b"caf\xe9"), "its name is not UTF-8"),
}


@pytest.mark.parametrize(("path", "told"), BAD_PATHS.values(), ids=BAD_PATHS.keys())
@pytest.mark.parametrize(
    "option", ["--out", "--config", "--start", "--model", "--set sampler.mask=", "resume"]
)
def test_a_path_that_cannot_be_is_a_sentence(
    toys: Path, dno: Command, path: str, told: str, option: str
) -> None:
    if option == "resume":
        given: list[object] = ["resume", path]
    elif option.startswith("--set"):
        given = args("--sampler", "sized", "--set", f"sampler.mask={path}")
    else:
        given = args("--sampler", "sized", option, path)
    code, _, err = dno(*given)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert list(toys.iterdir()) == []


def test_a_run_goes_on_from_anywhere_with_the_model_it_began_with(
    toys: Path, dno: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = model(toys / "here" / "tiny", 8)
    model(toys / "there" / "tiny", 16)
    (toys / "here" / "mask.png").touch()
    monkeypatch.chdir(toys / "here")
    more = ["--model", "tiny", "--set", "sampler.mask=mask.png", "--out", "../run"]
    assert dno(*args("--sampler", "sized", *more))[0] == 0
    saved = tomllib.loads((toys / "run" / "run.toml").read_text())["sampler"]
    assert (saved["model"], saved["mask"]) == (str(here), str(toys / "here" / "mask.png"))

    monkeypatch.chdir(toys / "there")
    assert dno("resume", "../run", "--iterations", 3)[:3:2] == (0, "")
    again = ["optimize", "--config", "../run/run.toml", "--quiet", "--out", "../again"]
    assert dno(*again)[:3:2] == (0, "")
    for name in ("run", "again"):
        assert library.open_run(toys / name).pictures()[0].size == (8, 8)

    # With that model gone, the other of its name is not taken in its place.
    shutil.rmtree(here)
    code, _, err = dno("resume", "../run", "--iterations", 4)
    assert code == 2
    assert str(here) in err


def test_paths_in_a_file_start_where_the_file_is(
    toys: Path, dno: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(toys / "here" / "tiny", 8)
    model(toys / "there" / "tiny", 16)
    (toys / "here" / "my.json").write_text(
        json.dumps({"prompts": "x", "rewards": ["brightness"], "iterations": 1})[:-1]
        + ', "sampler": {"use": "sized", "model": "tiny"}}'
    )
    monkeypatch.chdir(toys / "there")
    assert dno("optimize", "--config", "../here/my.json", "--quiet", "--out", "a")[0] == 0
    assert library.open_run("a").pictures()[0].size == (8, 8)
    # What is typed starts where it is typed.
    more = ["--config", "../here/my.json", "--model", "tiny", "--quiet", "--out", "b"]
    assert dno("optimize", *more)[0] == 0
    assert library.open_run("b").pictures()[0].size == (16, 16)


def test_a_model_that_only_the_current_folder_has_is_taken_and_told(
    toys: Path, dno: Command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model(toys / "there" / "tiny", 16)
    (toys / "here").mkdir()
    (toys / "here" / "my.toml").write_text(
        'prompts = "x"\nrewards = "brightness"\niterations = 1\n'
        'sampler = {use = "sized", model = "tiny"}\n'
    )
    monkeypatch.chdir(toys / "there")
    assert dno("optimize", "--config", "../here/my.toml", "--quiet", "--out", "a")[0] == 0
    assert "tiny is not in " in caplog.text
    assert "the one in the current folder is taken" in caplog.text


def test_an_installed_model_is_no_folder_of_that_name(toys: Path) -> None:
    model(toys / "emoji", 8)
    config = RunConfig.parse({"prompts": "x", "rewards": "clip", "sampler": "ddim"})
    assert config.located(toys).sampler.model == "emoji"
    assert Path(find_model("emoji")).is_dir()


def test_loras_are_files_of_that_folder(toys: Path) -> None:
    (toys / "style.safetensors").touch()
    loras = ["style.safetensors=0.5", "owner/name", "gone.safetensors"]
    values = {"prompts": "x", "rewards": "brightness", "sampler": {"use": "ddim", "loras": loras}}
    found = RunConfig.parse(values).located(toys).sampler.loras
    assert found == (f"{toys}/style.safetensors=0.5", "owner/name", "gone.safetensors")


def test_a_session_keeps_its_models_whatever_folder_is_current(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(toys / "here" / "tiny", 8)
    model(toys / "there" / "tiny", 16)
    monkeypatch.chdir(toys / "here")
    session = library.load(reward="brightness", sampler={"use": "sized", "model": "tiny"})
    monkeypatch.chdir(toys / "there")
    result = session.optimize("x", iterations=1, out="run")
    assert result.best.samples.shape[-1] == 8
    monkeypatch.chdir(toys)
    assert library.resume("there/run", iterations=2).best.samples.shape[-1] == 8


def format_2(folder: Path, **changed: str) -> None:
    """As versions before this one left a run: no checksums, paths as they were given."""
    for name in ("state.safetensors", "noise.safetensors"):
        with safe_open(folder / name, "pt") as file:
            about = json.loads(file.metadata()["dno"])
        for key in ("tensors", "checksum", "history"):
            about.pop(key, None)
        if "config" in about:
            about["config"]["sampler"] |= changed
        about["format"] = "2"
        save_file(load_file(folder / name), folder / name, {"dno": json.dumps(about)})
    text = (folder / "run.toml").read_text()
    for value in changed.values():
        text = text.replace(f'"{Path(value).absolute()}"', f'"{value}"')
    (folder / "run.toml").write_text(text)
    (folder / ".lock").touch()


def test_a_folder_of_format_2_opens_resumes_and_can_be_started_from(
    toys: Path, dno: Command, caplog: pytest.LogCaptureFixture
) -> None:
    model(toys / "tiny", 8)
    whole = args("--sampler", "sized", "--model", "tiny", "--out", "whole", "--iterations", 3)
    assert dno(*whole)[0] == 0
    assert dno(*args("--sampler", "sized", "--model", "tiny", "--out", "old"))[0] == 0
    format_2(toys / "old", model="tiny")
    assert tomllib.loads((toys / "old" / "run.toml").read_text())["sampler"]["model"] == "tiny"

    opened = library.open_run("old")
    assert opened.noise().shape == (1, 384)
    assert len(opened.history) == 2
    assert dno(*args("--sampler", "toy", "--start", "old", "--out", "from"))[0] == 0
    assert dno("resume", "old", "--iterations", 3)[0] == 0
    assert "tiny is not in " in caplog.text
    for name in ("best.png", "noise.safetensors"):
        assert (toys / "old" / name).read_bytes() == (toys / "whole" / name).read_bytes()
    # From now on it is one of today's.
    os.chdir("/")
    caplog.clear()
    assert dno("resume", toys / "old", "--iterations", 4)[0] == 0
    assert caplog.text == ""


def greet(*anything: object) -> None:
    """A callback."""


def test_a_live_option_is_named_and_wedges_nothing(toys: Path, dno: Command) -> None:
    tiny = model(toys / "tiny", 8)
    sampler = {"use": "sized", "model": str(tiny), "callback": greet}
    result = library.optimize("x", reward="brightness", sampler=sampler, iterations=1, out="run")
    assert result.status == "finished"
    run = library.open_run("run")
    assert run.values["sampler"]["callback"] == {"python": "greet"}
    assert not run.resumable
    for args in (["resume", "run"], ["optimize", "--config", "run/run.toml"]):
        code, _, err = dno(*args)
        assert code == 2
        assert 'sampler.callback: was a Python object, "greet"; run it again from Python' in err
    with pytest.raises(ConfigError, match="callback"):
        library.resume("run")


class Odd(RewardConfig):
    """A reward with an option that no file can hold."""

    words: Any = None

    def build(self, ctx: object) -> Any:
        return lambda images, prompts: images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    "value",
    [None, [None], {"a": [{"b": object()}]}, "\ud800", 10**5000, torch.ones(2), {1: 2}],
    ids=lambda value: type(value).__name__,
)
def test_whatever_an_option_is_the_folder_can_be_read_again(
    toys: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setattr(type(REWARDS), "name_of", lambda self, config: "odd")
    config = RunConfig.parse({"prompts": "x", "rewards": {"use": Odd(words=value)}})
    values = tomllib.loads(config.to_toml().decode())
    assert values["rewards"][0]["use"] == "odd"


class KilledError(BaseException):
    """What stands for a kill: nothing catches it, and nothing is written after it."""


@contextmanager
def killed_at(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A process that is killed at its `count`-th operation on files; the operations so far."""
    done: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*given: Any, **named: Any) -> Any:
            if len(done) >= count:
                raise KilledError
            done.append(name)
            if len(done) == count and name == "fsync":
                # A part of what was written got there.
                os.ftruncate(given[0], os.fstat(given[0]).st_size - 3)
                raise KilledError
            return None if name == "fsync" else call(*given, **named)

        return operation

    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "replace", "unlink", "mkdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield done


def test_a_run_that_is_killed_at_any_operation_goes_on_to_the_same_bits(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SAVE_SECONDS", 0.0)

    def begin(name: str) -> None:
        library.optimize("x", iterations=3, out=name, **QUICK)

    with killed_at(10**9, monkeypatch) as operations:
        begin("whole")
    assert len(operations) > 40
    wanted = {
        name: (toys / "whole" / name).read_bytes()
        for name in ("noise.safetensors", "best.png", "last.png", "run.toml")
    }
    # Every other one, since each file is opened, written and renamed alike.
    for count in range(1, len(operations), 2):
        name = f"killed-{count}"
        with killed_at(count, monkeypatch), pytest.raises(KilledError):
            begin(name)
        if (toys / name / "run.toml").exists():
            library.resume(name)
        else:
            begin(name)
        for file, data in wanted.items():
            assert (toys / name / file).read_bytes() == data, (count, operations[count - 1], file)
        assert len(library.open_run(name).history) == 4
        assert not list((toys / name).glob("*.part"))


def test_two_commands_cannot_work_in_one_folder(toys: Path, dno: Command) -> None:
    assert dno(*args("--sampler", "toy", "--out", "run"))[0] == 0
    from dno.runs.storage import RunFolder

    with RunFolder(toys / "run"):
        (toys / "run" / ".lock").unlink(missing_ok=True)
        code, _, err = dno("resume", "run")
        assert code == 2
        assert "in use by another process" in err
        with pytest.raises(RunFolderError, match="in use"):
            library.resume("run")
    assert dno("resume", "run")[0] == 0
