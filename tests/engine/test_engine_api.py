"""The engine's Python API, with the hash model: stops, limits, queue, streaming, cancelling, growth, errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_model import HashModel, forward
from random_requests import CODES, TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, Prompt, SamplingParams, program_cache, state_ops
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.prompt import chunk_plan
from mvjax.engine.state import Sizes, empty_state
from mvjax.errors import UserError
from mvjax.language import lay_out, tags

LIMITS = Limits(max_new_tokens=150, min_block_share=40, max_paths=4)
DRAWN = [SamplingParams(temperature=2.0, top_k=30, top_p=0.98, seed=seed) for seed in range(6)]
PROMPTS = [[20, 21, 22, 23, 24, 30 + n] for n in range(6)]
END = TABLES.eos_ids[0]
GREEDY = SamplingParams()


class WatchfulModel(HashModel):
    """Also records how many slots each prompt token sees."""

    max_position = 10_000

    def init_kv(self, requests, slots):
        return super().init_kv(requests, slots) | {"seen": jnp.zeros((requests, slots), jnp.int32)}

    def prefill(self, params, kv, tokens_T, positions_T, hide_start_ES, hide_end_ES, request, offset, length):
        slots = kv["seen"].shape[1]
        slot_T, slot_S = offset + jnp.arange(len(tokens_T)), jnp.arange(slots)
        sees_TS = slot_S <= slot_T[:, None]
        for start_S, end_S in zip(hide_start_ES, hide_end_ES):
            sees_TS &= ~((slot_T[:, None] >= start_S) & (slot_T[:, None] < end_S))
        at_T = jnp.where(jnp.arange(len(tokens_T)) < length, slot_T, slots)
        seen = kv["seen"].at[request, at_T].set(jnp.sum(sees_TS, axis=1), mode="drop")
        hashed = super().prefill(params, kv, tokens_T, positions_T, hide_start_ES, hide_end_ES, request, offset, length)
        return hashed | {"seen": seen}

    def decode(self, params, kv, *step):
        logits_WV, hashed = super().decode(params, kv, *step)
        return logits_WV, hashed | {"seen": kv["seen"]}


def taste():
    """Blocks are likely, the end of the text is not."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 3
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, *TABLES.eos_ids]] = -5
    bias_V[[tags.THINK_OPEN]] = -5
    return bias_V


@functools.cache
def shared_engine() -> Engine:
    """Two requests, four rows each; one row count, so that little is compiled."""
    config = EngineConfig(
        requests=2, max_branches=4, row_counts=(8,), stream_step=256, sync_steps=16, prefill_chunks=(4, 16)
    )
    return Engine(WatchfulModel(taste()), taste(), TABLES, config)


@pytest.fixture
def engine():
    """The shared engine, idle, with its usual parameters."""
    engine = shared_engine()
    engine.params = taste()
    return engine


@functools.cache
def answers():
    """What the shared engine says to all prompts."""
    engine = shared_engine()
    engine.params = taste()
    return engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN)


def same(result, other):
    """Equal answers, whatever the schedule."""
    for name in ("tokens", "written", "segment", "position", "parent"):
        np.testing.assert_array_equal(getattr(result, name), getattr(other, name), name)
    for name in ("reason", "cuts", "abandoned", "barred"):
        assert getattr(result, name) == getattr(other, name), name


def layout_of(prompt, result):
    tokens_T = np.array([*prompt, *result.tokens])
    codes_T = CODES[tokens_T].copy()
    codes_T[: len(prompt)] = tags.TEXT
    return lay_out(codes_T, TABLES.colon[tokens_T], len(prompt), engine_output=True, complete=True)


def test_measures_are_those_of_the_transcript():
    assert any(len(result.parent) > 2 for result in answers())
    for prompt, result in zip(PROMPTS, answers()):
        layout = layout_of(prompt, result)
        np.testing.assert_array_equal(layout.segment[len(prompt) :], result.segment)
        np.testing.assert_array_equal(layout.position[len(prompt) :], result.position)
        np.testing.assert_array_equal(layout.parent, result.parent)
        assert layout.critical_path == result.critical_path
        assert layout.new_tokens == result.new_tokens == len(result.stream.token) <= LIMITS.max_new_tokens
        assert layout.degree == result.degree
        assert result.sampled + result.written.sum() == result.new_tokens
        assert result.critical_path <= result.decode_steps <= result.new_tokens + 1
        assert result.timings.decode > 0
        assert result.timings.prefill >= 0
        assert (result.reason == "stop") == (0 not in result.cuts)


def test_what_the_interpreter_writes_is_no_training_target():
    for prompt, result in zip(PROMPTS, answers()):
        loss_T = layout_of(prompt, result).loss[len(prompt) :]
        if not result.cuts and not result.abandoned:
            np.testing.assert_array_equal(result.written, ~loss_T)
        else:
            assert not loss_T[result.written].all()


def test_modes(engine):
    sequential = engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN, mode="sequential")
    for parallel, result in zip(answers(), sequential):
        same(parallel, result)
        assert result.decode_steps in (result.new_tokens, result.new_tokens + 1)
    assert sum(result.decode_steps for result in answers()) < sum(result.decode_steps for result in sequential)
    for result in engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN, mode="autoregressive"):
        assert tags.PARALLEL_OPEN not in CODES[result.tokens]
        assert len(result.parent) == 1
        assert result.degree == 1


def test_nothing_is_compiled_again_whatever_the_settings(engine):
    answers()
    before = engine.compilations
    engine.generate(PROMPTS[:3], limits=Limits(max_new_tokens=60, max_positions=50, max_paths=2, min_block_share=10))
    engine.generate(PROMPTS[:2], limits=LIMITS, sampling=SamplingParams(temperature=0.3, top_p=0.5), mode="sequential")
    engine.generate([PROMPTS[0][1:], PROMPTS[1]], limits=LIMITS, mode="autoregressive")
    assert engine.compilations == before


@pytest.mark.parametrize("row_counts", [(2,), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_nothing_is_compiled_that_was_compiled_ahead(row_counts):
    """For prompts of one chunk or several; also where the loop gets wider."""
    config = EngineConfig(requests=1, max_branches=2, row_counts=row_counts, stream_step=256, prefill_chunks=(4, 16))
    engine = Engine(HashModel(taste()), taste(), TABLES, config)
    engine.compile_ahead(1, 100, [2, 25])
    compiled = engine.compilations
    results = engine.generate([[20, 35], [23] * 25], limits=Limits(max_new_tokens=60, min_block_share=20))
    assert any(len(result.parent) > 2 for result in results)
    assert engine.compilations == compiled == len(row_counts) + 2 + 3  # Loops, chunks; empty arrays, admission, fetch.
    assert all(result.timings.compile == 0 for result in results)


def test_an_engine_that_is_built_again_compiles_nothing(monkeypatch):
    """Nor does one of another model that computes the same; its weights are its own."""
    answers()
    added = []
    monkeypatch.setattr(program_cache.SHARED, "add", lambda key, compiled: added.append(key))
    again = Engine(WatchfulModel(taste()), taste(), TABLES, shared_engine().config)
    for one, other in zip(again.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2]), answers()):
        same(one, other)
    again.params = plain_taste()
    assert again.generate(PROMPTS[:2], limits=LIMITS)[0].tokens.tolist() != answers()[0].tokens.tolist()
    assert not added


def test_programs_are_shared_where_all_that_decides_them_is_equal(monkeypatch):
    shared = program_cache.SharedPrograms(most=2)
    monkeypatch.setattr(program_cache, "SHARED", shared)
    key = program_cache.AllocateKey(Sizes(1, 8, 2, 1, 2, 1))

    def run(arithmetic, factor, argument, key=key):
        return int(ProgramCache(arithmetic).run(Program(key, lambda x: factor * x.sum(), (argument,))))

    one_N, two_N = np.ones(3, np.int32), np.ones(4, np.int32)
    assert run("twice", 2, one_N) == 6
    assert run("twice", 99, one_N) == 6  # the program of before
    assert run("thrice", 3, one_N) == 9
    assert run(None, 5, one_N) == 15
    assert run(None, 7, one_N) == 21
    assert run("twice", 4, two_N) == 16  # another shape; two programs are kept at most
    assert run("thrice", 99, one_N) == 9
    assert run("twice", 10, one_N) == 30  # had gone
    assert run("twice", 11, one_N, program_cache.EvictKey(key.sizes)) == 33


def test_a_place_is_used_again_and_the_order_of_requests_does_not_matter(engine):
    backwards = engine.generate(PROMPTS[::-1], limits=LIMITS, sampling=DRAWN[::-1])
    assert [result.request for result in backwards] == list(range(6))
    for result, other in zip(answers(), backwards[::-1]):
        same(result, other)
    assert max(result.timings.queued for result in backwards) > min(result.timings.decode for result in backwards)


def test_the_seed_decides(engine):
    one, other = engine.generate([PROMPTS[0]] * 2, limits=LIMITS, sampling=[DRAWN[0], DRAWN[1]])
    same(one, answers()[0])
    assert other.tokens.tolist() != one.tokens.tolist()


def test_min_p_does_not_depend_on_the_schedule_and_thins_what_is_drawn(engine):
    """With 1 only what ties with the largest is left: the greedy answer. Between, a request has its own answer."""
    mixed = [SamplingParams(temperature=2.0, min_p=min_p, seed=7) for min_p in (0.0, 0.5, 1.0)]
    together = engine.generate([PROMPTS[0]] * 3, limits=LIMITS, sampling=mixed)
    backwards = engine.generate([PROMPTS[0]] * 3, limits=LIMITS, sampling=mixed[::-1], mode="sequential")[::-1]
    for one, other in zip(together, backwards):
        same(one, other)
    all_drawn, some_drawn, best_drawn = (result.tokens.tolist() for result in together)
    assert best_drawn == engine.generate(PROMPTS[:2], limits=LIMITS)[0].tokens.tolist()  # two: sizes in use already
    assert len({tuple(all_drawn), tuple(some_drawn), tuple(best_drawn)}) == 3


def test_wishes_for_single_tokens_do_not_depend_on_the_schedule(engine):
    """Drawn, each alone and all together; seeds of any sign and size have answers of their own."""
    wishes = [
        {"seed": 2**32 + 3},
        {"seed": -3, "logit_bias": {tags.PARALLEL_OPEN: 1.5, 33: 2.0}},
        {"stop_token_ids": (33, 34), "seed": -(2**63)},
        {"ignore_eos": True},
        {"min_tokens": 140, "stop_token_ids": tuple(range(30, 38))},
        {"logit_bias": {33: 1.0}, "stop_token_ids": (33,), "min_tokens": 100, "seed": 2**63 - 1},
    ]
    wishes = [dataclasses.replace(DRAWN[3], **wish) for wish in wishes]
    together = engine.generate([PROMPTS[0]] * 6, limits=LIMITS, sampling=wishes)
    backwards = engine.generate([PROMPTS[0]] * 6, limits=LIMITS, sampling=wishes[::-1], mode="sequential")[::-1]
    for one, other in zip(together, backwards):
        same(one, other)
    assert len({tuple(result.tokens.tolist()) for result in together}) == 6


def test_a_stop_id_ends_a_path_or_the_request(engine):
    """As end-of-text does: it is not kept, and in a path the interpreter writes </Path>."""
    engine.params = plain_taste()
    stop = dataclasses.replace(GREEDY, stop_token_ids=(33,), logit_bias={33: 100.0})
    wishes = [dataclasses.replace(stop, **more) for more in ({}, {"min_tokens": 10}, {"ignore_eos": True})]
    results = engine.generate(PROMPTS[:3], limits=Limits(max_new_tokens=30), sampling=wishes)
    assert [(result.reason, result.new_tokens) for result in results] == [("stop", 0), ("stop", 10), ("tokens", 22)]
    engine.params = taste()
    wish = dataclasses.replace(stop, logit_bias={33: 4.0}, min_tokens=150)
    ended = 0
    for result in engine.generate(PROMPTS, limits=LIMITS, sampling=wish):
        assert 33 not in result.tokens
        closes_T = (CODES[result.tokens] == tags.PATH_CLOSE) & result.written
        ended += len(set(result.segment[closes_T]) - set(result.cuts))
    assert ended > 0


def test_a_bias_lifts_no_bar(engine):
    """Tags that the model wants more than anything, in a text where none may stand."""
    biased = SamplingParams(logit_bias={tags.PARALLEL_OPEN: 100.0, tags.PATH_CLOSE: 90.0, tags.GOAL_OPEN: 100.0})
    limits = Limits(max_new_tokens=30)
    for result in engine.generate(PROMPTS[:2], limits=limits, sampling=biased, mode="autoregressive"):
        assert not np.isin(CODES[result.tokens], [tags.PARALLEL_OPEN, tags.PATH_CLOSE, tags.GOAL_OPEN]).any()
        assert result.barred == result.sampled > 20


def test_end_of_text_stops(engine):
    bias_V = taste()
    bias_V[END] = 100
    engine.params = bias_V
    result = engine.generate(PROMPTS[:2], limits=LIMITS)[0]
    assert (result.reason, result.new_tokens, result.cuts, result.critical_path) == ("stop", 0, {}, 0)
    assert (result.degree, result.decode_steps, result.barred) == (1.0, 1, 0)


def test_limits_stop(engine):
    engine.params = plain_taste()
    few, short = engine.generate(
        PROMPTS[:2], limits=[Limits(max_new_tokens=30), Limits(max_new_tokens=100, max_positions=20)]
    )
    # Sampling ends when no more than the reserve of 8 is left; nothing is open that needs it.
    assert (few.reason, few.new_tokens, few.cuts) == ("tokens", 22, {0: "tokens"})
    assert (short.reason, short.critical_path, short.cuts) == ("positions", 12, {0: "positions"})


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


def test_requests_may_come_while_others_run(engine):
    numbers = [engine.submit(prompt, limits=LIMITS, sampling=DRAWN[at]) for at, prompt in enumerate(PROMPTS[:2])]
    with pytest.raises(UserError, match="busy"):
        engine.generate(PROMPTS)
    results = engine.step()
    numbers += [engine.submit(prompt, limits=LIMITS, sampling=DRAWN[2 + at]) for at, prompt in enumerate(PROMPTS[2:5])]
    while engine.busy:
        results += engine.step()
    assert sorted(result.request for result in results) == numbers
    for result in results:
        same(result, answers()[numbers.index(result.request)])


def plain_taste():
    """Only text, and no end of it."""
    bias_V = np.where(CODES >= 0, -100, 0).astype(np.float32)
    bias_V[list(TABLES.eos_ids)] = -100
    return bias_V


@pytest.mark.slow
def test_streams_grow(engine):
    engine.params = plain_taste()
    for prompt, result in zip(PROMPTS, engine.generate(PROMPTS[:2], limits=Limits(max_new_tokens=280))):
        assert engine.kv["token"].shape == (2, 512)
        tokens_T = np.array([*prompt, *result.tokens])
        logits_TV = forward(tokens_T, np.arange(len(tokens_T)), np.tri(len(tokens_T)), plain_taste())
        np.testing.assert_array_equal(logits_TV[len(prompt) - 1 : -1].argmax(axis=1), result.tokens)


def test_growing_keeps_what_is_there():
    small = Sizes(requests=1, slots=8, max_branches=2, max_depth=1, max_paths=2, number_length=1)
    large = dataclasses.replace(small, requests=2, slots=16)
    model = HashModel(np.zeros(VOCABULARY))
    kept = jax.eval_shape(lambda: (model.init_kv(1, 8), empty_state(small)))
    kept = jax.tree.map(lambda leaf: np.full(leaf.shape, 1, leaf.dtype), kept)
    grown = jax.jit(functools.partial(state_ops.grow, model=model, sizes=large))(*kept)
    empty = jax.jit(lambda: (model.init_kv(2, 16), empty_state(large)))()
    for old, new, blank in zip(*map(jax.tree.leaves, (kept, grown, empty))):
        inside = tuple(slice(length) for length in old.shape)
        new, blank = np.array(new), np.array(blank)
        assert new.shape == blank.shape
        np.testing.assert_array_equal(new[inside], old)
        new[inside] = blank[inside] = 0
        np.testing.assert_array_equal(new, blank)


def test_earlier_turns_keep_their_layout(engine):
    """A prompt that holds a transcript: paths hide from their siblings, positions go on after the largest."""
    first = next(result for result in answers() if len(result.parent) > 2)
    prompt = PROMPTS[first.request]
    layout = layout_of(prompt, first)
    question = [25, 26, 27]
    tokens = [*prompt, *first.tokens.tolist(), *question]
    count = len(tokens)
    last = layout.position.max()
    pad = [(0, 0), (0, len(question))]
    follow_up = Prompt(
        tokens,
        positions=np.concatenate([layout.position, last + 1 + np.arange(len(question))]),
        hide_start=np.pad(layout.hide_start, pad),
        hide_end=np.pad(layout.hide_end, pad),
    )
    plain, laid_out = engine.generate([tokens, follow_up], limits=Limits(max_new_tokens=20))
    assert (laid_out.prompt_length, laid_out.position[0]) == (count, last + len(question) + 1)
    assert plain.position[0] == count
    row_TT, column_TT = np.mgrid[:count, :count]
    sees_TT = column_TT <= row_TT
    np.testing.assert_array_equal(engine.kv["seen"][0, : count - 1], sees_TT.sum(axis=1)[:-1])
    for start_T, end_T in zip(follow_up.hide_start, follow_up.hide_end):
        sees_TT &= ~((row_TT >= start_T) & (row_TT < end_T))
    np.testing.assert_array_equal(engine.kv["seen"][1, : count - 1], sees_TT.sum(axis=1)[:-1])


def test_tags_in_a_prompt_are_text(engine):
    typed = [20, tags.PARALLEL_OPEN, tags.GOAL_OPEN, tags.GOAL_CLOSE, tags.PATH_CLOSE, 21]
    for result in engine.generate([typed, [21]], limits=LIMITS, sampling=DRAWN[:2]):
        layout_of(typed if result.request == 0 else [21], result)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "empty"),
        ([1, VOCABULARY], {}, f"token {VOCABULARY}"),
        ([1.5], {}, "token ids"),
        ([1] * 40_000, {}, "has 40000 tokens"),
        ([1] * 9_999, {}, "beyond the model's 10000"),
        (Prompt([1, 2], positions=np.array([3, 3])), {}, "ends inside a block"),
        (Prompt([1, 2], positions=np.array([3])), {}, "positions of shape"),
        (Prompt([1], hide_start=np.zeros((1, 1))), {}, "only one of hide_start and hide_end"),
        (Prompt([1], hide_start=np.zeros((1, 2)), hide_end=np.zeros((1, 2))), {}, "intervals of shapes"),
        (Prompt([1], hide_start=np.zeros((9, 1)), hide_end=np.zeros((9, 1))), {}, "9 levels deep"),
        (Prompt([1], hide_start=np.zeros((1, 1), int), hide_end=np.full((1, 1), 2**31 - 1)), {}, "ends inside a block"),
        ([1], {"limits": Limits(max_new_tokens=8)}, "max_new_tokens = 8"),
        ([1], {"limits": Limits(max_positions=8)}, "max_positions = 8"),
        ([1], {"limits": Limits(max_path_tokens=0)}, "max_path_tokens = 0"),
        ([1], {"limits": Limits(max_paths=17)}, "max_paths = 17"),
        ([1], {"limits": Limits(max_depth=4)}, "max_depth = 4"),
        ([1], {"sampling": SamplingParams(temperature=-1)}, "temperature = -1"),
        ([1], {"sampling": SamplingParams(temperature=float("nan"))}, "temperature = nan"),
        ([1], {"sampling": SamplingParams(top_k=-1)}, "top_k = -1"),
        ([1], {"sampling": SamplingParams(top_p=0.0)}, "top_p = 0"),
        ([1], {"sampling": SamplingParams(seed=2**63)}, "seed = 9223372036854775808"),
        ([1], {"mode": "fast"}, "mode is 'fast'"),
        ([1], {"limits": [LIMITS, LIMITS]}, "2 limits"),
    ],
)
def test_bad_requests_are_refused_at_once(engine, prompt, settings, message):
    with pytest.raises(UserError, match=message):
        engine.generate([prompt], **settings)
    assert not engine.busy


def test_models_and_vocabularies_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="tokenizer has 44 tokens but the model only 43"):
        Engine(HashModel(np.zeros(VOCABULARY - 1)), np.zeros(1), TABLES)
    with pytest.raises(UserError, match="end-of-text token 3"):
        Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(1), dataclasses.replace(TABLES, eos_ids=(3,)))
    untagged = dataclasses.replace(TABLES, codes=np.full(VOCABULARY, -1, np.int8))
    with pytest.raises(UserError, match="no control tags"):
        Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(1), untagged).generate([[1]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_branches": 33},
        {"max_branches": 0},
        {"requests": 0},
        {"max_paths": 65},
        {"row_counts": (4, 2)},
        {"prefill_chunks": ()},
    ],
)
def test_bad_sizes_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        EngineConfig(**wrong)


def test_chunks_cover_a_prompt_and_are_at_least_half_full():
    for length in range(700):
        chunks = chunk_plan(length, (16, 64, 256))
        assert sum(count for *_, count in chunks) == length
        assert [offset for offset, *_ in chunks] == [
            sum(size for _, size, _ in chunks[:at]) for at in range(len(chunks))
        ]
        assert all(count == size for _, size, count in chunks[:-1])
        assert all(2 * count > size or size == 16 for _, size, count in chunks)
