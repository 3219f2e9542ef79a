"""Whatever fails, every request ends, with its own answer or with its error, and the others keep their tokens."""

import dataclasses
import functools
import itertools
import threading

import numpy as np
import pytest
from hash_model import HashModel, PagedHashModel
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from random_requests import TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, SamplingParams
from mvjax.engine.program_cache import PreemptKey, ProgramCache
from mvjax.engine.request import Request
from mvjax.engine.state import Settings
from mvjax.errors import UserError
from mvjax.language import tags

LIMITS = Limits(max_new_tokens=150, min_block_share=40, max_paths=4)
DRAWN = [SamplingParams(temperature=2.0, top_k=30, top_p=0.98, seed=seed) for seed in range(5)]
PROMPTS = [[20, 21, 22, 23, 24, 30 + n] for n in range(5)]
pytestmark = pytest.mark.xdist_group("engine/hash_model")  # with test_engine_pages.py, whose engines have these sizes
SIZES = {"requests": 2, "max_branches": 4, "row_counts": (8,), "stream_step": 256, "max_slots": 256, "sync_steps": 16}
SIZES["logprobs"] = 3  # as there


def bias():
    """Blocks are likely, the end of the text is not."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 3
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, tags.THINK_OPEN, *TABLES.eos_ids]] = -5
    return bias_V


@functools.cache
def shared_engine(paged: bool) -> Engine:
    """Room for two requests at a time; in pages, 13 of them, for one and a half."""
    if not paged:
        return Engine(HashModel(bias()), bias(), TABLES, EngineConfig(**SIZES))
    return Engine(PagedHashModel(bias(), 16), bias(), TABLES, EngineConfig(**SIZES, pages=13))


@pytest.fixture(params=[False, True], ids=["contiguous", "pages"])
def engine(request):
    engine = shared_engine(request.param)
    engine.reset()
    return engine


@functools.cache
def answers():
    """Of each prompt, undisturbed."""
    return [result.tokens.tolist() for result in shared_engine(False).generate(PROMPTS, limits=LIMITS, sampling=DRAWN)]


class Faults:
    """Makes the n-th call of a method, counted over all of its uses, raise."""

    def __init__(self, monkeypatch, owner, name, at, error, after=False, match=lambda *_: True):
        self.calls, self.raised, self.method = 0, 0, getattr(owner, name)

        def call(instance, *args, **kwargs):
            if not match(*args):
                return self.method(instance, *args, **kwargs)
            self.calls += 1
            if self.calls - 1 not in at:
                return self.method(instance, *args, **kwargs)
            self.raised += 1
            if after:
                self.method(instance, *args, **kwargs)
            raise error

        monkeypatch.setattr(owner, name, call)


def submit_all(engine):
    return [engine.submit(prompt, limits=LIMITS, sampling=drawn) for prompt, drawn in zip(PROMPTS, DRAWN)]


def run(engine, numbers, on_tokens=None, most=400):
    """Results by index; interruptions are survived."""
    results = {}
    for _ in range(most):
        if not engine.busy:
            break
        try:
            found = engine.step(on_tokens)
        except KeyboardInterrupt:
            continue
        for result in found:
            assert numbers.index(result.request) not in results
            results[numbers.index(result.request)] = result
    assert not engine.busy
    assert sorted(results) == list(range(len(numbers)))
    return results


def check(results, failed=None):
    """Own tokens or own error; `failed`: how many may have failed."""
    wrong = [number for number, result in results.items() if result.reason == "failed"]
    for number, result in results.items():
        if number in wrong:
            assert isinstance(result.error, Exception)
            assert result.new_tokens == 0
            assert result.parent.tolist() == [-1]
        else:
            assert result.error is None
            assert result.tokens.tolist() == answers()[number]
    if failed is not None:
        assert len(wrong) == failed, wrong
    return wrong


def usable(engine):
    """Nothing is left over: pages are free, and the next requests get their answers."""
    cache = engine._cache
    if cache.pool is not None:
        assert cache.pool.free == 13
    assert [result.tokens.tolist() for result in engine.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2])] == (
        answers()[:2]
    )


FAULTS = {
    "where": st.sampled_from(["prefill", "admit", "decode", "fetch", "reserve", "grow", "refresh_table"]),
    "at": st.sets(st.integers(0, 12), min_size=1, max_size=3),
    "after": st.booleans(),
    "error": st.sampled_from([MemoryError("no memory"), ValueError("odd"), KeyboardInterrupt()]),
    "streams": st.booleans(),
}


def check_faults(paged, where, at, after, error, streams):
    engine = shared_engine(paged)
    engine.reset()
    owner = type(engine._cache) if where in ("reserve", "grow", "refresh_table") else type(engine._runner)
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, owner, where, at, error, after)
        numbers, told = submit_all(engine), {}

        def hear(updates):
            for update in updates:
                told.setdefault((numbers.index(update.request), update.segment), []).extend(update.tokens)

        results = run(engine, numbers, hear if streams else None)
    wrong = check(results)
    assert len(wrong) <= faults.raised
    if isinstance(error, KeyboardInterrupt):
        assert not wrong
    for number, result in results.items():
        if streams and number not in wrong:  # Every token once, even where a request began anew.
            stream = result.stream
            for segment in np.unique(stream.origin).tolist():
                assert told[number, segment] == stream.token[stream.origin == segment].tolist()
    usable(engine)


@pytest.mark.parametrize("paged", [pytest.param(False, marks=pytest.mark.slow), True])
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(**FAULTS)
@example(where="decode", at={3}, after=True, error=MemoryError("no memory"), streams=True)
@example(where="admit", at={1}, after=True, error=KeyboardInterrupt(), streams=True)
def test_a_fault_anywhere_ends_no_other_request(paged, where, at, after, error, streams):
    check_faults(paged, where, at, after, error, streams)


@pytest.mark.slow
@pytest.mark.parametrize("paged", [False, True])
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(**FAULTS)
def test_many_faults_end_no_other_request(paged, where, at, after, error, streams):
    check_faults(paged, where, at, after, error, streams)


@pytest.mark.parametrize(
    ("engine", "where"),
    [
        *itertools.product([False, True], ["prefill", "admit"]),
        (True, "decode"),
        pytest.param(False, "decode", marks=pytest.mark.slow),
    ],
    indirect=["engine"],
)
def test_a_program_that_fails_takes_the_arrays_and_the_others_begin_anew(engine, monkeypatch, where):
    """The compiled program itself raises, after it has taken its donated arguments."""
    lost = []

    def compile_and_lose(cache, program):
        compiled = compile_program(cache, program)

        def call(*args):
            compiled(*args)
            lost.append(type(program.key).__name__)
            raise RuntimeError("RESOURCE_EXHAUSTED")

        others = sum(one is not None for one in engine._scheduler.on_device) > 1
        due = others and not lost
        return call if due and type(program.key).__name__.lower().startswith(where) else compiled

    compile_program = ProgramCache.compile
    numbers = submit_all(engine)
    monkeypatch.setattr(ProgramCache, "compile", compile_and_lose)
    monkeypatch.setattr(ProgramCache, "get", lambda cache, key: None)
    found = []
    while engine.busy:
        found += engine.step()
    assert lost
    results = {numbers.index(result.request): result for result in found}
    wrong = check(results)
    assert len(wrong) == (1 if where != "decode" else 0)
    monkeypatch.undo()
    usable(engine)


def test_settings_that_the_device_cannot_hold_are_refused(engine):
    with pytest.raises(
        UserError, match=r"min_block_share = 2147483648 must be a whole number, 0 or more, at most 2147483647"
    ):
        engine.submit(PROMPTS[0], limits=Limits(max_new_tokens=30, min_block_share=2**31))
    assert not engine.busy


def test_a_request_that_fails_while_it_is_admitted_ends_with_its_error(engine, monkeypatch):
    """Whatever no check foresaw: here settings that do not fit into 32 bits."""
    numbers = submit_all(engine)
    culprit = engine._requests[numbers[1]]
    culprit.limits = dataclasses.replace(LIMITS, min_block_share=2**31)
    results = run(engine, numbers)
    assert check(results, failed=1) == [1]
    assert isinstance(results[1].error, OverflowError)
    with pytest.raises(OverflowError):
        results[1].raise_if_failed()
    assert results[0].raise_if_failed() is results[0]
    usable(engine)


@pytest.mark.parametrize("engine", [True, pytest.param(False, marks=pytest.mark.slow)], indirect=True)
def test_a_request_that_makes_every_step_fail_is_found(engine, monkeypatch):
    """The step fails while request 2 runs, whoever runs beside it; it alone ends with the error."""
    numbers = submit_all(engine)

    def at_fault(*_):
        return any(one is not None and one.number == numbers[2] for one in engine._scheduler.on_device)

    Faults(monkeypatch, type(engine._runner), "decode", range(1000), MemoryError("no memory"), match=at_fault)
    results = run(engine, numbers)
    assert check(results, failed=1) == [2]
    assert not engine._scheduler.suspects
    monkeypatch.undo()
    usable(engine)


def test_requests_that_no_memory_is_left_for_all_end(engine, monkeypatch):
    Faults(monkeypatch, type(engine._cache), "allocate", range(1000), MemoryError("no memory"))
    numbers = submit_all(engine)
    results = run(engine, numbers)
    check(results, failed=len(PROMPTS))
    monkeypatch.undo()
    usable(engine)


@pytest.mark.slow
def test_a_request_too_large_for_memory_ends_and_the_small_ones_go_on(monkeypatch):
    engine = Engine(HashModel(bias()), bias(), TABLES, EngineConfig(**SIZES))
    slots_for = type(engine._cache).slots_for

    def little(cache, need):
        if need > 128:
            raise MemoryError("no memory")
        return slots_for(cache, need)

    monkeypatch.setattr(type(engine._cache), "slots_for", little)
    few = Limits(max_new_tokens=20)
    numbers = [engine.submit(prompt, limits=few) for prompt in ([20], [21] * 200, [22])]
    results = run(engine, numbers)
    assert [results[number].reason for number in range(3)] == ["tokens", "failed", "tokens"]


def test_a_failed_request_is_a_result_of_generate(engine, monkeypatch):
    Faults(monkeypatch, type(engine._runner), "prefill", {1}, ValueError("odd"))
    results = engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN)
    assert check(dict(enumerate(results)), failed=1) == [1]
    assert str(results[1].error) == "odd"
    usable(engine)


def test_a_callback_that_raises_loses_no_result(engine):
    numbers, results = submit_all(engine), {}
    raised = 0

    def hear(updates):
        raise ValueError("the listener is gone")

    while engine.busy:
        try:
            found = engine.step(hear)
        except ValueError:
            raised += 1
            found = engine.step() if raised % 2 else []
        results |= {numbers.index(result.request): result for result in found}
    assert raised > 5
    assert sorted(results) == list(range(len(PROMPTS)))
    check(results, failed=0)


def test_an_interrupted_fetch_repeats_no_token_and_loses_none(engine, monkeypatch):
    faults = Faults(monkeypatch, Request, "token_updates", {3, 8}, KeyboardInterrupt())
    numbers, told = submit_all(engine), {}

    def hear(updates):
        for update in updates:
            told.setdefault((numbers.index(update.request), update.segment), []).extend(update.tokens)

    results = run(engine, numbers, hear)
    assert faults.raised == 2
    check(results, failed=0)
    for number, result in results.items():
        stream = result.stream
        for segment in np.unique(stream.origin).tolist():
            assert told[number, segment] == stream.token[stream.origin == segment].tolist()


def test_cancel_is_not_missed_between_the_queue_and_the_device(engine, monkeypatch):
    """It comes while the request is neither in the queue's care nor on the device: right after its settings were
    made, as from another thread."""
    numbers = submit_all(engine)
    make = Request.settings

    def cancelled_meanwhile(request, *args, **kwargs):
        made = make(request, *args, **kwargs)
        if request.number == numbers[1]:
            thread = threading.Thread(target=engine.cancel, args=(numbers[1],))
            thread.start()
            thread.join()
        return made

    monkeypatch.setattr(Request, "settings", cancelled_meanwhile)
    results = run(engine, numbers)
    assert results.pop(1).reason == "cancelled"
    check(results, failed=0)


def test_a_request_cancelled_in_the_queue_ends_without_being_admitted(engine):
    numbers = submit_all(engine)
    engine.step()
    engine.cancel(numbers[4])
    waiting = engine._requests[numbers[4]]
    results = run(engine, numbers)
    ended = results.pop(4)
    assert (ended.reason, ended.new_tokens, ended.cuts) == ("cancelled", 0, {0: "cancelled"})
    assert waiting.admitted == 0
    check(results, failed=0)


def test_cancelling_what_is_unknown_or_has_ended_does_nothing(engine):
    numbers = submit_all(engine)
    check(run(engine, numbers), failed=0)
    engine.cancel(numbers[0])
    engine.cancel(10**6)
    assert not engine.busy


def test_a_preempted_request_is_the_next_to_come_back(monkeypatch):
    """It goes to the head of the queue, before those that have never run."""
    engine = shared_engine(True)
    engine.reset()
    numbers, order = submit_all(engine), []
    cache, scheduler = type(engine._cache), type(engine._scheduler)
    preempt, resume, start, behind = cache.preempt, cache.resume, scheduler._start, []
    could_hold, asked = cache.could_hold, []

    def could(cache, slots):
        asked.append((slots, could_hold(cache, slots)))
        return asked[-1][1]

    def preempted(cache, index):
        order.append(("preempt", engine._scheduler.on_device[index].number))
        behind.extend(one for one in engine._scheduler.queue if not one.admitted)
        return preempt(cache, index)

    def resumed(cache, index, what):
        request, pool = engine._scheduler.on_device[index], cache.pool
        order.append(("resume", request.number))
        # It finds pages to stay to its end, and was not let in before it would.
        assert asked[-1] == (request.most_slots(SIZES["max_branches"]), True)
        assert pool.room(index) + pool.free * pool.page_size >= request.most_slots(SIZES["max_branches"])
        return resume(cache, index, what)

    def started(scheduler, index, request):
        order.append(("start", request.number))
        return start(scheduler, index, request)

    monkeypatch.setattr(cache, "could_hold", could)
    monkeypatch.setattr(cache, "preempt", preempted)
    monkeypatch.setattr(cache, "resume", resumed)
    monkeypatch.setattr(scheduler, "_start", started)
    results = run(engine, numbers)
    check(results, failed=0)
    away = [number for what, number in order if what == "preempt"]
    assert away
    assert behind, "nobody waited behind a preempted request"
    for event, following in itertools.pairwise(order):
        if event[0] == "preempt":
            assert following == ("resume", event[1])
    # The youngest of those that ran.
    assert all(number > numbers[0] for number in away)
    assert any(isinstance(key, PreemptKey) for key in engine._programs)


def test_after_a_fault_preempted_requests_begin_anew_too(monkeypatch):
    """The arrays may be made anew in a size that has no room for what they hold."""
    engine = shared_engine(True)
    engine.reset()
    numbers, early = submit_all(engine), {}
    while not any(one.preempted for one in engine._scheduler.queue):
        early |= {numbers.index(result.request): result for result in engine.step()}
    with monkeypatch.context() as patch:
        Faults(patch, type(engine._runner), "decode", {0}, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert engine._scheduler.queue
    assert not any(one.preempted for one in engine._scheduler.queue)
    while engine.busy:
        early |= {numbers.index(result.request): result for result in engine.step()}
    check(early, failed=0)
    assert sorted(early) == list(range(len(numbers)))


def test_after_an_interruption_requests_wait_in_their_old_order(engine, monkeypatch):
    numbers = submit_all(engine)
    assert engine.step() == []
    Faults(monkeypatch, type(engine._runner), "decode", {0}, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert [one.number for one in engine._scheduler.queue] == numbers
    engine.reset()


def test_a_request_that_fails_once_it_is_admitted_leaves_no_branch_behind(engine, monkeypatch):
    engine.submit(PROMPTS[0], limits=LIMITS)
    Faults(monkeypatch, type(engine._runner), "admit", {0}, ValueError("odd"), after=True)
    (result,) = engine.step()
    assert result.reason == "failed"
    assert not np.asarray(engine._cache.state.request.alive).any()


def test_settings_are_read_once(engine):
    """`cancelled` as the device gets it is what the scheduler believes it knows."""
    request = Request(0, engine._prompt([1], "parallel"), LIMITS, DRAWN[0], "parallel", cancelled=True)
    made = request.settings(4, cancelled=False)
    assert isinstance(made, Settings)
    assert made.wind_up == 0
    assert request.settings(4, cancelled=True).wind_up > 0
