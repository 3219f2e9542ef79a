"""Batches: everything once a pass, the same after a resume, bad records counted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mvjax.data.pipeline import Corpus, PackedBatches, PipelineConfig, batches
from mvjax.errors import UserError

CONFIG = PipelineConfig(row_length=1200, rows=3, levels=3, window=16, seed=5, shares=(0.0, 0.5, 1.0))


@pytest.fixture(scope="module")
def corpus(records, tokenizer):
    return Corpus(records, tokenizer, CONFIG)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_pass_has_every_record_once_in_the_share_of_forms(corpus):
    dataset = PackedBatches(corpus, CONFIG)
    for epoch, share in enumerate(CONFIG.shares):
        windows = range(epoch * dataset.windows_per_pass, (epoch + 1) * dataset.windows_per_pass)
        drawn = [document for window in windows for row in dataset.window_rows(window) for document in row]
        assert sorted(index for index, _ in drawn) == list(range(len(corpus)))
        assert Counter(form for _, form in drawn)["multiverse"] == round(share * len(corpus))


def test_the_records_of_a_step_do_not_depend_on_the_forms(corpus):
    """Twins trained on the two forms see the same problems in the same steps."""
    drawn = []
    for share in (0.0, 0.4, 1.0):
        dataset = PackedBatches(corpus, replace(CONFIG, shares=(share,)))
        drawn.append([[index for index, _ in row] for window in range(4) for row in dataset.window_rows(window)])
    assert drawn[0] == drawn[1] == drawn[2]


def test_batches_hold_the_documents_whole(corpus):
    dataset = PackedBatches(corpus, CONFIG)
    walk = iter(dataset)
    seen = Counter()
    for _ in range(dataset.batches_in(1)):
        batch = next(walk)
        assert batch.tokens_BT.shape == (3, CONFIG.row_length)
        for row in range(3):
            starts = np.flatnonzero(batch.positions_BT[row] == 0)
            for start, end in zip(starts, [*starts[1:], CONFIG.row_length]):
                seen[batch.tokens_BT[row, start:end].tobytes()] += 1
    for index in range(len(corpus)):
        assert seen[corpus.example(index, "autoregressive").tokens.tobytes()] >= 1


@pytest.mark.parametrize("steps", [0, 1, 4, 11])
def test_a_resumed_run_sees_the_same_batches(corpus, steps):
    whole = batches(corpus, CONFIG)
    for _ in range(steps):
        next(whole)
    state = whole.get_state()
    expected = [next(whole) for _ in range(12)]
    resumed = batches(corpus, CONFIG)
    next(resumed)
    resumed.set_state(state)
    assert all(equal(a, next(resumed)) for a in expected)
    assert resumed.get_state() == whole.get_state()


def test_processes_share_the_rows_of_a_batch(corpus):
    config = replace(CONFIG, rows=4)
    whole = next(batches(corpus, config))
    parts = [next(batches(corpus, replace(config, process=number, processes=2))) for number in range(2)]
    assert equal(whole, [np.concatenate(pair) for pair in zip(*parts)])
    with pytest.raises(ValueError, match="shared"):
        PackedBatches(corpus, replace(CONFIG, processes=2))


def test_seeds_change_the_order(corpus):
    assert not equal(next(batches(corpus, CONFIG)), next(batches(corpus, replace(CONFIG, seed=6))))


def test_repeated_records(corpus):
    repeat = [2 if index == 0 else 1 for index in range(len(corpus))]
    dataset = PackedBatches(corpus, CONFIG, repeat)
    drawn = [i for w in range(dataset.windows_per_pass) for row in dataset.window_rows(w) for i, _ in row]
    assert Counter(drawn)[0] == 2
    assert len(drawn) == len(corpus) + 1


def test_bad_records_are_left_out_of_both_forms_and_counted(records, tokenizer):
    broken = replace(records[2], id="broken", response=records[2].response + "\n</Path>")
    long = replace(records[3], id="long", autoregressive="1+1=2. " * 1000)
    mixed = [*records[:5], broken, *records[5:10], long]
    corpus = Corpus(mixed, tokenizer, replace(CONFIG, max_bad_share=0.2))
    assert len(corpus) == 10
    assert [fault.name for fault in corpus.faults] == ["broken", "long"]
    assert "</Path>" in corpus.faults[0].reason
    assert "autoregressive form, more than the row" in corpus.faults[1].reason
    assert corpus.indices == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    with pytest.raises(UserError, match="2 of 12 records"):
        Corpus(mixed, tokenizer, CONFIG)


def test_records_nested_too_deep_are_left_out_never_cut(records, tokenizer):
    corpus = Corpus(records, tokenizer, replace(CONFIG, levels=2, max_bad_share=1.0))
    nested = {record.id for record in records if record.meta["nesting"] >= 1}
    assert nested
    assert {fault.name for fault in corpus.faults} == nested
