"""`dno plugins` in this process; that it imports no plugin is held in tests/unit/test_layers.py."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Field

from dno import __version__
from dno.plugin import RewardConfig
from dno.registry.describe import options
from dno.registry.registry import REGISTRIES


def test_version(dno):
    assert dno("--version") == (0, f"dno {__version__}\n", "")


def test_list_has_every_built_in(dno):
    code, out, _ = dno("plugins", "list")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert {
        "ddim",
        "brightness",
        "clip",
        "jpeg",
        "permutation",
        "adam",
        "sgd",
        "progress",
        "emoji",
    } <= {r[1] for r in rows}
    assert ["rewards", "clip", "dno", __version__] in rows


def test_a_reader_that_has_seen_enough_is_no_fault():
    """The output goes into a pipe whose other end is closed, as `head` leaves it."""
    code = (
        "import sys; sys.argv = ['dno', 'plugins', 'list']; from dno.cli.main import main; main()"
    )
    command = f'exec 3> >(exec true); sleep 0.2; {sys.executable} -c "{code}" >&3'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_show_tells_options_types_defaults_and_meaning(dno):
    code, out, _ = dno("plugins", "show", "ddim")
    assert code == 0
    assert out.startswith(f"sampler ddim (dno {__version__})\n")
    assert "  steps: int >= 1 [default: 50]\n" in out
    assert "  memory: str [default: 'auto']\n" in out
    assert "Denoising steps" in out
    schema = json.loads(dno("plugins", "show", "--json", "rewards/jpeg")[1])
    assert schema["properties"]["quality"]["default"] == 95


def test_show_takes_the_name_that_settles_a_clash(dno):
    assert dno("plugins", "show", "dno:ddim")[1] == dno("plugins", "show", "ddim")[1]


def test_show_of_nothing(dno):
    code, _, err = dno("plugins", "show", "nope")
    assert code == 2
    assert err == 'dno: no plugin is called "nope"; see: dno plugins list\n'


class Every(RewardConfig):
    plain: int
    """Has to be given."""
    many: tuple[Annotated[int, Field(gt=0)], ...] = ()
    either: Annotated[float, Field(ge=0, le=1)] | Literal["auto", 3] | None = None
    whole: int | None = Field(default=None, ge=1)
    named: Optional[dict[str, Path]] = Field(default_factory=dict)  # noqa: UP045
    other: Annotated[str, Field(min_length=1), "a note"] = ""
    any: Any = None

    def build(self, ctx):
        raise NotImplementedError


def test_types_are_told_in_words():
    assert [(o.name, o.type, o.default) for o in options(Every)] == [
        ("weight", "float", "1.0"),
        ("frames", "'all' or 'first' or 'middle' or 'last' or int or None", "None"),
        ("plain", "int", None),
        ("many", "tuple[int > 0, ...]", "()"),
        ("either", "float >= 0 and <= 1 or 'auto' or 3 or None", "None"),
        ("whole", "int >= 1 or None", "None"),
        ("named", "dict[str, Path] or None", "{}"),
        ("other", "str", "''"),
        ("any", "Any", "None"),
    ]
    told = [
        option.type
        for r in REGISTRIES
        for i in r.infos()
        for option in options(r.load(i.qualified))
    ]
    assert not [text for text in told if "FieldInfo" in text or "typing" in text or "|" in text]


def test_check_imports_all(dno):
    code, out, err = dno("plugins", "check")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) >= 14
    assert all(line.endswith(" ok") for line in out.splitlines())


EXAMPLE = Path(__file__).parents[2] / "plugins" / "example-reward"
ABOUT = ("description = ", "license = ", "license-files = ")
"""Lines of a pyproject.toml that say what a plugin is about; a licence is its author's to
choose."""


def files_in(folder: Path) -> set[str]:
    paths = (
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(folder).as_posix() for path in paths}


def test_new_and_the_example_do_not_drift_apart(dno, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = dno("plugins", "new", "colorfulness")
    folder = tmp_path / "dno-colorfulness"
    assert (code, err) == (0, "")
    assert files_in(folder) == files_in(EXAMPLE) - {"LICENSE"}
    written, _, commands = out.partition("\n\nnext:\n")
    assert {
        Path(line).relative_to("dno-colorfulness").as_posix() for line in written.splitlines()
    } == files_in(folder)
    for command in commands.splitlines():
        assert command.split()[0] in {"cd", "pip", "dno", "pytest"}
    ours, example = (
        [
            line
            for line in (where / "pyproject.toml").read_text().splitlines()
            if not line.startswith(ABOUT)
        ]
        for where in (folder, EXAMPLE)
    )
    assert ours == example


@pytest.mark.parametrize(
    ("name", "module", "cls"),
    [("my-reward_2", "dno_my_reward_2", "MyReward2"), ("hpsv3.1", "dno_hpsv3_1", "Hpsv31")],
)
def test_new_is_sound_under_any_name(dno, tmp_path, name, module, cls):
    folder = tmp_path / "deep" / "folder"
    assert dno("plugins", "new", name, "--out", str(folder))[0] == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"dno.v1.rewards": {name: f"{module}:{cls}"}}
    for command in (["check"], ["format", "--check"]):
        rules = ["--no-cache", "--config", str(EXAMPLE.parents[1] / "pyproject.toml"), "."]
        subprocess.run([sys.executable, "-m", "ruff", *command, *rules], cwd=folder, check=True)


MISTAKES = {
    "a digit first": ("3d", 'NAME: "3d" is not a name; it needs a lower case letter first'),
    "a capital": ("Mine", "is not a name"),
    "a folder": ("../mine", "is not a name"),
    "two dashes": ("my--own", "is not a name"),
    "an installed reward": ("clip", 'NAME: "clip" is already a reward of dno; choose another'),
    "an installed module": ("emoji", "would be the module dno_emoji, which is installed already"),
    "a keyword": ("none", "would be the class None, which is taken"),
    "a name of the skeleton": ("reward-config", "would be the class RewardConfig, which is taken"),
    # The longest name of a file is 255 bytes: the folder's is shorter, that of the tests in it is
    # not.
    "too long": ("x" * 250, "cannot be made: File name too long; name another folder: --out"),
}


@pytest.mark.parametrize(("name", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_new_refuses_in_one_sentence_and_leaves_nothing_behind(
    dno, monkeypatch, tmp_path, name, told
):
    monkeypatch.chdir(tmp_path)
    code, out, err = dno("plugins", "new", name)
    assert (code, out) == (2, "")
    assert told in err
    assert err.startswith("dno: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_new_takes_back_the_folders_above_but_none_that_were_there(dno, tmp_path):
    (tmp_path / "mine").mkdir()
    code, _, err = dno(
        "plugins", "new", "own", "--out", str(tmp_path / "mine" / "new" / "newer" / ("x" * 300))
    )
    assert code == 2
    assert "cannot be made: File name too long; name another folder: --out" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_new_overwrites_nothing(dno, tmp_path):
    for place in (tmp_path / "empty", tmp_path / "used"):
        place.mkdir()
    (tmp_path / "used" / "pyproject.toml").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "used", "file"):
        code, _, err = dno("plugins", "new", "mine", "--out", str(tmp_path / name))
        assert code == 2
        assert f"{name} is there already and stays as it is; name another folder: --out\n" in err
    assert files_in(tmp_path) == {"used/pyproject.toml", "file"}
    assert dno("plugins", "new", "mine", "--out", str(tmp_path / "file" / "mine"))[0] == 2


def test_a_distribution_with_damaged_metadata_is_named_beside_all_others(dno, site):
    broken = site.path / "dno_broken-1.2.dist-info"
    site.install("dno-broken", "")
    (broken / "entry_points.txt").write_bytes(b"[dno.v1.rewards]\ncaf\xe9 = x:Y\n")
    for registry in REGISTRIES:
        registry.refresh()
    code, out, err = dno("plugins", "list")
    assert code == 0
    assert "brightness" in out
    assert err.startswith("dno: the metadata of dno-broken cannot be read (")

    code, out, err = dno("plugins", "check")
    assert code == 1
    assert "dno: the metadata of dno-broken cannot be read (" in err
    # Libraries that look for entry points of their own go on, too.
    assert importlib.metadata.entry_points(group="dno.v1.rewards")
