"""Requests that leave the device for want of pages."""

import itertools

import pytest
from faulty_engine import SIZES, Faults, check, run, shared_engine, submit_all

from mvjax.engine.program_cache import PreemptKey

pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes


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
