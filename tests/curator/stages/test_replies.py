"""The one JSON object of a reply."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.stages.replies import Faulty, get, read_object, shown, tags_in, texts, typed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, {"b": "{"}]}',
        'Here: {"a": [1, {"b": "{"}]} as {asked}.',
        '```json\n{"a": [1, {"b": "{"}]}\n```',
        '<think>Is it {"a": 2}?</think>\n{"a": [1, {"b": "{"}]}',
    ],
)
def test_the_object_is_found(text):
    assert read_object(text) == {"a": [1, {"b": "{"}]}


@pytest.mark.parametrize(
    ("text", "check", "reason"),
    [
        ("", "malformed JSON", "holds no JSON object"),
        ("[1]", "malformed JSON", "holds no JSON object"),
        ("{} {}", "malformed JSON", "holds 2 JSON objects"),
        ('{"a": 1', "malformed JSON", "Expecting ',' delimiter at line 1, column 8"),
        ('{\n"a": 1,}', "malformed JSON", f"at line 2, column {7 if sys.version_info >= (3, 13) else 8}"),
        ("{'a': {\"b\": 1}}", "malformed JSON", "double quotes"),
        ('{a: {"b": 1}}', "malformed JSON", "double quotes"),
        ('{"a": 1, "a": 2}', "key twice", 'the key "a" stands twice'),
        ('{"a": ' + "[" * 100_000, "malformed JSON", "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "malformed JSON", "a number that is too long"),
        (r'{"a": "3 \times 4"}', "malformed JSON", r"\times with one backslash"),
        (r'{"a": "\frac12"}', "malformed JSON", r"\frac with one backslash"),
        (r'{"a": "\alpha"}', "malformed JSON", "Invalid \\escape"),
        (r'{"a": "\u0000"}', "malformed JSON", "a control character"),
        (r'{"a": "\ud83d"}', "malformed JSON", "half of a"),
        ('{"a": "line\nbreak"}', "malformed JSON", "Invalid control character"),
    ],
)
def test_what_is_wrong_is_said(text, check, reason):
    with pytest.raises(Faulty) as error:
        read_object(text)
    (finding,) = error.value.findings
    assert finding.check == check
    assert reason in finding.reason
    assert "\n" not in finding.reason


def test_backslashes_that_are_meant():
    text = r'{"a": "one\ntwo\\n \\times \\\\begin \t| \ud83d\ude00 \u00e9"}'
    assert read_object(text)["a"] == "one\ntwo\\n \\times \\\\begin \t| 😀 é"


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_any_object_comes_back_or_holds_what_is_no_text(value):
    try:
        assert json.dumps(read_object(json.dumps(value))) == json.dumps(value)
    except Faulty as error:
        assert "control character" in str(error) or "backslash" in str(error) or "half" in str(error)  # noqa: PT017


@given(st.text() | st.lists(st.sampled_from([*'{}[]":,\\ 1anu', '{"', '"}', "\ud800"])).map("".join))
def test_any_text_gives_an_object_or_a_reason(text):
    try:
        assert isinstance(read_object(text), dict)
    except Faulty as error:
        assert error.findings[0].reason  # noqa: PT017


def test_values_of_the_wrong_type():
    assert get({"a": True}, "a", bool) is True
    for wrong in ({}, {"a": 1}, {"a": None}):
        with pytest.raises(Faulty, match='"a"'):
            get(wrong, "a", bool)
    with pytest.raises(Faulty, match="step S1: it must be an object"):
        typed([], dict, "it", "step S1")
    with pytest.raises(Faulty, match="entry 2 of it must be a string"):
        texts(["a", 1], "it")


def test_small_things():
    assert shown("a\n  b") == '"a b"'
    assert len(shown("x" * 100)) == 62
    assert tags_in("a </Path><Think>") == [(2, "</Path>"), (9, "<Think>")]
