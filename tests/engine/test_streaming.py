"""New tokens while requests run: what the loop logs, what the host keeps of it, what a listener gets."""

import faulty_engine
import numpy as np
import pytest
from faulty_engine import Faults
from watchful_engine import DRAWN, LIMITS, PROMPTS, answers, layout_of, same, shared_engine, taste

from mvjax.engine.request import Request

pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes


@pytest.fixture
def engine():
    """The shared engine, idle, with its usual parameters."""
    engine = shared_engine()
    engine.params = taste()
    return engine


def test_streaming_brings_every_token_once(engine):
    heard, parents = {}, {}

    def listen(updates):
        for request, segment, parent, tokens, logprobs in updates:
            assert logprobs is None  # This engine keeps none.
            assert tokens
            assert parents.setdefault((request, segment), parent) == parent
            heard.setdefault((request, segment), []).extend(tokens)

    results = engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN, on_tokens=listen)
    for result in results:
        stream = result.stream
        for number in np.unique(stream.origin):
            assert heard.pop((result.request, number)) == stream.token[stream.origin == number].tolist()
            fork = np.flatnonzero((stream.fork <= number) & (number < stream.fork + stream.paths))
            assert parents[result.request, number] == (stream.origin[fork[0]] if number else -1)
    assert not heard


def test_cancelling_winds_up_one_request(engine):
    def cancel_first(updates):
        if any(update.request == 0 for update in updates):
            engine.cancel(0)

    first, second = engine.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2], on_tokens=cancel_first)
    assert first.reason == "cancelled"
    assert first.cuts[0] == "cancelled"
    assert first.new_tokens < answers()[0].new_tokens
    layout_of(PROMPTS[0], first)
    same(second, answers()[1])


def test_an_interrupted_call_leaves_a_usable_engine(engine):
    def stop(updates):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS[:2], limits=LIMITS, on_tokens=stop)
    assert not engine.busy
    same(engine.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2])[1], answers()[1])


def test_stays_are_short_while_somebody_listens(engine, monkeypatch):
    """With the same loops and answers; every stay is told of."""
    answers()
    runner, reports, heard = type(engine._runner), [], []
    decode = runner.decode

    def watched(*arguments):
        reports.append(decode(*arguments))
        return reports[-1]

    monkeypatch.setattr(runner, "decode", watched)
    loops = engine._runner.decode_programs()
    for result, other in zip(
        engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN, on_tokens=heard.append), answers()
    ):
        same(result, other)
    short = [report.steps for report in reports]
    assert engine.config.stream_steps == max(short) == 8
    fed = [sum(map(len, report.fed_R)) for report in reports]
    told = [sum(len(update.tokens) for update in updates) for updates in heard]
    assert len(told) == len(fed)
    assert sum(fed) == sum(told) + len(PROMPTS)  # The last token of each prompt is nobody's news.
    reports.clear()
    engine.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2])
    assert max(report.steps for report in reports) == engine.config.sync_steps == 16
    assert engine._runner.decode_programs() == loops


@pytest.mark.parametrize("paged", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_record_is_what_the_model_was_fed(paged, monkeypatch):
    """At every stay and for every request, with or without listeners: against the model's own stream of tokens. Under
    preemption, a fault in the loop, and a cancelled request."""
    faulty_engine.answers()
    engine, take, compared = faulty_engine.shared_engine(paged), Request.take, []
    engine.reset()

    def taken(request, fed_TC, used):
        take(request, fed_TC, used)
        cache, index = engine._cache, engine._scheduler.on_device.index(request)
        slot_T, at = np.arange(request.fed, used), index
        if paged:
            table_M = np.asarray(cache.kv["table"])[index]
            at, slot_T = table_M[slot_T // cache.page_size], slot_T % cache.page_size
        for name, column_T in zip(("token", "position"), request.record.rows_TC.T):
            np.testing.assert_array_equal(np.asarray(cache.kv[name])[at, slot_T], column_T)
        compared.append(len(request.record))

    monkeypatch.setattr(Request, "take", taken)
    Faults(monkeypatch, type(engine._runner), "decode", {9}, KeyboardInterrupt(), after=True)
    numbers, told, results, stays = faulty_engine.submit_all(engine), {}, {}, 0

    def hear(updates):
        for update in updates:
            told.setdefault((update.request, update.segment), []).extend(update.tokens)

    while engine.busy:
        stays += 1
        try:
            found = engine.step(hear if stays % 3 else None)
        except KeyboardInterrupt:
            continue
        results |= {result.request: result for result in found}
        if stays == 25:
            engine.cancel(numbers[-1])
    assert len(compared) > 40
    assert max(compared) > 100
    cancelled = results.pop(numbers[-1])
    assert cancelled.reason == "cancelled"
    faulty_engine.check({numbers.index(number): result for number, result in results.items()}, failed=0)
