"""Prompts that begin alike share pages, and a conversation goes on where it was; answers are as without that."""

import functools

import numpy as np
import pytest
from hash_model import HashModel, PagedHashModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_requests import TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, Prompt, SamplingParams
from mvjax.language import tags

PAGE = 16
LIMITS = Limits(max_new_tokens=140, min_block_share=25, max_paths=3)
pytestmark = pytest.mark.xdist_group("engine/prefixes")
SIZES = {"requests": 2, "max_branches": 4, "row_counts": (8,), "max_slots": 512, "prefill_chunks": (64,)}
LONG = [20 + n % 11 for n in range(70)]


def bias():
    """Blocks are likely, the end of the text is not."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 4
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, tags.THINK_OPEN, *TABLES.eos_ids]] = -5
    return bias_V


@functools.cache
def plain() -> Engine:
    """Contiguous streams, which share nothing."""
    return Engine(HashModel(bias()), bias(), TABLES, EngineConfig(**SIZES))


@functools.cache
def shared_engine(pages: int) -> Engine:
    return Engine(PagedHashModel(bias(), PAGE), bias(), TABLES, EngineConfig(**SIZES, pages=pages))


@pytest.fixture
def engine():
    """Nothing is known to it."""
    engine = shared_engine(60)
    engine.reset()
    return engine


@pytest.fixture
def prefilled(monkeypatch, engine):
    """Tokens that calls over pages prefill, by request."""
    counts: dict[int, int] = {}
    prefill = type(engine._runner).prefill

    def counted(runner, rows, size):
        for row in rows if runner.cache.prefixes else ():
            counts[row.request.number] = counts.get(row.request.number, 0) + row.length
        return prefill(runner, rows, size)

    monkeypatch.setattr(type(engine._runner), "prefill", counted)
    return counts


def drawn(seed):
    return SamplingParams(temperature=2.0, top_k=30, seed=seed)


def run(engine, prompts, samplings, cancel=()):
    numbers = [engine.submit(prompt, limits=LIMITS, sampling=one) for prompt, one in zip(prompts, samplings)]
    results = {}
    while engine.busy:
        results |= {result.request: result for result in engine.step()}
        for place in cancel:
            engine.cancel(numbers[place])
        check_pages(engine)
    return [results[number] for number in numbers]


def check_pages(engine):
    """Every page is held as often as it stands in the table; the others are free or kept."""
    pool = engine._cache.pool
    counts_P = np.bincount(pool.table_RM[pool.table_RM > 0], minlength=pool.pages)
    np.testing.assert_array_equal(pool._held_P, counts_P)
    assert pool.free == pool.pages - 1 - np.count_nonzero(counts_P)
    assert sorted([*pool._free, *pool._idle, *np.flatnonzero(counts_P)]) == list(range(1, pool.pages))
    known = set(engine._cache.prefixes._keys_of)
    assert known == set(np.flatnonzero(pool._keep_P).tolist())


def same(results, prompts, samplings):
    for result, wanted in zip(results, plain().generate(prompts, limits=LIMITS, sampling=samplings), strict=True):
        for name in ("tokens", "written", "segment", "position", "parent"):
            np.testing.assert_array_equal(getattr(result, name), getattr(wanted, name), name)


def test_prompts_that_begin_alike_share_full_pages(engine, prefilled):
    prompts = [[*LONG, 21, 22, 23], [*LONG, 25], LONG[:40], [21, *LONG]]
    samplings, before = [drawn(seed) for seed in range(4)], engine.stats()
    results = [run(engine, [prompt], [one])[0] for prompt, one in zip(prompts, samplings)]
    same(results, prompts, samplings)
    # Of 72, 70 and 39 tokens; 64 and 32 of them fill pages that the first has filled. The last begins otherwise.
    assert [prefilled[result.request] for result in results] == [72, 6, 7, 70]
    assert [result.found for result in results] == [0, 64, 32, 0]
    assert engine.stats().prefix_hits - before.prefix_hits == 96
    assert engine.stats().prefix_queries - before.prefix_queries == 72 + 70 + 39 + 70


def test_answers_to_one_prompt_that_come_together_share_its_pages(engine, prefilled):
    samplings, before = [drawn(seed) for seed in range(4)], engine.stats()
    results = run(engine, [LONG] * 4, samplings)
    same(results, [LONG] * 4, samplings)
    assert [prefilled[result.request] for result in results] == [69, 5, 5, 5]
    assert [result.found for result in results] == [0, 64, 64, 64]
    assert engine.stats().prefix_hits - before.prefix_hits == 192


def test_a_next_turn_prefills_only_what_is_new(engine, prefilled):
    """Also where the answer before has blocks: its slots stand in the order in which they were generated."""
    prompts, branched = [LONG[: 40 + n] for n in range(8)], 0
    for number, prompt in enumerate(prompts):
        (first,) = run(engine, [prompt], [drawn(number)])
        follow_up = engine.next_turn(prompt, first, [25, 26, 27, 28])
        branched += follow_up.laid_out
        again, other = run(engine, [follow_up] * 2, [drawn(7), drawn(8)])  # Two answers, from one stream.
        same([again, other], [follow_up] * 2, [drawn(7), drawn(8)])
        assert again.found == other.found == len(prompt) + first.new_tokens
        assert prefilled[again.request] == prefilled[other.request] == 3
        third = engine.next_turn(follow_up, again, [30])
        (last,) = run(engine, [third], [drawn(9)])
        same([last], [third], [drawn(9)])
        assert prefilled.get(last.request, 0) == 0
    assert branched >= 2


def test_a_prompt_with_another_layout_shares_nothing(engine, prefilled):
    """Same tokens, other positions or hidden intervals: other keys and values."""
    shifted = Prompt(LONG, positions=np.arange(70) + 1)
    start = np.zeros((1, 70), np.int32)
    hidden = Prompt(LONG, hide_start=start + 5, hide_end=np.where(np.arange(70) < 3, 9, start))
    empty = Prompt(LONG, hide_start=start + 5, hide_end=start)
    for prompt, tokens in ((LONG, 69), (shifted, 69), (hidden, 69), (empty, 5)):
        (result,) = run(engine, [prompt], [drawn(1)])
        same([result], [prompt], [drawn(1)])
        assert prefilled[result.request] == tokens


def test_new_parameters_forget_what_was_known(engine, prefilled):
    run(engine, [LONG], [drawn(0)])
    engine.params = bias()
    run(engine, [LONG], [drawn(0)])
    assert list(prefilled.values()) == [69, 69]


def test_what_was_let_go_first_is_forgotten_first(prefilled):
    few = shared_engine(14)
    few.reset()
    (first,) = run(few, [LONG], [drawn(0)])
    run(few, [[21, *LONG]], [drawn(1)])
    (again,) = run(few, [LONG], [drawn(0)])
    assert again.found < 64
    np.testing.assert_array_equal(first.tokens, again.tokens)


TURNS = st.lists(
    st.tuples(
        st.integers(0, 5),  # The turn before it, among those there are; 0: none.
        st.lists(st.integers(20, 30), min_size=1, max_size=40),
        st.integers(0, 9),
        st.booleans(),
    ),
    min_size=2,
    max_size=7,
)


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(pages=st.sampled_from([24, 60]), turns=TURNS)
def test_conversations_that_branch_answer_as_without_shared_pages(pages, turns):
    check_turns(pages, turns)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(pages=st.sampled_from([24, 32, 60]), turns=TURNS)
def test_many_conversations_answer_as_without_shared_pages(pages, turns):
    check_turns(pages, turns)


def check_turns(pages, turns):
    """Turns two at a time; some are cancelled. Pages are few: what is known is forgotten again."""
    engine = shared_engine(pages)
    engine.reset()
    ended = []
    for at in range(0, len(turns), 2):
        prompts, samplings, cancelled = [], [], []
        for place, (before, tokens, seed, cancel) in enumerate(turns[at : at + 2]):
            prompt = Prompt(tokens)
            if before and ended:
                prompt = engine.next_turn(*ended[before % len(ended)], tokens)
            if len(prompt.tokens) > 230:
                prompt = Prompt(tokens)
            prompts.append(prompt)
            samplings.append(drawn(seed))
            cancelled += [place] * cancel
        results = run(engine, prompts, samplings, cancelled)
        for place, (prompt, one, result) in enumerate(zip(prompts, samplings, results)):
            if place not in cancelled:
                same([result], [prompt], [one])
                ended.append((prompt, result))
