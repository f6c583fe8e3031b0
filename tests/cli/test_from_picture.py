"""A picture alone repeats its run, on the command line and in Python."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dno as package
from dno.errors import ConfigError

pytestmark = pytest.mark.slow

BITS = ("initial.png", "best.png", "last.png", "noise.safetensors")


@pytest.fixture(autouse=True)
def _empty_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(dno, tmp_path):
    """A run with an option of each kind."""
    args = ["a black cat", "a dog", "--seed", 3, "--batch", 2, "--reward", "brightness=2"]
    args += ["--reward", "contrast", "--negative-prompt", "blurry: very", "--steps", 4]
    args += ["--iterations", 2, "--set", "optimizer.step=4", "--set", "sampler.memory=recompute"]
    code, _, err = dno("optimize", *args, "--device", "cpu", "--quiet", "--out", "one")
    assert (code, err) == (0, "")
    return tmp_path / "one"


def bits(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BITS}


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_a_picture_repeats_its_run(dno, made, tmp_path):
    # Of all samples, from anywhere, with nothing else left of the run.
    (tmp_path / "best.png").write_bytes((made / "best.png").read_bytes())
    assert dno("optimize", "--from", "best.png", "--out", "two", "--quiet")[0] == 0
    assert bits(tmp_path / "two") == bits(made)
    assert (tmp_path / "two" / "best-3.png").is_file()

    # One sample of several, as that sample alone. Sums over fewer samples are rounded otherwise.
    assert dno("optimize", "--from", made / "best-3.png", "--out", "three", "--quiet")[0] == 0
    assert package.open_run("three").items == [("a dog", 4)]
    alone = (tmp_path / "three" / "best.png").read_bytes()
    beside, by_itself = opened(made / "best-3.png"), opened(tmp_path / "three" / "best.png")
    assert by_itself.info == beside.info
    assert np.abs(np.asarray(beside, dtype=int) - np.asarray(by_itself, dtype=int)).max() <= 2

    # Options go over it, and so does a prompt.
    args = ["--iterations", 1, "--seed", 9, "--no-metadata", "--quiet", "--out", "four"]
    assert dno("optimize", "a bird", "--from", "best.png", *args)[0] == 0
    run = package.open_run("four")
    assert run.items == [("a bird", 9)]
    assert run.values["iterations"] == 1
    assert run.values["sampler"]["negative_prompt"] == "blurry: very"
    assert run.values["metadata"] is False
    assert opened(tmp_path / "four" / "best.png").info == {}

    # It is no part of what may not change midway.
    assert dno("resume", "four", "--iterations", 2, "--set", "metadata=true")[0] == 0
    assert {"parameters", "dno"} <= opened(tmp_path / "four" / "best.png").info.keys()

    result = package.again(made / "best-3.png", out="five")
    assert (tmp_path / "five" / "best.png").read_bytes() == alone
    assert list(result.items) == [("a dog", 4)]
    other = package.again(made / "best-3.png", prompt="a fox", reward="contrast", iterations=1)
    assert list(other.climbed) == ["contrast"]


def test_a_local_model_has_to_be_named_anew(dno, tiny_folder, tmp_path):
    args = ["a cat", "--reward", "brightness", "--model", tiny_folder, "--steps", 3]
    assert dno("optimize", *args, "--iterations", 1, "--quiet", "--out", "one")[0] == 0
    picture = tmp_path / "one" / "best.png"
    for part in tiny_folder.parent.parts[1:]:
        assert part.encode() not in picture.read_bytes()

    code, _, err = dno("optimize", "--from", picture, "--out", "two")
    assert code == 2
    assert re.search(rf'sampler\.model: was "{tiny_folder.name}" .* --model \.\.\.$', err.strip())
    assert not (tmp_path / "two").exists()
    with pytest.raises(ConfigError, match=r"name yours: model=\.\.\.$"):
        package.again(picture)

    assert dno("optimize", "--from", picture, "--model", tiny_folder, "--out", "two")[0] == 0
    assert (tmp_path / "two" / "best.png").read_bytes() == picture.read_bytes()


def test_a_mistake_is_told_before_anything_loads(dno, tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    code, out, err = dno("optimize", "--from", "plain.png")
    assert (code, out) == (2, "")
    assert err.startswith("dno: plain.png: carries no configuration of dno; ")
    code, _, err = dno("optimize", "--from", "plain.png", "--config", "run.toml")
    assert code == 2
    assert err.startswith("dno: --from: a run repeats a picture or a file, not both")
