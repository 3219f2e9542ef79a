"""Cutting texts into sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.text.sentences import numbers, split

PIECES = st.sampled_from(
    [
        *"ab1 .!?…\n\t。！？؟।۔()\"'*-$",
        "e.g.",
        "2. ",
        "\\[",
        "\\]",
        "```",
        "$$",
        "\\begin{align}",
        "\\end{align}",
        "و",
        "中",
        "ह",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=60).map("".join)))
def test_sentences_add_up_to_the_text(text):
    sentences = split(text)
    assert "".join(sentences) == text
    assert all(sentences)
    if any(character.isalnum() for character in text):
        assert all(any(character.isalnum() for character in sentence) for sentence in sentences)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("First, x = 3.14. Then y! Is it? Yes.", 4),
        ("Take e.g. this one, cf. Fig. 2. Then go on.", 2),
        ("1. One thing.\n2. Another thing.", 2),
        ("Wait... maybe not. So: no.", 2),
        ('He said "Done." Then he left.', 2),
        ("A line\n\nanother line", 2),
        ("Let \\[ a = b.\n c = d. \\] be given. Then it holds.", 2),
        ("首先计算面积。然后求和！答案是42。", 3),
        ("أولاً نحسب المساحة. ثم نجمع؟ الجواب هو ٤٢.", 3),
        ("पहले क्षेत्रफल निकालें। फिर जोड़ें। उत्तर 42 है।", 3),
        ("---\nOnly this.\n---\n", 1),
        ("", 0),
    ],
)
def test_where_sentences_end(text, count):
    assert len(split(text)) == count


def test_formulas_that_never_close_cost_no_more_than_their_length():
    text = "\\[ $$ ``` " * 500
    assert "".join(split(text)) == text


def test_numbers():
    assert numbers("1-3, 5") == (1, 2, 3, 5)
    assert numbers("") == numbers([]) == ()
    assert numbers([4, 5]) == (4, 5)
