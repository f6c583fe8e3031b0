"""What others wrote is shown in short, and so that no terminal obeys it."""

from __future__ import annotations

import pickle
import re
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dno.errors import ConfigError, DNOError, RunError, RunFolderError
from dno.wording import LONGEST, LONGEST_MESSAGE, clean, cut, named, reason, said, short

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x08\x9b31m\u202egnp.exe\u2066\u2069\x7f\x00\u2028\ud800"
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = clean(text)
    assert not OBEYED.search(shown)
    shown.encode()
    assert clean(shown) == shown
    controls = {char for char in shown if unicodedata.category(char) == "Cc"}
    assert controls <= {"\n", "\t"}


LANGUAGES = [
    "a \U0001f469\u200d\U0001f469\u200d\U0001f467 family",
    "\u200f\u05e2\u05d1\u05e8\u05d9\u05ea\u200f",
    "soft\u00adhyphen",
    "\uff11\u3000\uff12",
]


@pytest.mark.parametrize("text", LANGUAGES)
def test_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


def test_an_escape_can_be_read() -> None:
    assert clean("\x1b[31mred\u202e") == "\\x1b[31mred\\u202e"


class Rude:
    def __repr__(self) -> str:
        raise SystemError(HOSTILE)


LARGE = {
    "prompts": [f"prompt number {i}" for i in range(9972)],
    "text": "x" * 10**6,
    "a tensor": torch.zeros(64, 3, 64, 64),
    "tensors": {"a": torch.zeros(9999), "b": [torch.ones(5, 5)] * 100},
    "a number": 10**10_000,
    "numbers": [10**10_000] * 3,
    "bytes": bytes(10**6),
    "lists in lists": [[[[[[list(range(99))] * 9] * 9] * 9] * 9] * 9],
    "lines": "one\ntwo\n" * 1000,
    "what has no text": Rude(),
    "hostile": HOSTILE,
    "hostile keys": {HOSTILE * 50: HOSTILE * 50},
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE.keys())
def test_a_large_value_is_told_in_short(value: object) -> None:
    told = short(value)
    assert len(told) < LONGEST + 120
    assert not OBEYED.search(told)
    assert "\n" not in told


def test_what_a_value_is_can_be_told() -> None:
    assert short("big") == "'big'"
    assert short(torch.zeros(2, 3)) == "<Tensor of 2x3>"
    assert short([1, 2]) == "[1, 2]"
    assert short(list(range(9972))).endswith("(9,972 in all)")
    assert short("y" * 5000).endswith("(5,000 characters)")
    assert "33220 bits" in short(10**10_000)


@given(st.text(max_size=3000), st.integers(20, 500))
def test_what_is_cut_keeps_its_ends(text: str, limit: int) -> None:
    shown = cut(text, limit)
    assert len(shown) <= limit
    assert shown.split() == text.split() or " ... " in shown


class LongError(Exception):
    pass


def test_what_an_error_says_is_one_clean_short_line() -> None:
    assert said(ValueError("two\n  lines")) == "two lines"
    assert said(LongError()) == "LongError"
    assert len(said(LongError("z" * 10**6))) <= LONGEST
    assert not OBEYED.search(said(LongError(HOSTILE)))
    missing = FileNotFoundError(2, "No such file or directory", "cat.png")
    assert "cat.png" in said(missing)
    assert reason(missing) == "No such file or directory"


@pytest.mark.parametrize("error", [DNOError, ConfigError, RunError, RunFolderError])
def test_no_error_of_ours_carries_what_a_terminal_obeys_or_a_page_of_anything(
    error: type[DNOError],
) -> None:
    raised = error(f"no model is called {HOSTILE}: {'w' * 10**6}; name another")
    assert not OBEYED.search(str(raised))
    assert len(str(raised)) <= LONGEST_MESSAGE + 100
    assert str(raised).endswith("; name another")
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)


def test_a_place_and_a_source_are_clean_too() -> None:
    error = ConfigError("wrong", at=f"rewards.{HOSTILE}", source=f"{HOSTILE}.toml")
    assert not OBEYED.search(str(error.inside("more", HOSTILE)))
    assert not OBEYED.search(str(error))
    assert named(HOSTILE) in named(HOSTILE)
