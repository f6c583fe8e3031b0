"""What leaves a machine names no folder of it, whatever option it stands in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dno.runs.portable import portable

HERE = "zq-private"
"""A folder that is there; no word that is generated has its letters."""
WORDS = st.text("abcdefghijklm", min_size=1, max_size=8)
NAMES = st.text("abcdefghijklmno0123456789_- ", min_size=1, max_size=8).map(str.strip).filter(bool)
FILES = st.sampled_from([".png", ".JPG", ".safetensors", ".pt", ".txt", ".csv", ".json", ".bin"])


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A current folder that holds a few things."""
    before = Path.cwd()
    place = tmp_path_factory.mktemp("here")
    (place / HERE / "deep").mkdir(parents=True)
    (place / HERE / "deep" / "notes").write_text("")
    os.chdir(place)
    yield
    os.chdir(before)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Paths of any form that have the name of a private folder before their last part."""
    last = draw(NAMES)
    kind = draw(st.integers(0, 4))
    middle = draw(st.lists(NAMES, max_size=2))
    if kind == 0:
        parts = [draw(st.sampled_from([".", "..", "~", "../.."])), HERE, *middle, last]
    elif kind == 1:
        parts = [HERE, *middle, last + draw(FILES)]
    elif kind == 2:
        parts = ["", "data", HERE, *middle, last]
    elif kind == 3:
        parts = ["C:", HERE, *middle, last]
    else:
        # Without an ending, and there.
        parts = [HERE, "deep", draw(st.sampled_from(["notes", ""]))]
    return draw(st.sampled_from("/\\") if kind in (0, 1, 3) else st.just("/")).join(parts)


@st.composite
def places(draw: st.DrawFn) -> Any:
    """A path as options hold it: alone, in text, in lists and tables, as a key."""
    path = draw(paths())
    word = draw(WORDS)
    blank = " " in path
    return draw(
        st.sampled_from(
            [
                path,
                [word, path],
                {word: {word: [path]}},
                {path: 1},
                *([] if blank else [f"{word} {path} {word}", f"{word}={path},{word}", f'"{path}"']),
            ]
        )
    )


@given(places(), st.sampled_from(["nobodys", "brightness", "clip"]))
def test_no_folder_of_a_path_survives(value: Any, use: str) -> None:
    made = portable({"rewards": [{"use": use, "weight": 2.0, "odd": value}], "prompts": ["x"]})
    assert HERE not in json.dumps([made.values, made.local])
    assert made.values["rewards"] == [{"use": use, "weight": 2.0}]
    assert list(made.local) == ["rewards.0.odd"]


@given(
    st.one_of(
        st.lists(WORDS, min_size=1, max_size=6).map(" ".join),
        st.tuples(WORDS, WORDS).map("/".join),
        st.builds("{}/{}-v{}.5".format, WORDS, WORDS, st.integers(0, 20)),
        st.builds("is it left/right of the {}, e.g. a {}?".format, WORDS, WORDS),
        st.builds("{} / {} ... 1/10".format, WORDS, WORDS),
        st.builds("https://huggingface.co/{}/{}".format, WORDS, WORDS),
    )
)
def test_words_and_names_of_models_survive(text: str) -> None:
    made = portable({"rewards": [{"use": "nobodys", "odd": text}]})
    assert made.values["rewards"] == [{"use": "nobodys", "odd": text}]
    assert made.local == {}


def test_a_name_of_something_here_is_taken_out_unless_the_plugin_has_it() -> None:
    Path("auto").mkdir()
    made = portable({"rewards": [{"use": "nobodys", "odd": "auto"}]})
    assert made.values["rewards"] == [{"use": "nobodys"}]
    made = portable({"sampler": {"use": "ddim", "memory": "auto"}})
    assert made.values["sampler"] == {"use": "ddim", "memory": "auto"}
