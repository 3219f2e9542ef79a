"""Packed rows against the definition: whole documents, levels, predecessors, nothing lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_layout import dense_mask
from random_trees import TreeConfig, token_facts, transcripts

from mvjax.data.encode import Example
from mvjax.data.packing import balanced, best_fit_decreasing, pack, to_batch
from mvjax.language import INT32_MAX, lay_out

PAD = 999


@st.composite
def documents(draw):
    """An example over random tokens with a random transcript's layout."""
    prompt_length = draw(st.integers(0, 3))
    words = ["q"] * prompt_length + draw(transcripts(TreeConfig(max_depth=2)))
    codes_T, colon_T = token_facts(words)[:2]
    layout = lay_out(codes_T, colon_T, prompt_length)
    tokens_T = np.array(draw(st.lists(st.integers(0, 99), min_size=len(words), max_size=len(words))), np.int32)
    return Example(tokens_T, layout, layout.loss, f"doc-{len(words)}", "multiverse")


@pytest.mark.parametrize("way", [best_fit_decreasing, balanced, pack])
@given(lengths=st.lists(st.integers(1, 50), max_size=60), row_length=st.integers(50, 300))
def test_packing_loses_nothing_and_fills_rows(way, lengths, row_length):
    rows = way(np.array(lengths, np.int64), row_length)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in row) for row in rows]
    assert all(total <= row_length for total in sums)
    # No two rows could be one.
    least = sorted(sums)[:2]
    assert len(rows) < 2 or sum(least) > row_length
    assert len(rows) <= sum(lengths) // (row_length / 2) + 1


@given(lengths=st.lists(st.integers(1, 50), max_size=60), row_length=st.integers(50, 300))
def test_rows_keep_the_order(lengths, row_length):
    rows = pack(lengths, row_length)
    assert rows == sorted(sorted(row) for row in rows)


@pytest.mark.parametrize(("median", "better"), [(200, balanced), (375, best_fit_decreasing)])
def test_the_better_way_is_taken(median, better):
    lengths = np.clip(median * np.exp(0.6 * np.random.default_rng(0).normal(size=1000)), 90, 940).astype(int)
    counts = {way: len(way(lengths, 1024)) for way in (balanced, best_fit_decreasing)}
    assert min(counts, key=counts.get) is better
    assert len(set(counts.values())) == 2
    assert len(pack(lengths, 1024)) == counts[better]


def test_rows_are_filled_exactly_where_documents_are_many():
    lengths = np.random.default_rng(0).integers(80, 400, 2000)
    rows = balanced(lengths, 1024)
    assert sum(lengths[row].sum() == 1024 for row in rows) > 0.9 * len(rows)


def test_a_document_longer_than_a_row_is_an_error():
    with pytest.raises(ValueError, match="51 tokens"):
        pack([3, 51], 50)


@settings(max_examples=20, deadline=None)
@given(st.lists(documents(), min_size=1, max_size=4))
def test_packed_rows_by_definition(examples):
    row_length = max(len(example.tokens) for example in examples) + 7
    levels = max(example.layout.depth for example in examples) + 2
    rows = [[examples[index] for index in row] for row in pack([len(x.tokens) for x in examples], row_length)]
    assert sorted(map(id, (example for row in rows for example in row))) == sorted(map(id, examples))
    batch = to_batch(rows, row_length, levels, PAD)
    assert batch.tokens_BT.shape == (len(rows), row_length)
    assert batch.hide_start_BET.shape == (len(rows), levels, row_length)
    for number, row in enumerate(rows):
        visible_TT = _visible(batch, number)
        expected_TT = np.zeros_like(visible_TT)
        start = 0
        for example in row:
            end = start + len(example.tokens)
            here = slice(start, end)
            assert (batch.tokens_BT[number, here] == example.tokens).all()
            assert (batch.positions_BT[number, here] == example.layout.position).all()
            assert (batch.loss_BT[number, here] == example.loss).all()
            assert (batch.part_BT[number, here] == example.layout.part).all()
            assert batch.predecessor_BT[number, here].tolist() == [
                start + index for index in _naive_predecessors(example.layout.segment)
            ]
            expected_TT[here, here] = dense_mask(example.layout)
            start = end
        padding = slice(start, row_length)
        expected_TT[padding, padding] = np.tri(row_length - start, dtype=bool)
        assert (visible_TT == expected_TT).all()
        assert not batch.loss_BT[number, padding].any()
        assert (batch.tokens_BT[number, padding] == PAD).all()
    unused_BET = batch.hide_start_BET == batch.hide_end_BET
    assert not batch.hide_end_BET[unused_BET].any()
    targets = batch.predecessor_BT[batch.loss_BT]
    assert (targets < np.nonzero(batch.loss_BT)[1]).all()
    assert (targets >= 0).all()
    assert batch.loss_BT.sum() == sum(example.loss.sum() for example in examples)


def _visible(batch, row):
    """bool[T, T] straight from the intervals of a batch."""
    rows_T = np.arange(batch.tokens_BT.shape[1])
    mask_TT = rows_T[:, None] >= rows_T[None, :]
    for start_T, end_T in zip(batch.hide_start_BET[row], batch.hide_end_BET[row]):
        mask_TT &= ~((rows_T[:, None] >= start_T) & (rows_T[:, None] < end_T))
    return mask_TT


def _naive_predecessors(segment_T):
    """The last earlier token of the same segment, or the token itself."""
    return [
        max((earlier for earlier in range(index) if segment_T[earlier] == segment_T[index]), default=index)
        for index in range(len(segment_T))
    ]


def _block(open_block=False):
    words = ["p", "<Parallel>", "<Goal>", "<Outline>", "1:", "</Outline>", "</Goal>", "<Path>", "1:", "a", "</Path>"]
    words += ["<Path>", "2:", "b"] if open_block else ["<Conclusion>", "c", "</Conclusion>", "</Parallel>"]
    if open_block:
        words[5:6] = ["</Outline>", "<Outline>", "2:", "</Outline>"]
    codes_T, colon_T = token_facts(words)[:2]
    layout = lay_out(codes_T, colon_T)
    return Example(np.arange(len(words), dtype=np.int32), layout, layout.loss, "block", "multiverse")


def test_an_open_block_still_hides_to_the_end():
    batch = to_batch([[_block(), _block(open_block=True)]], 64, 2, PAD)
    start = len(_block().tokens)
    first_path = start + _block(open_block=True).layout.structure.blocks[0].paths[0].open
    assert batch.hide_end_BET[0, 1, first_path] == INT32_MAX


def test_too_deep_and_too_long_are_errors_never_cut():
    example = _block()
    with pytest.raises(ValueError, match="nested 1 deep"):
        to_batch([[example]], 64, 1, PAD)
    with pytest.raises(ValueError, match="tokens in a row"):
        to_batch([[example, example]], len(example.tokens) + 1, 2, PAD)
