"""What the loop logs and the host keeps of it: pure functions, and the shapes of the compiled program's results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_model import HashModel
from random_requests import TABLES, VOCABULARY
from watchful_engine import DRAWN, LIMITS, PROMPTS, shared_engine, taste

from mvjax.engine import decode_loop, logprobs, report
from mvjax.engine import record as rec
from mvjax.engine.record import Record
from mvjax.engine.state import NO_SEGMENT, Counts, Sizes, empty_state
from mvjax.engine.tables import build_tables

STEPS, WIDTH = 5, 6


def random_rows(rng, count, alternatives):
    """Of several segments, some tokens written by the interpreter."""
    rows_TC = rng.integers(1, 99, (count, rec.FIELDS + logprobs.columns(alternatives))).astype(np.int32)
    rows_TC[:, rec.ORIGIN] = rng.integers(0, 5, count)
    rows_TC[:, rec.FLAGS] = rng.random(count) < 0.3
    return rows_TC


@pytest.mark.parametrize("alternatives", [None, 0, 2])
def test_a_record_grows_stay_by_stay_and_a_stay_that_comes_again_changes_nothing(alternatives):
    rng = np.random.default_rng(0)
    rows_TC, record, start, told = random_rows(rng, 300, alternatives), Record(), 0, []
    while start < 300:
        end = min(start + int(rng.integers(0, 40)), 300)
        before = record
        record = before.extended(start, rows_TC[start:end])
        again = before.extended(start, rows_TC[start:end])  # A reader that was interrupted.
        for one in (record, again, record.extended(start, rows_TC[start:end])):
            assert len(one) == end
            np.testing.assert_array_equal(one.rows_TC, rows_TC[:end])
            assert one.last == record.last
        assert len(before) == start
        told.append(record.logprobs(start))
        start = end
    whole = naive_logprobs(rows_TC) if alternatives is not None else None
    if whole is None:
        assert set(told) == {None}
        return
    pieces = [piece for piece in told if piece is not None]  # None before the first row.
    for name, wanted in vars(whole).items():
        np.testing.assert_array_equal(getattr(record.logprobs(0), name), wanted, name)
        np.testing.assert_array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), wanted, name)


def naive_logprobs(rows_TC):
    """Each token's stand in the last row before it of its segment."""
    of, sampled_T = np.zeros_like(rows_TC[:, rec.FIELDS :]), np.zeros(len(rows_TC), bool)
    for at, row in enumerate(rows_TC):
        before = [other for other in rows_TC[:at] if other[rec.ORIGIN] == row[rec.ORIGIN]]
        if before and row[rec.FLAGS] == 0:
            of[at], sampled_T[at] = before[-1][rec.FIELDS :], True
    return logprobs.unpacked(of, sampled_T)


def test_rows_that_do_not_follow_are_an_error():
    rows_TC = random_rows(np.random.default_rng(1), 4, None)
    with pytest.raises(RuntimeError, match="rows 5 to 9 of a request do not follow the 4 that are known"):
        Record().extended(0, rows_TC).extended(5, rows_TC)


def test_a_report_gives_each_request_its_rows_in_order():
    rng = np.random.default_rng(2)
    sizes = Sizes(requests=4, slots=8, max_branches=2, max_depth=1, max_paths=2, number_length=1)
    state = jax.eval_shape(lambda: empty_state(sizes))
    state = jax.tree.map(lambda leaf: rng.integers(0, 2, leaf.shape).astype(leaf.dtype), state)
    log_NWC = random_rows(rng, STEPS * WIDTH, 1).reshape(STEPS, WIDTH, -1)
    request_NW = np.sort(rng.integers(report.NOBODY, 3, (STEPS, WIDTH)), axis=1)  # Nobody's rows may stand anywhere.
    log_NWC = np.concatenate([request_NW[..., None].astype(np.int32), log_NWC], axis=2)
    assert log_NWC.shape[2] == report.log_columns(1)
    packed = np.asarray(report.packed(jnp.int32(3), jnp.int32(4), state, jnp.asarray(log_NWC)))
    found = report.unpacked(packed, 4, STEPS, WIDTH)
    assert (found.running, found.steps) == (3, 4)
    np.testing.assert_array_equal(found.alive_R, state.request.alive)
    np.testing.assert_array_equal(found.used_R, state.request.used)
    for name, count_R in zip(Counts._fields, found.counts):
        np.testing.assert_array_equal(count_R, getattr(state.request, name))
    rows = log_NWC[:4].reshape(-1, log_NWC.shape[2])  # The fifth step was not taken.
    for request, fed_TC in enumerate(found.fed_R):
        np.testing.assert_array_equal(fed_TC, [row[1:] for row in rows if row[0] == request] or fed_TC[:0])
    assert len(found.fed_R) == 4
    assert sum(map(len, found.fed_R)) > 10


def test_a_report_of_no_steps():
    sizes = Sizes(requests=2, slots=8, max_branches=2, max_depth=1, max_paths=2, number_length=1)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: empty_state(sizes)))
    log_NWC = jnp.zeros((STEPS, WIDTH, report.log_columns(None)), jnp.int32)
    found = report.unpacked(np.asarray(report.packed(jnp.int32(0), jnp.int32(0), state, log_NWC)), 2, STEPS, WIDTH)
    assert [fed_TC.shape for fed_TC in found.fed_R] == [(0, rec.FIELDS)] * 2


def test_what_comes_back_of_a_stay_and_the_state_do_not_depend_on_slots():
    """But for one number a slot: the segment that owns it."""
    tables = build_tables(TABLES, TABLES.eos_ids, 16)
    model, requests, width = HashModel(np.zeros(VOCABULARY)), 3, 8

    def shapes(slots, alternatives):
        sizes = Sizes(requests, slots, 4, 3, 16, tables.number.shape[1])
        state = jax.eval_shape(lambda: empty_state(sizes))
        kv = jax.eval_shape(lambda: model.init_kv(requests, slots))
        static = {"width": width, "narrower": 0, "log_steps": STEPS, "alternatives": alternatives}
        run = functools.partial(decode_loop.run, model, **static)
        room_R, steps = np.zeros(requests, np.int32), np.int32(0)
        made = jax.eval_shape(run, model.params, tables, kv, state, room_R, steps)
        assert jax.tree.map(jnp.shape, made[:2]) == jax.tree.map(jnp.shape, (kv, state))
        return state, made[2]

    (short, packed), (long, longer_packed) = shapes(512, None), shapes(8192, None)
    assert packed == longer_packed
    assert packed.size == 2 + requests * 6 + STEPS * width * 7
    assert shapes(512, 20)[1].size == packed.size + STEPS * width * logprobs.columns(20)
    assert (short.segment_RS.shape, long.segment_RS.shape) == ((requests, 512), (requests, 8192))
    assert short._replace(segment_RS=None) == long._replace(segment_RS=None)


def test_at_the_end_every_slot_is_the_roots():
    """So a result needs no segments of the device."""
    engine = shared_engine()
    engine.params = taste()
    results, cache = engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN), engine._cache
    segment_RS, used_R = np.asarray(cache.state.segment_RS), np.asarray(cache.state.request.used)
    assert max(len(result.parent) for result in results) > 2
    for segment_S, used in zip(segment_RS, used_R):
        assert used > 6
        np.testing.assert_array_equal(segment_S[:used], 0)
        np.testing.assert_array_equal(segment_S[used:], NO_SEGMENT)
