"""A load of many requests of all kinds: nothing is compiled under them, and nothing is left behind."""

import gc

import jax
import numpy as np
import pytest
from hash_model import PagedHashModel
from random_requests import TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, SamplingParams
from mvjax.language import tags

pytestmark = pytest.mark.xdist_group("engine/many_requests")
SIZES = {"requests": 4, "max_branches": 4, "row_counts": (16,), "max_slots": 2304, "pages": 150}


def bias():
    """Blocks are likely, the end of the text comes now and then."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 3
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, tags.THINK_OPEN]] = -5
    return bias_V


@pytest.fixture(scope="module")
def engine():
    """In pages, fewer than four long prompts take."""
    engine = Engine(PagedHashModel(bias(), 16), bias(), TABLES, EngineConfig(**SIZES))
    engine.warm_up()
    engine.preempted = 0
    preempt = engine._cache.preempt

    def counted(index):
        engine.preempted += 1
        return preempt(index)

    engine._cache.preempt = counted
    return engine


def serve(engine, count, longest, most_tokens, seed=0):
    """Requests that come a few at a time; prompts of 1 to `longest` tokens, some of them the next turn of an answer;
    some are cancelled, some have deadlines. The reasons of their ends."""
    rng, results, asked, ended = np.random.default_rng(seed), {}, {}, []
    while len(results) < count:
        while len(asked) < count and len(asked) - len(results) < 12 and rng.random() < 0.7:
            length = int(rng.integers(1, longest) if rng.random() < 0.3 else np.exp(rng.uniform(0, np.log(longest))))
            prompt = rng.integers(20, 40, length).tolist()
            if ended and rng.random() < 0.3:
                before, result = ended[int(rng.integers(len(ended)))]
                if result.prompt_length + result.new_tokens + 80 < longest:
                    prompt = engine.next_turn(before, result, prompt[:50])
            limits = Limits(max_new_tokens=int(rng.integers(20, most_tokens)), min_block_share=16, max_paths=4)
            sampling = SamplingParams(temperature=2.0 * (rng.random() < 0.8), seed=int(rng.integers(2**40)))
            mode = str(rng.choice(["parallel", "sequential", "autoregressive"], p=[0.6, 0.2, 0.2]))
            deadline = float(rng.exponential(5.0)) if rng.random() < 0.1 else None
            number = engine.submit(prompt, limits=limits, sampling=sampling, mode=mode, deadline=deadline)
            asked[number] = prompt
        if asked and rng.random() < 0.1:
            engine.cancel(int(rng.choice(list(asked))))
        for result in engine.step((lambda updates: None) if rng.random() < 0.5 else None):
            results[result.request] = result.reason
            if result.reason in ("stop", "tokens"):
                ended = [*ended[-20:], (asked[result.request], result)]
    assert not engine.busy
    return list(results.values())


def test_nothing_is_compiled_and_no_page_is_lost_under_a_mixed_load(engine):
    reasons = serve(engine, 40, 400, 120)
    assert {"stop", "tokens", "cancelled"} <= set(reasons) <= {"stop", "tokens", "cancelled", "deadline", "positions"}
    check_nothing_is_left(engine)


@pytest.mark.slow
def test_two_hundred_requests_of_up_to_two_thousand_tokens(engine):
    before = engine.preempted
    reasons = serve(engine, 200, 2000, 200, seed=1)
    assert engine.preempted > before
    assert {"stop", "tokens", "cancelled"} <= set(reasons) <= {"stop", "tokens", "cancelled", "deadline", "positions"}
    check_nothing_is_left(engine)


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_requests(engine):
    """Arrays on the device, and what the host keeps for requests, pages and prefixes."""
    held = []
    for turn in range(4):
        serve(engine, 500, 300, 40, seed=2 + turn)
        check_nothing_is_left(engine)
        gc.collect()
        prefixes = engine._cache.prefixes
        keys = len(prefixes._page_of) + len(prefixes._stream_of)
        held.append((len(jax.live_arrays()), sum(array.nbytes for array in jax.live_arrays()), keys))
    arrays, sizes, keys = zip(*held)
    assert max(arrays[1:]) <= arrays[0] + 8
    assert max(sizes[1:]) <= 1.01 * sizes[0]
    assert max(keys) <= 2 * SIZES["pages"]  # A page is known by itself, and as the end of a stream.


def check_nothing_is_left(engine):
    pool, prefixes = engine._cache.pool, engine._cache.prefixes
    assert engine.cold_compilations == 0
    assert engine.compilations <= 24
    assert pool.free == SIZES["pages"]
    assert not pool.table_RM.any()
    assert sorted([*pool._free, *pool._idle]) == list(range(1, SIZES["pages"] + 1))
    assert set(prefixes._page_of.values()) <= set(pool._idle)
    assert not engine._requests
    assert not engine._scheduler.queue
