"""Requests that are cancelled, wherever they are."""

import threading

import pytest
from faulty_engine import DRAWN, LIMITS, PROMPTS, SIZES, Faults, answers, bias, check, run, shared_engine, submit_all
from hash_model import HashModel
from random_requests import TABLES

from mvjax.engine import Engine, EngineConfig, Limits
from mvjax.engine.engine import QueueFull
from mvjax.engine.request import Request

FEW = Limits(max_new_tokens=20)
pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes


@pytest.fixture(params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["contiguous", "pages"])
def engine(request):
    engine = shared_engine(request.param)
    engine.reset()
    return engine


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
    monkeypatch.undo()
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


def test_a_cancelled_request_is_never_prefilled_and_may_be_cancelled_again(engine, monkeypatch):
    """In the queue, while its prompt is prefilled, while it runs, when it has ended."""
    calls = Faults(monkeypatch, type(engine._runner), "prefill", set(), ValueError())
    number = engine.submit([20] * 150, limits=FEW)
    engine.cancel(number)
    engine.cancel(number)
    (result,) = engine.step()
    assert (result.reason, result.new_tokens, calls.calls) == ("cancelled", 0, 0)
    number = engine.submit([20] * 150, limits=FEW)
    assert engine.step() == []
    assert 0 < engine._requests[number].prefilled < 149
    engine.cancel(number)
    (result,) = engine.step()
    assert (result.reason, result.new_tokens, calls.calls) == ("cancelled", 0, 1)
    number = engine.submit(PROMPTS[0], limits=LIMITS, sampling=DRAWN[0])
    engine.step()
    for _ in range(3):
        engine.cancel(number)
    results = []
    while engine.busy:
        results += engine.step()
        engine.cancel(number)
    assert [result.reason for result in results] == ["cancelled"]
    assert not engine.busy


def test_a_deadline_ends_a_request_wherever_it_is(engine):
    numbers = submit_all(engine)
    engine.step()
    late = engine.submit(PROMPTS[0], limits=LIMITS, deadline=0.0)
    running = engine._requests[numbers[0]]
    running.deadline = 0.0  # Long ago.
    ended = {}
    while engine.busy:
        ended |= {result.request: result for result in engine.step()}
    assert (ended.pop(late).reason, late in ended) == ("deadline", False)
    first = ended.pop(numbers[0])
    assert first.reason == "deadline"
    assert set(first.cuts.values()) <= {"deadline", "tokens"}
    assert first.new_tokens > 0
    check({numbers.index(number): result for number, result in ended.items()}, failed=0)


def test_a_queue_that_is_full_takes_no_more():
    limited = Engine(HashModel(bias()), bias(), TABLES, EngineConfig(**SIZES, max_queue=2))
    for prompt in PROMPTS[:2]:
        limited.submit(prompt, limits=FEW)
    with pytest.raises(QueueFull, match=r"^2 requests wait, as many as the queue takes"):
        limited.submit(PROMPTS[2], limits=FEW)
    assert len(limited._requests) == 2


@pytest.mark.parametrize("at", [1, 5, 12])
def test_a_dropped_request_is_gone_with_the_next_step(engine, at):
    """Whatever it was at: in its prompt, in branches, preempted. The others answer as they would have."""
    numbers = submit_all(engine)
    for _ in range(at):
        assert not engine.step(lambda updates: None)
    dropped = next(request.number for request in engine._scheduler.on_device if request)
    engine.cancel(dropped, drop=True)
    engine.cancel(dropped)
    engine.cancel(numbers[3], drop=True)
    results = {result.request: result for result in engine.step(lambda updates: None)}
    for number in (dropped, numbers[3]):
        assert (results[number].reason, results[number].new_tokens) == ("cancelled", 0)
    assert not {dropped, numbers[3]} & {request.number for request in engine._scheduler.on_device if request}
    rest = [number for number in numbers if number not in (dropped, numbers[3])]
    ended = run(engine, rest)
    assert engine._cache.pool is None or engine._cache.pool.free == 13
    for place, result in ended.items():
        assert result.tokens.tolist() == answers()[numbers.index(rest[place])]


def test_stats_count_what_has_been_done(engine):
    before = engine.stats()
    numbers = submit_all(engine)
    assert (engine.stats().waiting, engine.stats().running) == (5, 0)
    engine.step()
    during = engine.stats()
    assert during.running == 2
    assert during.waiting == 3
    assert during.rows >= 2
    results = run(engine, numbers)
    after = engine.stats()
    assert after.generation_tokens - before.generation_tokens == sum(each.new_tokens for each in results.values())
    assert after.prompt_tokens - before.prompt_tokens == sum(map(len, PROMPTS))
    assert after.steps > before.steps
    assert (after.running, after.waiting, after.rows, after.pages_used) == (0, 0, 0, 0)
    if engine._cache.pool is None:
        assert (during.pages, during.pages_used, after.preemptions) == (0, 0, 0)
        return
    assert during.pages == 13
    assert 0 < during.pages_used <= 13
    assert after.preemptions > before.preemptions
    assert after.prefix_queries - before.prefix_queries == sum(len(prompt) - 1 for prompt in PROMPTS)
    assert after.prefix_hits - before.prefix_hits == sum(result.found for result in results.values())
