"""What strangers send: run folders that lead elsewhere, and names that a terminal would obey."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import tomli_w
from distributions import Site
from safetensors import safe_open
from safetensors.torch import save_file

import dno as library
from dno.errors import RunFolderError
from dno.runs.storage import RunFolder

pytestmark = pytest.mark.slow

Command: TypeAlias = Callable[..., tuple[int, str, str]]

OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp"
TOY = ["--sampler", "toy", "--reward", "brightness", "--quiet", "--observer", "images"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run is that each test gets a copy of."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def sent(
    kept: Path, site: Site, dno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run folder as somebody may send it, whole."""
    site.install_toy()
    monkeypatch.chdir(tmp_path)
    if not kept.exists():
        every = "observers.3.every=1"
        args = ["optimize", "a cat", *TOY, "--iterations", 2, "--set", every, "--out", kept]
        code, _, err = dno(*args)
        assert (code, err) == (0, "")
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def bits(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".jsonl"}


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_no_link_in_a_run_folder_is_written_through(
    sent: Path, dno: Command, tmp_path: Path, kind: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    names = [str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()]
    assert {"run.toml", "report.html", "steps/0-0.png", "frames/000000.webp"} <= set(names)
    # What versions before this one opened, and what they locked.
    more = [".lock", *(f".{name}.part" for name in names if "/" not in name)]
    # What this process will write beyond what is there.
    more += ["steps/3-0.png", "steps/4-0.png"]
    for name in [*names, *more]:
        place = mine / name.replace("/", "-")
        if name in names:
            shutil.move(sent / name, place)
        else:
            place.write_text("years of work")
        if kind == "hard":
            (sent / name).hardlink_to(place)
        else:
            (sent / name).symlink_to(place)

    before = bits(mine)
    code, _, err = dno("resume", "run", "--iterations", 4)
    assert (code, err) == (0, "")
    assert bits(mine) == before
    assert len((sent / "history.jsonl").read_text().splitlines()) == 5
    assert not any((sent / name).is_symlink() for name in names if "/" not in name)


def test_a_link_to_another_folder_is_refused(sent: Path, dno: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.move(sent / "steps", mine)
    (sent / "steps").symlink_to(mine)
    before = bits(mine)
    code, _, err = dno("resume", "run", "--iterations", 4)
    assert code == 2
    assert "steps is a link, and what is written there would be written elsewhere; remove it" in err
    assert bits(mine) == before


def test_removing_the_lock_lets_nobody_in(sent: Path) -> None:
    with RunFolder(sent):
        (sent / ".lock").unlink(missing_ok=True)
        with pytest.raises(RunFolderError, match="in use by another process"):
            RunFolder(sent)
    RunFolder(sent).__exit__()


def test_what_a_killed_process_left_is_removed_by_the_next(sent: Path, dno: Command) -> None:
    left = [sent / f".dno-{'0' * 16}.part", sent / "steps" / f".dno-{'f' * 16}.part"]
    for path in left:
        path.write_bytes(b"half")
    assert dno("resume", "run")[0] == 0
    assert not any(path.exists() for path in left)


def edited(values: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    copy: Any = json.loads(json.dumps(values))
    here = copy
    *path, last = place.split("/")
    for key in path:
        here = here[int(key)] if isinstance(here, list) else here[key]
    here[int(last) if isinstance(here, list) else last] = value
    return dict(copy)


LONG = [f"prompt number {i} of thousands" for i in range(9972)]
EDITS = {
    "a key": (HOSTILE, 1),
    "a long key": ("k" * 50_000, 1),
    "a key of a part": (f"sampler/{HOSTILE}", 1),
    "a name": ("sampler/use", HOSTILE),
    "a long name": ("sampler/use", "n" * 50_000),
    "a qualified name": ("rewards/0/use", f"{HOSTILE}:{HOSTILE}"),
    "a number": ("iterations", HOSTILE),
    "a long list": ("iterations", LONG),
    "a long text": ("seeds", ["9" * 50_000]),
    "a device": ("device", HOSTILE),
    "a dtype": ("dtype", HOSTILE * 500),
    "a path": ("start", f"/tmp/{HOSTILE}"),
    "a long path": ("start", "p" * 50_000),
    "prompts": ("prompts", [HOSTILE]),
    "many prompts": ("prompts", [*LONG, HOSTILE]),
    "prompts of another kind": ("prompts", {HOSTILE: LONG}),
    "a part of another kind": ("rewards", LONG),
    "a python object": ("rewards/0/use", f"python:{HOSTILE}"),
    "an option that was a python object": ("sampler/size", {"python": HOSTILE * 50}),
}


@pytest.mark.parametrize(("place", "value"), EDITS.values(), ids=EDITS.keys())
def test_what_a_run_toml_says_reaches_the_terminal_clean_and_short(
    sent: Path, dno: Command, place: str, value: Any
) -> None:
    values = tomllib.loads((sent / "run.toml").read_text())
    (sent / "run.toml").write_text(tomli_w.dumps(edited(values, place, value)))
    for args in (["resume", "run"], ["optimize", "--config", "run/run.toml", "--out", "two"]):
        code, out, err = dno(*args)
        assert code == 2
        assert out == ""
        assert err.startswith("dno: ")
        assert err.count("\n") == 1
        assert not OBEYED.search(err.rstrip("\n"))
        assert len(err) < 1100
        assert value not in (HOSTILE,) or HOSTILE not in err
        assert not re.search(r"(k|n|p|9){300}", err)
        assert err.count("prompt number") < 10


def test_what_a_state_says_reaches_the_terminal_clean(sent: Path, dno: Command) -> None:
    path = sent / "state.safetensors"
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["dno"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    about["format"] = "2"
    for change in ({"config": {HOSTILE: 1}}, {"iteration": HOSTILE}, {"failures": {HOSTILE: ""}}):
        save_file(tensors, path, {"dno": json.dumps({**about, **change})})
        code, _, err = dno("resume", "run")
        assert code == 2
        assert err.count("\n") == 1
        assert not OBEYED.search(err.rstrip("\n"))
    save_file({**tensors, HOSTILE: tensors["noise"].clone()}, path, {"dno": json.dumps(about)})
    code, _, err = dno("resume", "run")
    assert code == 2
    assert not OBEYED.search(err.rstrip("\n"))


@pytest.mark.parametrize(
    "args",
    [
        ["optimize", "x", "--reward", HOSTILE],
        ["optimize", "x", "--reward", "brightness", "--optimizer", "w" * 9999],
        ["optimize", "x", "--reward", "brightness", "--model", HOSTILE],
        ["optimize", "x", "--reward", "brightness", "--set", f"{HOSTILE}=1"],
        ["optimize", "x", "--reward", "brightness", "--set", f"sampler.{HOSTILE}.a=1"],
        ["optimize", "x", "--reward", "brightness", "--set", "seeds=" + "9" * 9999],
        ["optimize", "x", "--reward", "brightness", "--set", "seeds=" + "[" * 999],
        ["optimize", "x", "--reward", "brightness", "--seed", "9" * 9999],
        ["optimize", "x", "--reward", "brightness", "--seed", HOSTILE],
        ["optimize", "x", "--reward", "brightness", "--out", HOSTILE + "\0"],
        ["optimize", "x", "--reward", "brightness", f"--{HOSTILE}"],
        ["optimize", "--config", f"{HOSTILE}.toml"],
        ["resume", HOSTILE],
        ["resume", "~nosuchuser/run"],
        ["resume", "n" * 9999],
        ["plugins", "show", HOSTILE],
        ["plugins", "new", HOSTILE],
        [HOSTILE],
    ],
    ids=lambda args: " ".join(args)[:60].encode("ascii", "backslashreplace").decode(),
)
def test_what_was_typed_is_told_clean_and_short(
    dno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = dno(*args)
    assert code == 2
    assert out == ""
    assert not OBEYED.search(err)
    assert len(err) < 1100
    assert list(tmp_path.iterdir()) == []


def test_names_of_plugins_are_told_clean(site: Site, dno: Command) -> None:
    name = f"bad{HOSTILE}"
    site.install("dno-hostile", f"[dno.v1.rewards]\n{name} = hostile_here:{HOSTILE}\n")
    for args in (["plugins", "list"], ["plugins", "check"]):
        _, out, err = dno(*args)
        assert "dno-hostile" in out
        assert not OBEYED.search(out + err)


RUDE = f"""
from dno.plugin import RewardConfig
class Rude(RewardConfig):
    def build(self, ctx):
        def reward(images, prompts):
            raise ValueError({HOSTILE!r} + repr(images.tolist()) * 9)
        return reward
class Unbuilt(RewardConfig):
    def build(self, ctx):
        raise RuntimeError({HOSTILE!r} + "z" * 10**6)
"""


@pytest.mark.parametrize("reward", ["rude", "unbuilt"])
def test_what_a_plugin_raises_is_told_clean_and_short(
    site: Site, dno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str
) -> None:
    site.install_toy()
    points = "[dno.v1.rewards]\nrude = rude_here:Rude\nunbuilt = rude_here:Unbuilt\n"
    site.install("dno-rude", points, "rude_here", RUDE)
    monkeypatch.chdir(tmp_path)
    code, _, err = dno("optimize", "x", "--sampler", "toy", "--reward", reward, "--quiet")
    assert code in (1, 2)
    assert "ValueError" in err or "RuntimeError" in err
    assert not OBEYED.search(err.rstrip("\n"))
    assert len(err) < 900


def test_a_saved_verdict_and_its_page_are_clean(sent: Path) -> None:
    from dno.report.facts import facts_of_saved
    from dno.report.verdict import verdict

    values = json.loads((sent / "result.json").read_text())
    values |= {"reason": HOSTILE, "failures": {"0": HOSTILE}, "status": "partial"}
    (sent / "result.json").write_text(json.dumps(values))
    assert not OBEYED.search(verdict(facts_of_saved(library.open_run(sent))))


def test_all_output_passes_one_place() -> None:
    """No other file of the command line prints: what passes `say` is clean."""
    folder = Path(library.__file__).parent
    for path in (folder / "cli").glob("*.py"):
        if path.name == "say.py":
            continue
        text = path.read_text("utf-8")
        assert not re.search(r"typer\.echo|\bprint\(|\bsys\.std(out|err)\.write", text), path.name


def test_an_encoding_that_lacks_a_character_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dno.cli.say import say

    with (tmp_path / "out").open("w", encoding="ascii") as file:
        monkeypatch.setattr("sys.stdout", file)
        say("a café → \ud800")
    assert (tmp_path / "out").read_text() == "a caf\\xe9 \\u2192 \\ud800\n"
