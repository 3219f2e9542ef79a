"""The engine's Python API, with the hash model: stops, limits, queue, streaming, cancelling, errors."""

import dataclasses

import numpy as np
import pytest
from hash_model import forward
from random_requests import CODES, TABLES, VOCABULARY
from watchful_engine import DRAWN, LIMITS, PROMPTS, answers, layout_of, plain_taste, same, shared_engine, taste

from mvjax.engine import Limits, Prompt, SamplingParams
from mvjax.errors import UserError
from mvjax.language import tags

END = TABLES.eos_ids[0]
GREEDY = SamplingParams()


@pytest.fixture
def engine():
    """The shared engine, idle, with its usual parameters."""
    engine = shared_engine()
    engine.params = taste()
    return engine


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


@pytest.mark.slow
def test_long_answers_are_those_of_the_model(engine):
    engine.params = plain_taste()
    for prompt, result in zip(PROMPTS, engine.generate(PROMPTS[:2], limits=Limits(max_new_tokens=280))):
        tokens_T = np.array([*prompt, *result.tokens])
        logits_TV = forward(tokens_T, np.arange(len(tokens_T)), np.tri(len(tokens_T)), plain_taste())
        np.testing.assert_array_equal(logits_TV[len(prompt) - 1 : -1].argmax(axis=1), result.tokens)


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
        ([1] * 9_000, {"limits": Limits(max_new_tokens=1100)}, "beyond the model's 10000"),
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
