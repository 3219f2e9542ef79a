"""The limits of a run, applied to a store."""

from dataclasses import replace

import pytest
from identical import assert_identical

from mvjax.data.corpus import Corpus
from mvjax.data.encode import encode_record
from mvjax.data.schedule import Document, PipelineConfig
from mvjax.errors import UserError

CONFIG = PipelineConfig(row_length=1200, levels=3)


@pytest.fixture(scope="module")
def mixed(encoded, records):
    """Two files: five good records, a broken one, five good ones, a long one; and another good one."""
    broken = replace(records[2], id="broken", response=records[2].response + "\n</Path>")
    long = replace(records[3], id="long", autoregressive="1+1=2. " * 1000)
    return encoded([*records[:5], broken, *records[5:10], long], records[10:11])


def test_bad_records_are_left_out_of_both_forms_and_counted(mixed, records):
    corpus = Corpus(mixed, replace(CONFIG, max_bad_share=0.2))
    assert len(corpus) == 11
    assert [fault.name for fault in corpus.faults] == ["file0.jsonl:6", "file0.jsonl:12"]
    assert corpus.faults[0].reason.startswith("broken: ")
    assert "long: " in corpus.faults[1].reason
    assert "autoregressive form, more than the row of 1200" in corpus.faults[1].reason
    assert [corpus.index.name(record) for record in range(11)] == [record.id for record in records[:11]]
    with pytest.raises(UserError, match=r"2 of 13 records cannot be used.*the first is file0.jsonl:6: broken: token"):
        Corpus(mixed, CONFIG)


def test_one_store_serves_several_limits(mixed, tokenizer, records):
    wide = Corpus(mixed, replace(CONFIG, row_length=100_000, max_bad_share=0.2))
    assert len(wide) == 12
    assert [fault.name for fault in wide.faults] == ["file0.jsonl:6"]
    longest = mixed.index.length_NF.max(1)
    limit = int(longest[-1])  # so that something of the second file is left
    narrow = Corpus(mixed, replace(CONFIG, row_length=limit, max_bad_share=1.0))
    assert 0 < len(narrow) == (longest <= limit).sum() < 12
    for record in range(len(narrow)):
        name = narrow.index.name(record)
        whole = next(record for record in records if record.id == name)
        (example,) = narrow.examples([Document(record, "multiverse")])
        assert_identical(example, encode_record(tokenizer, whole))


def test_records_nested_too_deep_are_left_out_never_cut(store, records):
    corpus = Corpus(store, replace(CONFIG, levels=2, max_bad_share=1.0))
    nested = [record.id for record in records if record.meta["nesting"] >= 1]
    assert nested
    assert [fault.reason for fault in corpus.faults] == [f"{name}: nested 2 deep; 2 levels hold 1" for name in nested]


def test_how_often_a_file_comes(mixed):
    corpus = Corpus(mixed, replace(CONFIG, max_bad_share=0.2))
    assert corpus.repeat([1, 3]) == [1] * 10 + [3]


def test_a_dataset_without_a_good_record(encoded, records):
    broken = replace(records[2], response="</Path>")
    anything = replace(CONFIG, max_bad_share=1.0)
    with pytest.raises(UserError, match=r"none of its 1 records can be used; the first is file0.jsonl:1: .*</Path>"):
        Corpus(encoded([broken]), anything)
    with pytest.raises(UserError, match=r"file0.jsonl: there is no record in it"):
        Corpus(encoded([]), anything)
    with pytest.raises(UserError, match=r"^file1.jsonl: none of its 1 records"):
        Corpus(encoded(records, [broken]), anything)
    with pytest.raises(UserError, match=r"^file1.jsonl: there is no record"):
        Corpus(encoded([*records[:5], broken], []), anything)
    with pytest.raises(UserError, match=r"none of its 40 records.*more than the row of 10"):
        Corpus(encoded(records), replace(anything, row_length=10))
