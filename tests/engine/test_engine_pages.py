"""Streams in pages: who owns what, the same answers as without pages, and requests that find none left."""

import collections
import dataclasses
import functools

import numpy as np
import pytest
from hash_model import HashModel, PagedHashModel
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from random_requests import TABLES, VOCABULARY, WORDS, limits_of, random_wishes, sampling_of
from reference_interpreter import Interpreter, Rules

from mvjax.engine import Engine, EngineConfig, Limits, SamplingParams
from mvjax.engine.page_pool import WASTE, PagePool
from mvjax.engine.program_cache import PreemptKey
from mvjax.errors import UserError
from mvjax.language import tags

LIMITS = Limits(max_new_tokens=150, min_block_share=40, max_paths=4)
WISHES = [
    {},
    {"logit_bias": {20: 3.0, 31: -50.0}, "min_tokens": 150},
    {"stop_token_ids": (33, 34)},
    {"ignore_eos": True},
    {"logit_bias": {tags.PARALLEL_OPEN: 2.0, 33: 1.0}, "stop_token_ids": (33,), "min_tokens": 60},
]
DRAWN = [
    SamplingParams(temperature=2.0, top_k=30, top_p=0.98, seed=seed, **wishes) for seed, wishes in enumerate(WISHES)
]
PROMPTS = [[20, 21, 22, 23, 24, 30 + n] for n in range(5)]
PAGE = 16
pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes
SIZES = {"requests": 2, "max_branches": 4, "row_counts": (8,), "max_slots": 256, "sync_steps": 16}
SIZES |= {"logprobs": 3, "prefill_chunks": (64,)}


class Owners(RuleBasedStateMachine):
    """Whatever is reserved and released: no page has two owners, none is lost, the wasted one is nobody's."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(12, 4, requests=4, width=11)

    @rule(place=st.integers(0, 3), slots=st.integers(0, 40))
    def reserve(self, place, slots):
        free, had = self.pool.free, self.pool.room(place)
        enough = self.pool.reserve(place, slots)
        assert enough == (slots <= self.pool.room(place))
        assert enough == (-(-max(slots - had, 0) // 4) <= free)

    @rule(place=st.integers(0, 3))
    def release(self, place):
        self.pool.release(place)
        assert self.pool.room(place) == 0

    @invariant()
    def pages_are_all_there(self):
        table_RM = self.pool.table_RM
        owned = table_RM[table_RM != WASTE].tolist()
        assert len(set(owned)) == len(owned)
        assert len(owned) + self.pool.free == 11
        assert [4 * int((row != WASTE).sum()) for row in table_RM] == [self.pool.room(place) for place in range(4)]


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=25)


def bias():
    """Blocks are likely, the end of the text is not."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 3
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, tags.THINK_OPEN, *TABLES.eos_ids]] = -5
    return bias_V


@functools.cache
def engine(pages: int | None) -> Engine:
    """In pages, or contiguous for None."""
    model = HashModel(bias()) if pages is None else PagedHashModel(bias(), PAGE)
    return Engine(model, bias(), TABLES, EngineConfig(**SIZES, pages=pages))


@functools.cache
def answers(pages: int | None):
    return engine(pages).generate(PROMPTS, limits=LIMITS, sampling=DRAWN)


def assert_same_logprobs(one, other):
    """Bit for bit."""
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), field.name)


# One request needs 6 + 150 slots and 4 spare ones: 10 pages. Two at a time do not fit into 13.
@pytest.mark.parametrize("pages", [pytest.param(32, marks=pytest.mark.slow), 13])
def test_pages_change_no_answer(pages):
    assert any(len(result.parent) > 2 for result in answers(None))
    for paged, contiguous in zip(answers(pages), answers(None)):
        for name in ("tokens", "written", "segment", "position", "parent"):
            np.testing.assert_array_equal(getattr(paged, name), getattr(contiguous, name), name)
        assert paged.reason == contiguous.reason
        assert_same_logprobs(paged.logprobs, contiguous.logprobs)


def test_log_probabilities_are_those_of_the_logits_before_and_behind_the_bar():
    """Of every sampled token, greedy with wishes for single tokens, against plain NumPy; whatever the schedule."""
    rng = np.random.default_rng(4)
    rules = [random_wishes(rng, Rules(150, max_paths=4, max_depth=3)) for _ in range(6)]
    prompts = [[20 + n, 21, 22] for n in range(6)]
    settings = {"limits": [limits_of(one) for one in rules], "sampling": [sampling_of(one) for one in rules]}
    results = engine(None).generate(prompts, **settings)
    for one, other in zip(results, engine(None).generate(prompts, **settings, mode="sequential")):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        assert_same_logprobs(one.logprobs, other.logprobs)
    barred = compared = 0
    for prompt, one, result in zip(prompts, rules, results):
        reference = Interpreter(WORDS, one, bias(), prompt).run()
        bias_V = np.array([one.logit_bias.get(token, 0) for token in range(VOCABULARY)], np.float32)
        chosen_from = {
            (address, index): (logits_V + bias_V, open_V)
            for (address, index, logits_V), (*_, open_V) in zip(reference.logits, reference.choices)
        }
        index_of, found = collections.Counter(), result.logprobs
        for at, (token, _, written, address) in enumerate(reference.transcript()):
            its = found.take(at)
            index_of[address] += 1
            if written:
                assert np.isnan([its.token, its.token_unbarred, *its.top, *its.top_unbarred]).all()
                assert (its.top_id == -1).all()
                continue
            unbarred_V, open_V = chosen_from[address, index_of[address] - 1]
            top = np.argsort(-unbarred_V, kind="stable")[:3]
            np.testing.assert_array_equal(its.top_id, top)
            np.testing.assert_allclose([its.token, *its.top], log_softmax(open_V)[[token, *top]], atol=2e-6)
            unbarred = [its.token_unbarred, *its.top_unbarred]
            np.testing.assert_allclose(unbarred, log_softmax(unbarred_V)[[token, *top]], atol=2e-6)
            barred, compared = barred + np.isneginf(its.top).any(), compared + 1
    assert 0 < barred < compared


def log_softmax(logits_V):
    weight_V = np.exp(logits_V.astype(np.float64) - logits_V.max())
    with np.errstate(divide="ignore"):
        return np.log(weight_V / weight_V.sum())


def test_all_pages_are_free_in_the_end():
    answers(13)
    assert engine(13)._cache.pool.free == 13


def run(running: Engine, cancel=None):
    """Results, and the tokens told of each branch; `cancel(parked requests)` names a request to cancel."""
    told, logprobs, results = {}, {}, {}
    numbers = [running.submit(prompt, limits=LIMITS, sampling=drawn) for prompt, drawn in zip(PROMPTS, DRAWN)]

    def hear(fresh):
        for piece in fresh:
            told.setdefault((piece.request - numbers[0], piece.segment), []).extend(piece.tokens)
            logprobs.setdefault((piece.request - numbers[0], piece.segment), []).append(piece.logprobs.token)

    while running.busy:
        results |= {result.request - numbers[0]: result for result in running.step(hear)}
        preempted = [one.number - numbers[0] for one in running._scheduler.queue if one.preempted is not None]
        if cancel is not None and preempted:
            running.cancel(cancel(preempted) + numbers[0])
    assert sorted(results) == list(range(len(PROMPTS)))
    for (number, segment), pieces in logprobs.items():
        stream = results[number].stream
        np.testing.assert_array_equal(np.concatenate(pieces), stream.logprobs.token[stream.origin == segment])
    return results, told


def assert_told(result, told, number):
    """Every token has been told once, to its branch."""
    stream = result.stream
    for segment in np.unique(stream.origin).tolist():
        assert told[number, segment] == stream.token[stream.origin == segment].tolist()


def test_a_request_that_finds_no_page_comes_back_as_it_was():
    running = engine(13)
    results, told = run(running)
    assert any(isinstance(key, PreemptKey) for key in running._programs)
    for number, wanted in enumerate(answers(None)):
        np.testing.assert_array_equal(results[number].tokens, wanted.tokens)
        assert results[number].decode_steps == wanted.decode_steps
        assert_told(results[number], told, number)


def test_a_parked_request_can_be_cancelled():
    cancelled = set()

    def cancel(preempted):
        cancelled.add(preempted[0])
        return preempted[0]

    results, told = run(engine(13), cancel)
    assert cancelled
    for number, wanted in enumerate(answers(None)):
        assert_told(results[number], told, number)
        if number in cancelled:
            assert results[number].reason == "cancelled"
            length = min(len(results[number].stream.token), len(wanted.stream.token)) // 3
            np.testing.assert_array_equal(results[number].stream.token[:length], wanted.stream.token[:length])
        else:
            np.testing.assert_array_equal(results[number].tokens, wanted.tokens)


def test_the_padding_of_a_prompt_needs_no_pages():
    """A row is longer than what is left of a prompt."""
    limits = Limits(max_new_tokens=20)
    prompts = [[20 + n] * 130 for n in range(3)]
    paged, contiguous = (engine(pages).generate(prompts, limits=limits) for pages in (13, None))
    for one, other in zip(paged, contiguous):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_a_long_prompt_is_prefilled_in_pieces_beside_requests_that_run():
    limits = [Limits(max_new_tokens=length) for length in (45, 10, 20, 20)]
    prompts = [[20, 21], [21, 22], [22 + n % 9 for n in range(150)], [20, 22]]
    running = engine(13)
    numbers, results, pieces = [running.submit(prompts[0], limits=limits[0])], {}, []
    running.step()
    numbers += [running.submit(prompt, limits=limit) for prompt, limit in zip(prompts[1:], limits[1:])]
    while running.busy:
        results |= {result.request: result for result in running.step()}
        others = [one for one in running._scheduler.on_device if one is not None and one.number == numbers[2]]
        pieces += [one.prefilled for one in others if not one.started]
    assert pieces == sorted(set(pieces))
    assert len(pieces) > 1
    wanted = engine(None).generate(prompts, limits=limits)
    assert [results[number].tokens.tolist() for number in numbers] == [result.tokens.tolist() for result in wanted]


def test_no_pages_are_refused():
    with pytest.raises(UserError, match="pages = 0 must be a whole number, 1 or more"):
        EngineConfig(pages=0)


def test_a_request_that_can_never_fit_is_refused():
    with pytest.raises(
        UserError, match=r"needs more than the 204 slots of a stream; .* EngineConfig\.max_slots or pages"
    ):
        engine(13).submit([20] * 60, limits=LIMITS)
