"""Batches: the same however their rows are shared out and wherever a run begins, prefetched or not."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.data.corpus import Corpus
from mvjax.data.packing import Batch
from mvjax.data.pipeline import BatchIterator, PackedBatches, batches
from mvjax.data.schedule import PipelineConfig
from mvjax.errors import UserError

CONFIG = PipelineConfig(row_length=1200, rows=5, levels=3, window=4, seed=5, shares=(0.0, 0.5, 1.0))
STEPS = 16


@pytest.fixture(scope="module")
def corpus(store):
    return Corpus(store, CONFIG)


@pytest.fixture(scope="module")
def whole(corpus):
    """The first batches, their positions, their facts."""
    walk = batches(corpus, CONFIG)
    found = []
    for _ in range(STEPS):
        state = walk.get_state()
        found.append((state, next(walk), walk.facts))
    walk.close()
    return found


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_hold_the_documents_whole(corpus, whole):
    seen = Counter()
    for _, batch, facts in whole[: PackedBatches(corpus, CONFIG).batches_in(1)]:
        assert batch.tokens_BT.shape == (5, CONFIG.row_length)
        padded = (batch.hide_start_BET[:, 0, -1] == CONFIG.row_length) & ~batch.loss_BT[:, -1]
        assert (batch.positions_BT == 0).sum() == sum(map(len, facts.rows)) + padded.sum()
        for row in range(5):
            starts = np.flatnonzero(batch.positions_BT[row] == 0)
            for start, end in zip(starts, [*starts[1:], CONFIG.row_length]):
                seen[batch.tokens_BT[row, start:end].tobytes()] += 1
    for index in range(len(corpus)):
        (example,) = corpus.examples([(index, "autoregressive")])
        assert seen[example.tokens.tobytes()] >= 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_hosts_and_any_start_give_the_same_batches(corpus, whole, data):
    """Each row of a batch goes to one of the hosts, in any order; what they hold together is the batch."""
    hosts = data.draw(st.integers(1, 5))
    owner = data.draw(st.lists(st.integers(0, hosts - 1), min_size=5, max_size=5))
    order = data.draw(st.permutations(range(5)))
    start = data.draw(st.integers(0, STEPS - 2))
    shares = [tuple(row for row in order if owner[row] == host) for host in range(hosts)]
    walks = [batches(corpus, CONFIG, rows=share) for share in shares]
    for walk in walks:
        walk.set_state(whole[start][0])
    for state, batch, facts in whole[start : start + 2]:
        assert all(walk.get_state() == state for walk in walks)
        parts = [next(walk) for walk in walks]
        together = Batch(*(np.zeros_like(array) for array in batch))
        for share, part in zip(shares, parts):
            for array, rows in zip(together, part):
                array[list(share)] = rows
        assert equal(together, batch)
        assert all(walk.facts == facts for walk in walks)
    for walk in walks:
        walk.close()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_position_is_that_of_the_next_batch_however_many_are_made_ahead(corpus, whole, ahead):
    walk = BatchIterator(PackedBatches(corpus, CONFIG), ahead=ahead)
    for step in range(6):
        assert walk.get_state() == whole[step][0]
        assert equal(next(walk), whole[step][1])
        # Interrupted here, and gone on with in another process.
        other = BatchIterator(PackedBatches(corpus, CONFIG), ahead=ahead)
        next(other)
        other.set_state(walk.get_state())
        assert other.get_state() == whole[step + 1][0]
        assert equal(next(other), whole[step + 1][1])
        other.close()
    walk.set_state(whole[1][0])  # back, with batches waiting
    assert equal(next(walk), whole[1][1])
    assert walk.facts == whole[1][2]
    walk.seek(9)
    assert walk.get_state() == whole[9][0]
    assert equal(next(walk), whole[9][1])
    walk.close()


def test_seeds_change_the_order(corpus, whole):
    other = batches(corpus, replace(CONFIG, seed=6))
    assert not equal(next(other), whole[0][1])
    other.close()


def test_rows_by_slice_and_rows_that_are_none(corpus, whole):
    walk = batches(corpus, CONFIG, rows=slice(1, 3))
    assert equal(next(walk), [array[1:3] for array in whole[0][1]])
    walk.close()
    with pytest.raises(ValueError, match="not all among the 5"):
        PackedBatches(corpus, CONFIG, rows=(4, 5))


def test_what_goes_wrong_in_the_thread_reaches_the_caller(encoded, records):
    store = encoded(records[:20])
    walk = batches(Corpus(store, CONFIG), CONFIG)
    part = store.path / store.parts[0][0]
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(UserError, match="delete it"):
        next(walk)
    walk.close()
