"""What pictures say of their making: read by others' rules, private, and not believed when read."""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dno.errors import ConfigError
from dno.media import IMAGE, encoded, png
from dno.registry.configs import BuildContext, RewardConfig
from dno.registry.registry import REWARDS
from dno.runs.carried import read_carried
from dno.runs.making import Making
from dno.runs.portable import portable
from dno.runs.run_config import RunConfig
from dno.runs.shorthands import assemble
from dno.testing import strategies as dno_st

SIZE = (64, 48)


def config(**values: Any) -> RunConfig:
    return RunConfig.parse({"prompts": "a cat", "rewards": "brightness", **values})


def texts(made: RunConfig, row: int | None = 0) -> dict[str, str]:
    return Making(made).texts(row, SIZE)


def picture(path: Path, about: Mapping[str, str]) -> Path:
    path.write_bytes(png(Image.new("RGB", SIZE), about))
    return path


# What is told of the form by those who read it: the settings are the last line if at least three
# pairs are in it; a value is JSON text in quotes, or all up to the next comma.
PAIR = re.compile(
    r"""\s* (?P<key> \w [\w\ /-]+ ) : \s*
        (?P<value> " (?: \\. | [^"\\] )+ " | [^,]* ) (?: , | $ )""",
    re.VERBOSE,
)


def as_others_read(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings."""
    *lines, last = text.strip().split("\n")
    pairs = [(found["key"], found["value"]) for found in PAIR.finditer(last)]
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    into = prompt
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            into = negative
            line = line.removeprefix("Negative prompt:").strip()
        into.append(line)
    settings = {
        key: json.loads(value) if value.startswith('"') and value.endswith('"') else value
        for key, value in pairs
    }
    return "\n".join(prompt), "\n".join(negative), settings


def test_settings_are_read_by_the_rules_of_others() -> None:
    made = config(
        seeds=[7, 2**64 - 1],
        iterations=3,
        sampler={"use": "ddim", "steps": 20, "guidance_scale": 7.5, "negative_prompt": "blurry"},
        rewards=[{"use": "brightness", "weight": 2}, {"use": "contrast", "weight": 0.5}],
    )
    prompt, negative, settings = as_others_read(texts(made, 1)["parameters"])
    assert (prompt, negative) == ("a cat", "blurry")
    assert settings["Seed"] == str(2**64 - 1)
    assert settings["Size"] == "64x48"
    assert (settings["Steps"], settings["Sampler"]) == ("20", "DDIM")
    assert settings["CFG scale"] == "7.5"
    assert (settings["Model"], settings["RNG"]) == ("emoji", "CPU")
    assert settings["DNO rewards"] == "brightness=2, contrast=0.5"
    assert "Batch size" not in settings


@given(
    prompt=dno_st.prompts(),
    negative=st.text(max_size=60),
    model=st.text(min_size=1, max_size=20),
)
@example(prompt="(a cat:1.2), b", negative='b, c: "d"\nSteps: 3', model='an, "odd": name')
@example(prompt="Steps: 1, Seed: 2, Size: 3x4", negative=" ", model='"quoted"')
def test_any_text_is_read_back(prompt: str, negative: str, model: str) -> None:
    sampler = {"use": "ddim", "negative_prompt": negative, "model": model}
    made = config(prompts=prompt, sampler=sampler)
    carried = texts(made)
    read_prompt, read_negative, settings = as_others_read(carried["parameters"])
    if not made.prompts[0].strip().startswith("Negative prompt:"):
        assert read_prompt == made.prompts[0].strip()
    named = tomllib.loads(carried["dno"])["run"]["sampler"]
    if negative.isprintable() and "negative_prompt" in named:
        assert read_negative == negative.strip()
    if model.isprintable() and "model" in named:
        assert settings["Model"] == model.removesuffix(".safetensors")
    assert settings["RNG"] == "CPU"

    # And through a file, where other programs save text as Latin-1 if it will do.
    info = Image.open(io.BytesIO(png(Image.new("RGB", (1, 1)), carried))).info
    assert {key: info[key] for key in carried} == carried
    assert tomllib.loads(info["dno"])["run"]["prompts"] == [made.prompts[0]]


def test_each_sample_has_its_own_and_all_of_them_the_whole() -> None:
    made = config(prompts=["a cat", "a dog"], seeds=[0, 5])
    making = Making(made)
    files = encoded(IMAGE, torch.zeros(4, 3, 48, 64), making.texts)
    found = [Image.open(io.BytesIO(data)).info for _, data in files]
    items = [tomllib.loads(info["dno"])["run"] for info in found]
    assert [(run["prompts"], run["seeds"]) for run in items] == [
        ([prompt], [seed]) for prompt, seed in made.items()
    ]
    whole = texts(made, None)
    assert tomllib.loads(whole["dno"])["run"]["prompts"] == ["a cat", "a dog"]
    assert as_others_read(whole["parameters"])[2]["Batch size"] == "4"


def test_a_digital_source_type_is_that_of_the_iptc(tmp_path: Path) -> None:
    with Image.open(picture(tmp_path / "drawn.png", texts(config()))) as opened:
        drawn = opened.info["xmp"].decode()
    given_picture = tmp_path / "given.png"
    Image.new("RGB", (8, 8)).save(given_picture)
    edited = texts(config(sampler={"use": "ddim", "image": str(given_picture)}))
    key = "http://cv.iptc.org/newscodes/digitalsourcetype/"
    assert f"{key}trainedAlgorithmicMedia" in drawn
    assert f"{key}compositeWithTrainedAlgorithmicMedia" in edited["XML:com.adobe.xmp"]


def test_a_picture_comes_back_as_the_configuration(tmp_path: Path) -> None:
    made = config(
        seeds=[3],
        iterations=2,
        device="cpu",
        warm_start={"optimizer": "best-of-n", "iterations": 2},
        observers=["images", "curve"],
        rewards=[{"use": "brightness", "weight": 2}, "contrast"],
    )
    carried = read_carried(picture(tmp_path / "best.png", texts(made)))
    assert carried.local == {}
    again = assemble(carried.values, {}, local=carried.local)
    assert again == made.model_copy(update={"observers": config().observers})


class Asking(RewardConfig):
    """A reward with files, an address and a secret's name."""

    personal: ClassVar[frozenset[str]] = frozenset({"key"})
    model: str = "owner/name"
    weights: Path | None = None
    server: str = ""
    notes: Mapping[str, str] = {}
    key: str = "NONE"

    def build(self, ctx: BuildContext) -> Any:
        raise NotImplementedError


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Asking`, as if it were installed."""
    load = REWARDS.load
    monkeypatch.setattr(
        type(REWARDS), "load", lambda self, use: Asking if use == "asking" else load(use)
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of somebody whose name is nobody else's business."""
    place = tmp_path / "ann-lovelace"
    (place / "models" / "mine").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place)
    return place


@pytest.mark.usefixtures("asking")
def test_nothing_tells_of_folders_or_users(home: Path) -> None:
    values = {
        "start": str(home / "runs" / "one"),
        "device": "cuda:3",
        "sampler": {
            "use": "ddim",
            "model": str(home / "models" / "mine"),
            "loras": [f"{home}/models/mine=0.5", "owner/lora"],
            "mask": {"path": f"{home}/mask.png", "sha256": "0" * 64},
            "controlnet": str(home / "models" / "mine"),
        },
        "rewards": [
            "brightness",
            {
                "use": "asking",
                "weights": "models/weights.safetensors",
                "server": "https://ann-lovelace.example/v1",
                "notes": {"where": f"see {home}/notes.txt"},
                "key": "ANN_LOVELACE",
            },
        ],
        "observers": [{"use": "images"}],
    }
    own = portable(values)
    assert "ann-lovelace" not in repr(own).lower()
    assert "ann_lovelace" not in repr(own).lower()
    assert own.local == {
        "start": "one",
        "sampler.model": "mine",
        "sampler.loras": "mine=0.5",
        "sampler.mask": "mask.png",
        "sampler.controlnet": "mine",
        "rewards.1.weights": "weights.safetensors",
        "rewards.1.server": "",
        "rewards.1.notes": "notes.txt",
        "rewards.1.key": "",
    }
    assert own.values == {
        "sampler": {"use": "ddim"},
        "rewards": ["brightness", {"use": "asking"}],
    }


@pytest.mark.usefixtures("asking", "home")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model", "/etc"),
        ("model", "~"),
        ("model", "models/mine"),
        ("model", "../ann-lovelace/models"),
        ("weights", "weights.bin"),
        ("weights", "a\0b"),
        ("server", "http://169.254.169.254/latest"),
        ("server", "file:///etc/passwd"),
        ("notes", {"there": "/etc/passwd"}),
        ("key", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_nothing_is_read_that_a_picture_names(option: str, value: Any, tmp_path: Path) -> None:
    run = {"prompts": ["a cat"], "rewards": [{"use": "asking", option: value}]}
    path = hostile(tmp_path / "sent.png", {"run": run})
    carried = read_carried(path)
    assert list(carried.local) == [f"rewards.0.{option}"]
    place = re.escape(f"sent.png: rewards.0.{option}: was ")
    with pytest.raises(ConfigError, match=place) as told:
        assemble(carried.values, {}, source=carried.source, command_line=True, local=carried.local)
    assert f"--set rewards.0.{option}=" in str(told.value)


def test_what_is_named_anew_goes_over_it(home: Path, tmp_path: Path) -> None:
    made = config(sampler={"use": "ddim", "model": str(home / "models" / "mine")})
    carried = read_carried(picture(tmp_path / "best.png", texts(made)))
    with pytest.raises(ConfigError, match=r'sampler.model: was "mine" .*: --model \.\.\.'):
        assemble(carried.values, {}, source=carried.source, command_line=True, local=carried.local)
    again = assemble(carried.values, {"model": "models/mine"}, local=carried.local)
    assert getattr(again.sampler, "model") == "models/mine"  # noqa: B009


def hostile(path: Path, content: Any) -> Path:
    """A picture with a chunk that no run wrote."""
    import tomli_w

    text = content
    if isinstance(content, dict):
        text = tomli_w.dumps({"format": 1, "dno": "0", "local": {}, **content})
    return picture(path, {"dno": text})


@dataclass(frozen=True)
class Bad:
    """A picture that is refused, and what is said of it."""

    name: str
    chunk: Any
    told: str


BAD = [
    Bad("no TOML", "prompts = [", "carries a configuration that cannot be read: "),
    Bad("deep", f"a = {'[' * 5000}{']' * 5000}", "nested too deeply"),
    Bad("nested", f"a = {'[' * 40}{']' * 40}", "nested more than 32 deep"),
    Bad("huge", "#" * (2**20 + 1), "larger than 1 MB"),
    Bad("another format", "format = 2", "of format 2, this dno reads 1"),
    Bad("a digit too many", f"format = {'9' * 5000}", "cannot be read"),
    Bad("no run", {}, "no tables `run` and `local`"),
    Bad("run of one", {"run": 1}, "no tables `run` and `local`"),
    Bad("odd local", {"run": {}, "local": {"a": 1}}, "no tables `run` and `local`"),
]


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
def test_a_damaged_configuration_is_told_in_a_sentence(bad: Bad, tmp_path: Path) -> None:
    path = hostile(tmp_path / "sent.png", bad.chunk)
    with pytest.raises(ConfigError, match=re.escape(bad.told)) as told:
        read_carried(path)
    assert "sent.png: " in str(told.value)
    assert "\n" not in str(told.value)


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def with_chunk(data: bytes, extra: bytes) -> bytes:
    """A PNG file with one chunk more, behind its head of 33 bytes."""
    return data[:33] + extra + data[33:]


PLAIN = png(Image.new("RGB", (2, 2)))


def bomb() -> bytes:
    """100 MB of text in 100 kB."""
    return chunk(b"iTXt", b"dno\0\1\0\0\0" + zlib.compress(b"#" * (100 * 2**20)))


FILES = {
    "nothing": (b"", "is no PNG picture"),
    "text": (b"prompts = 'a cat'", "is no PNG picture"),
    "jpeg": (b"\xff\xd8\xff\xe0" + b"\0" * 64, "is no PNG picture"),
    "cut short": (PLAIN[:20], "is "),
    "wrong sum": (with_chunk(PLAIN, bomb()[:-1] + b"\0"), "is "),
    "plain": (PLAIN, "carries no configuration of dno"),
    "bomb": (with_chunk(PLAIN, bomb()), "is damaged: "),
    "a size that no machine holds": (
        PLAIN[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + PLAIN[24:],
        "is ",
    ),
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_that_is_no_such_picture_is_told_in_a_sentence(name: str, tmp_path: Path) -> None:
    data, told = FILES[name]
    path = tmp_path / "sent.png"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=re.escape(f"sent.png: {told}")):
        read_carried(path)


def test_a_picture_of_another_program_is_told_from_a_plain_one(tmp_path: Path) -> None:
    about = PngInfo()
    about.add_text("parameters", "a cat\nSteps: 20, Sampler: DDIM, Seed: 1")
    Image.new("RGB", (2, 2)).save(tmp_path / "theirs.png", pnginfo=about)
    with pytest.raises(ConfigError, match="only what another program wrote"):
        read_carried(tmp_path / "theirs.png")
    with pytest.raises(ConfigError, match="there is no such file"):
        read_carried(tmp_path / "none.png")


@given(data=st.binary(max_size=200))
def test_bytes_in_a_picture_raise_nothing_else(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(with_chunk(PLAIN, chunk(b"iTXt", b"dno\0\0\0\0\0" + data)))
    with contextlib.suppress(ConfigError):
        read_carried(path)
