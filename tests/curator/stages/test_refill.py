"""Sentences under their steps."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.stages import refill
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.stages.structure import Node

SENTENCES = [f"{letter * 8} {letter.upper() * 20}. " for letter in "abcdefghij"]
STRUCTURE = (Node("S1"), Node("S2", (Node("S2.1"), Node("S2.2"))), Node("S3"))
GOOD = {"S1": "1-2", "S2": "", "S2.1": "3, 4–5", "S2.2": " 6 ", "S3": "7 - 10"}


def read(limit=0.2, sentences=SENTENCES, **entries):
    value = {**GOOD, **{key.replace("_", "."): spans for key, spans in entries.items()}}
    return refill.read(json.dumps({"refill": value}), STRUCTURE, sentences, limit)


def test_every_sentence_once():
    found = read()
    assert found.numbers == {"S1": (1, 2), "S2": (), "S2.1": (3, 4, 5), "S2.2": (6,), "S3": (7, 8, 9, 10)}
    assert found.put_back == ()
    assert refill.to_json(found) == {"refill": {"S1": "1-2", "S2": "", "S2.1": "3-5", "S2.2": "6", "S3": "7-10"}}


@pytest.mark.parametrize(
    ("entries", "check", "message"),
    [
        ({"S3": "7-12"}, "invented sentence", "step S3: 7-12 goes beyond the sentences, which are 1 to 10"),
        ({"S1": "0-2"}, "invented sentence", "step S1: 0-2"),
        ({"S1": "1-3"}, "sentence twice", "named more than once: 3"),
        ({"S3": "10", "S2_2": ""}, "missing sentence", "in no step: 6-9"),
        ({"S2_2": ""}, "empty step", "step S2.2: it must have one sentence"),
        ({"S2": "3-6", "S2_1": "", "S2_2": ""}, "empty step", "step S2.1"),
        ({"S1": "1 to 2"}, "wrong type", 'step S1: "1 to 2" is no number or range'),
        ({"S1": "2-1"}, "wrong type", "no number or range"),
        ({"S1": "1,,2"}, "wrong type", "no number or range"),
        ({"S1": [1, 2]}, "wrong type", "must be a string"),
        ({"S9": ""}, "unknown step", '"S9" is no step'),
        (
            {"S1": "7-10", "S3": "1-2"},
            "wrong order",
            "step S2.1: it begins with sentence 3, before step S1, which begins with 7",
        ),
        ({"S1": "1, 8-10", "S3": "2, 7"}, "wrong order", "step S3: it begins with sentence 2, before step S2.2"),
        ({"S1": "1-2, 5, 8, 10", "S2_1": "3-4", "S3": "7, 9"}, "edit distance", "sentence 3 is put behind later ones"),
        ({"S1": "1, 10", "S3": "2, 7-9"}, "edit distance", "step S1: the sentences 1, 10 are no connected piece"),
    ],
)
def test_what_is_wrong_is_said(entries, check, message):
    with pytest.raises(Faulty) as error:
        read(**entries)
    assert check in {finding.check for finding in error.value.findings}
    assert message in str(error.value)


def test_steps_without_an_entry():
    with pytest.raises(Faulty, match=r"no entry for S2\.2, S3"):
        refill.read('{"refill": {"S1": "1-10", "S2": "", "S2.1": ""}}', STRUCTURE, SENTENCES, 0.2)


def test_single_sentences_are_put_back_up_to_the_limit():
    found = read(S1="2", S2_1="3, 5")
    assert found.numbers["S1"] == (1, 2)
    assert found.numbers["S2.1"] == (3, 4, 5)
    assert [str(finding) for finding in found.put_back] == [
        "step S1: sentence 1 was put back",
        "step S2.1: sentence 4 was put back",
    ]
    assert read(S1="1").numbers["S1"] == (1, 2)
    with pytest.raises(Faulty, match="in no step: 2, 4, 9"):
        read(S1="1", S2_1="3, 5", S3="7-8, 10")
    with pytest.raises(Faulty, match="in no step: 4-5"):
        read(S2_1="3")


def test_a_little_disorder_is_within_the_limit():
    sentences = [*SENTENCES[:3], "So. ", "It is. ", *SENTENCES[5:]]
    entries = {"S2_1": "3, 5", "S2_2": "4, 6"}
    assert read(sentences=sentences, **entries).numbers["S2.2"] == (4, 6)
    with pytest.raises(Faulty):
        read(0.0, sentences, **entries)


def test_sentences_that_were_apart_stay_apart():
    assert refill.joined((2, 1, 3), ["a. ", "b.", "c."]) == "b. a. c."
    assert refill.joined((1, 2), ["a.\n\n", "b."]) == "a.\n\nb."


@given(st.lists(st.integers(1, 30), unique=True))
def test_spans_say_the_numbers(numbers):
    text = refill.spans(numbers)
    found = [
        n
        for part in text.split(", ")
        if part
        for a, _, b in [part.partition("-")]
        for n in range(int(a), int(b or a) + 1)
    ]
    assert found == numbers


@given(st.data())
def test_an_accepted_refill_has_every_sentence_once(data):
    owners = data.draw(
        st.lists(st.sampled_from([*GOOD, ""]), min_size=10, max_size=10).map(sorted)
        | st.lists(st.sampled_from([*GOOD, ""]), min_size=10, max_size=10)
    )
    own = {label: [n for n, owner in enumerate(owners, 1) if owner == label] for label in GOOD}
    text = json.dumps({"refill": {label: refill.spans(numbers) for label, numbers in own.items()}})
    try:
        found = refill.read(text, STRUCTURE, SENTENCES, 0.3).numbers
    except Faulty:
        return
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(1, 11))
    order = [number for label in GOOD for number in found[label]]
    assert sum(b < a for a, b in pairwise(order)) <= 3
