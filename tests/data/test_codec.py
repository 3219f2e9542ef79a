"""Examples as bytes and back, bit for bit."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identical import assert_identical
from random_trees import TreeConfig, token_facts, transcripts

from mvjax.data.codec import from_bytes, to_bytes
from mvjax.data.encode import FORMS, Example, encode_record
from mvjax.language import lay_out


@pytest.mark.parametrize("form", FORMS)
def test_records_come_back(tokenizer, records, form):
    for record in records:
        example = encode_record(tokenizer, record, form)
        assert_identical(from_bytes(to_bytes(example), record.id, form), example)


def test_earlier_answers_come_back(tokenizer, records):
    record = next(record for record in records if record.meta["parallel"])
    turns = (*record.messages, {"role": "assistant", "content": record.response}, {"role": "user", "content": "Again."})
    example = encode_record(tokenizer, dataclasses.replace(record, messages=turns))
    assert_identical(from_bytes(to_bytes(example), record.id, "multiverse"), example)


@settings(max_examples=30, deadline=None)
@given(transcripts(TreeConfig(max_depth=3)), st.integers(0, 3))
def test_random_trees_come_back(words, prompt_length):
    codes_T, colon_T = token_facts(["q"] * prompt_length + words)[:2]
    layout = lay_out(codes_T, colon_T, prompt_length)
    example = Example(np.arange(len(codes_T), dtype=np.int32), layout, layout.loss, "tree", "multiverse")
    assert_identical(from_bytes(to_bytes(example), "tree", "multiverse"), example)


def test_a_transcript_takes_little_more_than_its_tokens(tokenizer, records):
    example = encode_record(tokenizer, max(records, key=lambda record: len(record.response)))
    n_tags = len(example.layout.structure.events)
    assert n_tags > 20
    assert len(to_bytes(example)) < 4 * (len(example.tokens) + 40 * n_tags)


def test_a_structure_differs_where_its_tags_do(tokenizer, records):
    examples = [encode_record(tokenizer, record) for record in records[:2]]
    one, other = (from_bytes(to_bytes(example), "", "multiverse").layout.structure for example in examples)
    assert one == one
    assert one == examples[0].layout.structure
    assert examples[0].layout.structure == one
    assert one != other
    assert one != examples[1].layout.structure
    with pytest.raises(AttributeError, match="leaves"):
        _ = one.leaves


@settings(max_examples=30, deadline=None)
@given(transcripts(TreeConfig(max_depth=3)), st.floats(0, 1))
def test_cut_transcripts_come_back(words, share):
    words = words[: round(share * len(words))]
    codes_T, colon_T = token_facts(words)[:2]
    layout = lay_out(codes_T, colon_T)
    example = Example(np.arange(len(codes_T), dtype=np.int32), layout, layout.loss, "cut", "multiverse")
    assert_identical(from_bytes(to_bytes(example), "cut", "multiverse"), example)
