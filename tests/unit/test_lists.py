"""Lists of prompts: the forms that people have, and what is wrong with one told by its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dno.errors import ConfigError
from dno.runs.lists import Row, read_prompts, read_rows, rows_from
from dno.runs.spellings import parse_part, parse_seeds

Form = tuple[str, str, list[str]]
"""A file's name, what is in it, and its prompts."""

FORMS: dict[str, Form] = {
    "a line each (ddpo's animals)": (
        "animals.txt",
        "cat\r\ndog\n\n  horse \n",
        ["cat", "dog", "horse"],
    ),
    "DrawBench": (
        "drawbench.csv",
        '\ufeffPrompts,Category\nA red cube.,Colors\n"Two cats, one dog.",Counting\n',
        ["A red cube.", "Two cats, one dog."],
    ),
    "PartiPrompts": (
        "PartiPrompts.tsv",
        "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tBiology\n",
        ["bond"],
    ),
    "HPSv2": ("anime.json", json.dumps(["a girl", "a boy"]), ["a girl", "a boy"]),
    "columns": ("columns.json", json.dumps({"prompt": ["x", "y"], "seed": [1, 2]}), ["x", "y"]),
    "objects a line (COCO)": ("coco.jsonl", '{"caption": "a dog"}\n"a cat"\n', ["a dog", "a cat"]),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_list_in_the_forms_that_people_have(
    tmp_path: Path, form: tuple[str, str, list[str]]
) -> None:
    name, text, prompts = form
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert [row.prompt for row in read_rows(tmp_path / name)] == prompts


def test_columns_are_options_settings_or_labels(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text(
        "prompt,seed,steps,optimizer.step,rewards.0.weight,Category\na cat,3,20,4.5,,animals\n"
    )
    (row,) = read_rows(file)
    assert row == Row(
        "a cat",
        "table.csv, row 1",
        options={"seed": 3, "steps": 20},
        settings={"optimizer.step": 4.5},
        labels={"Category": "animals"},
    )


class Frame:
    """As pandas and polars hand out their columns."""

    def to_dict(self, orient: str) -> dict[str, list[Any]]:
        assert orient == "list"
        return {"prompt": ["x", "y"], "seed": [4, 5]}


@pytest.mark.parametrize(
    "prompts",
    [
        [{"prompt": "x", "seed": 4}, {"prompt": "y", "seed": 5}],
        {"prompt": ["x", "y"], "seed": (4, 5)},
        Frame(),
    ],
    ids=["tables", "columns", "a data frame"],
)
def test_what_python_has_at_hand(prompts: Any) -> None:
    rows = rows_from(prompts)
    assert [(row.prompt, row.options["seed"]) for row in rows] == [("x", 4), ("y", 5)]


@dataclass(frozen=True)
class Wrong:
    name: str
    text: str
    told: str


WRONG = {
    "no list": Wrong("list.docx", "x", r"list\.docx: is no list of prompts; .*\.txt"),
    "nothing in it": Wrong("list.txt", "\n  \n", r"list\.txt: holds no prompt"),
    "no column": Wrong("list.csv", "name,Category\nx,y\n", r"row 1: has no column of prompts"),
    "an empty cell": Wrong("list.csv", "prompt,seed\nx,1\n,2\n", r"row 2: has no prompt"),
    "too many cells": Wrong("list.csv", "prompt\nx\ny,z\n", r"list\.csv: row 2 has more cells"),
    "no JSON": Wrong("list.jsonl", '"x"\n{"prompt": \n', r"list\.jsonl, line 2: is no JSON"),
    "no list of JSON": Wrong("list.json", "3", r"list\.json: should hold a list of prompts"),
    "uneven columns": Wrong("list.json", '{"prompt": ["x"], "seed": []}', "equally long lists"),
    "a number": Wrong("list.json", '["x", 3]', r"list\.json, entry 2: is neither a prompt nor"),
    "a misspelt place": Wrong(
        "list.csv", "prompt,optimzer.step\nx,1\n", r"row 1: the column 'optimzer.step' leads to no "
        r"option; did you mean optimizer\?"
    ),
    "not text": Wrong("list.txt", "a\nb\r\n\udcff\n", r"line 3 is no UTF-8 text, its byte 0xff"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_list_is_told_by_its_place(tmp_path: Path, wrong: Wrong) -> None:
    file = tmp_path / wrong.name
    file.write_bytes(wrong.text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=wrong.told) as caught:
        read_rows(file)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_rows(tmp_path / "none.txt")


def test_seeds_and_parts_as_people_write_them() -> None:
    assert parse_seeds("0..3", "--seeds") == [0, 1, 2, 3]
    assert parse_seeds("7, 1..2", "--seeds") == [7, 1, 2]
    assert parse_part(None, "--shard") == (1, 1)
    assert parse_part("2/8", "--shard") == (2, 8)


@pytest.mark.parametrize("text", ["", "a", "3..1", "0..9999999999", "1,1", "-1", "1..", "0.5"])
def test_seeds_that_are_none_are_told(text: str) -> None:
    with pytest.raises(ConfigError, match="^--seeds: "):
        parse_seeds(text, "--seeds")


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b"])
def test_parts_that_are_none_are_told(text: str) -> None:
    with pytest.raises(ConfigError, match="^--shard: needs part i of n"):
        parse_part(text, "--shard")


@pytest.mark.parametrize("name", ["list.txt", "list", "prompts.md"])
def test_a_plain_list_for_one_run_has_a_prompt_a_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a cat\r\n\n  a dog \nein M\u00e4dchen\n", encoding="utf-8")
    assert read_prompts(tmp_path / name) == ["a cat", "a dog", "ein M\u00e4dchen"]


def test_a_list_for_one_run_may_be_a_table_with_labels(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("prompt,Category\na cat,animals\n")
    assert read_prompts(tmp_path / "table.csv") == ["a cat"]


NO_LISTS = {
    "a bad line": ("list", "a cat\n\na \x07 dog\n", "list, line 3: the prompt has the control"),
    "an option": ("t.csv", "prompt,steps\na cat,3\n", "t.csv, row 1: sets steps, and a run has"),
    "a place": ("t.csv", "prompt,sampler.eta\na cat,1\n", "row 1: sets sampler.eta, .* dno batch"),
    "nothing": ("list", "\n \n", "list: holds no prompt"),
    "no text": ("list", b"\xff\xfe\x00\xd8", "list: line 1 is no UTF-8 text"),
}


@pytest.mark.parametrize("case", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_for_one_run_is_told_by_its_place(
    tmp_path: Path, case: tuple[str, str | bytes, str]
) -> None:
    name, content, told = case
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=told):
        read_prompts(tmp_path / name)
    with pytest.raises(ConfigError, match="there is no such file"):
        read_prompts(tmp_path / "nowhere")
