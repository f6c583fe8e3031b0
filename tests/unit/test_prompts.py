"""Prompts: what is text, what parts it, and what is told of one that is neither."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dno.errors import ConfigError
from dno.runs.prompts import prompt_texts
from dno.runs.run_config import RunConfig
from dno.testing import strategies as dno_st

TEXTS = {
    "joined emoji": "a family 👩\u200d👩\u200d👧\ufe0f",
    "joiners": "می\u200cخواهم \u200d",
    "marks of direction": "a \u200fשלום\u200e cat",
    "no-break space": "a\u00a0cat",
    "soft hyphen": "long\u00adhair",
    "wide space": "猫\u3000犬",
    "line separator": "a\u2028cat",
    "private": "a \ue000",
    "byte-order mark": "\ufeffa cat",
}


def parsed(prompts: object) -> tuple[str, ...]:
    return RunConfig.parse({"prompts": prompts, "rewards": "brightness"}).prompts


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_what_is_text_stays_as_it_is(text: str) -> None:
    assert parsed(text) == (text,)
    assert parsed(["a", text]) == ("a", text)


@given(dno_st.prompts())
def test_every_text_without_control_characters_is_a_prompt(text: str) -> None:
    assert prompt_texts([text]) == (text,)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_prompt_is_text_on_one_line_or_is_refused(text: str) -> None:
    try:
        (found,) = prompt_texts([text])
    except ConfigError:
        assert not text.strip() or any(unicodedata.category(c) == "Cc" for c in text)
    else:
        assert found.split() == text.split()
        assert prompt_texts([found]) == (found,)
        assert not any(unicodedata.category(c) == "Cc" for c in found)


@pytest.mark.parametrize(
    ("given_text", "read"),
    [
        ("a cat\n", "a cat"),
        ("a\ncat", "a cat"),
        ("a\r\ncat\r\n", "a cat"),
        ("\ta\t\tcat", "a cat"),
        (" a  cat ", " a  cat "),
    ],
)
def test_ends_of_lines_and_tabs_are_blanks(given_text: str, read: str) -> None:
    assert parsed(given_text) == (read,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\x07cat", "the control character U+0007 in it, as character 2; take it out"),
        ("\x1b[31mred", "the control character U+001B in it, as character 1"),
        ("a cat\x00", "the control character U+0000 in it, as character 6"),
        ("a\x85b", "the control character U+0085"),
        ("a\x7f", "the control character U+007F"),
        ("a \udcff", "half a character, the surrogate U+DCFF in it, as character 3"),
    ],
)
def test_control_characters_and_surrogates_are_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert str(caught.value).startswith("prompts.0: the prompt has ")
    assert told in str(caught.value)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bad \x07 line", "prompt 701 of 9972 has the control character U+0007"),
        ("  \n", "prompt 701 of 9972 is blank; say what to draw"),
        ("\u3000\u00a0", "prompt 701 of 9972 is blank"),
        ("", "prompt 701 of 9972 is blank"),
        (7, "prompt 701 of 9972 should be text, got a int"),
        (None, "prompt 701 of 9972 should be text, got nothing"),
        (["a"], "prompt 701 of 9972 should be text, got a list"),
    ],
    ids=str,
)
def test_one_bad_line_of_many_is_told_by_its_number(line: object, told: str) -> None:
    prompts: list[object] = ["an ordinary cat"] * 9972
    prompts[700] = line
    with pytest.raises(ConfigError) as caught:
        parsed(prompts)
    assert str(caught.value).startswith(f"prompts.700: {told}")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "prompts", [None, 3, {"a": "cat"}, b"a cat", [["a cat"] * 9972]], ids=lambda it: type(it)
)
def test_what_is_no_list_of_texts_is_not_printed(prompts: object) -> None:
    with pytest.raises(ConfigError, match="should be text") as caught:
        parsed(prompts)
    assert str(caught.value).startswith("prompts")
    assert len(str(caught.value)) < 200


def test_any_sequence_of_texts_will_do() -> None:
    assert parsed(text for text in ("a", "b")) == ("a", "b")
    assert parsed({"a": 1, "b": 2}.keys()) == ("a", "b")
    with pytest.raises(ConfigError, match="prompts: tuple should have at least 1 item"):
        parsed([])
