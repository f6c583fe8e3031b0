"""Configuration files of every kind that people have, and those that only mischief makes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dno.errors import ConfigError
from dno.runs.config_files import LARGEST, read_values
from dno.runs.run_config import RunConfig

TEXT = 'prompts = ["a café at night"]\nrewards = ["brightness"]\niterations = 7\n'
VALUES = {"prompts": ["a café at night"], "rewards": ["brightness"], "iterations": 7}

ENCODED = {
    "utf-8": TEXT.encode(),
    "with a mark": TEXT.encode("utf-8-sig"),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16, big end first": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "of Windows": TEXT.replace("\n", "\r\n").encode(),
    "of Windows with a mark": TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
    "of PowerShell": TEXT.replace("\n", "\r\n").encode("utf-16"),
}


@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED.keys())
def test_toml_as_editors_save_it(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes(data)
    assert read_values(file) == VALUES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_and_yaml_say_the_same(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "my.json").write_text(json.dumps(VALUES), encoding=encoding)
    (tmp_path / "my.YAML").write_text(yaml.safe_dump(VALUES, allow_unicode=True), encoding=encoding)
    (tmp_path / "my.yml").write_text(
        "prompts: [a café at night]\nrewards:\n  - brightness\niterations: 7\n", encoding=encoding
    )
    for name in ("my.json", "my.YAML", "my.yml"):
        assert read_values(tmp_path / name) == VALUES
        assert RunConfig.parse(read_values(tmp_path / name)).iterations == 7


def test_yaml_without_its_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.yaml").write_text("prompts: x")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match="my.yaml: YAML needs the package PyYAML; try: pip"):
        read_values(tmp_path / "my.yaml")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)

MISCHIEF = {
    "500 lists in lists": ("a.toml", "a = " + "[" * 500 + "]" * 500, "nested"),
    "500 tables in tables": ("a.toml", "a = " + "{a = " * 500 + "1" + "}" * 500, "nested"),
    "a place of 5000 parts": ("a.toml", ".".join(["a"] * 5000) + " = 1", "nested"),
    "500 in JSON": ("a.json", '{"a": ' + "[" * 500 + "]" * 500 + "}", "nested"),
    "100,000 in JSON": ("a.json", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
    "500 in YAML": ("a.yaml", "a: " + "[" * 500 + "]" * 500, "nested"),
    "a number without end": ("a.toml", "seeds = " + "9" * 10_000, "not valid TOML: "),
    "a number without end in JSON": ("a.json", '{"seeds": ' + "9" * 10_000 + "}", "not valid JSON"),
    "a number without end in YAML": ("a.yaml", "seeds: " + "9" * 10_000, "not valid YAML"),
    "laughs": ("a.yaml", LAUGHS, "more than 200,000 values"),
    "a list of itself": ("a.yaml", "a: &a [*a]", "nested more than 32 deep"),
    "a Python object": ("a.yaml", "a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    "a key twice in JSON": ("a.json", '{"seeds": 1, "seeds": 2}', "'seeds' is there twice"),
    "a key twice in YAML": ("a.yaml", "seeds: 1\nseeds: 2\n", "'seeds' is there twice"),
    "a key that is no text": ("a.yaml", "1: x\n", "keys should be text, got 1"),
    "a list": ("a.json", "[1, 2]", r"should hold a table of options, .*got \[1, 2\]"),
    "nothing of JSON": ("a.json", "", "not valid JSON: "),
    "nothing of YAML": ("a.yaml", "", "should hold a table of options"),
    "half of JSON": ("a.json", '{"prompts": ["x', "not valid JSON: "),
    "TOML in JSON": ("a.json", TEXT, "not valid JSON: "),
    "hostile": ("a.toml", 'a\x1b]0;owned\x07 = "', "not valid TOML: "),
    "20 MB": ("a.toml", "#" * (20 * 2**20), "larger than 10 MB"),
    "20 MB of lists": ("a.json", "[" * (20 * 2**20), "larger than 10 MB"),
}


@pytest.mark.parametrize(("name", "text", "told"), MISCHIEF.values(), ids=MISCHIEF.keys())
def test_mischief_is_told_at_once_in_one_sentence(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError, match=told) as caught:
        read_values(file)
    assert time.process_time() - began < 5
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    (tmp_path / "terminal.toml").symlink_to("/dev/tty")
    told = {
        "pipe.toml": "cannot be read: it is no regular file",
        "zero.toml": "cannot be read: it is no regular file",
        "terminal.toml": "cannot be read: it is no regular file",
        "folder.toml": "cannot be read: it is a folder",
        "none.toml": "there is no such file",
    }
    for name, why in told.items():
        if name == "terminal.toml" and not Path("/dev/tty").exists():
            continue
        with pytest.raises(ConfigError, match=f"{name}: {why}"):
            read_values(tmp_path / name)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('prompts = "café"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"no text in UTF-8 \(byte 14\); save it as UTF-8"):
        read_values(tmp_path / "latin.toml")


@given(data=st.binary(max_size=300), kind=st.sampled_from(["toml", "json", "yaml"]))
def test_whatever_is_in_a_file_it_is_values_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str
) -> None:
    file = tmp_path_factory.mktemp("any") / f"a.{kind}"
    file.write_bytes(data)
    # Anything else that is raised fails the test.
    with contextlib.suppress(ConfigError):
        assert isinstance(read_values(file), dict)


@pytest.mark.slow
def test_what_a_run_saves_can_be_read_or_is_refused_before() -> None:
    prompt = "a" * 1000
    config = RunConfig.parse({"prompts": [prompt] * 20_000, "rewards": "brightness"})
    with pytest.raises(ConfigError, match="prompts: its run.toml would be larger than 10 MB"):
        config.to_toml()
    assert len(RunConfig.parse({"prompts": "x", "rewards": "brightness"}).to_toml()) < LARGEST
