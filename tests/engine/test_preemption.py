"""Requests that leave the device for want of pages."""

import pytest
from faulty_engine import SIZES, Faults, check, run, shared_engine, submit_all

from mvjax.engine.program_cache import PreemptKey

pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes


def test_a_preempted_request_comes_back_when_it_finds_pages_for_some_steps(monkeypatch):
    """Not only when there are pages for all that it may ever need; few that have never run begin before it does."""
    engine = shared_engine(True)
    engine.reset()
    numbers, order = submit_all(engine), []
    cache, scheduler = type(engine._cache), type(engine._scheduler)
    preempt, resume, start, less = cache.preempt, cache.resume, scheduler._start, []

    def preempted(cache, index):
        order.append(("preempt", engine._scheduler.on_device[index].number))
        return preempt(cache, index)

    def resumed(cache, index, what):
        request, pool = engine._scheduler.on_device[index], cache.pool
        order.append(("resume", request.number))
        slots = request.resuming_slots(SIZES["max_branches"])
        assert pool.room(index) + pool.free * pool.page_size >= slots > what.used
        less.append(slots < request.most_slots(SIZES["max_branches"]))
        return resume(cache, index, what)

    def started(scheduler, index, request):
        order.append(("start", request.number))
        return start(scheduler, index, request)

    monkeypatch.setattr(cache, "preempt", preempted)
    monkeypatch.setattr(cache, "resume", resumed)
    monkeypatch.setattr(scheduler, "_start", started)
    results = run(engine, numbers)
    check(results, failed=0)
    away = [number for what, number in order if what == "preempt"]
    assert away
    assert any(less)
    # The youngest of those that ran.
    assert all(number > numbers[0] for number in away)
    for at, (what, number) in enumerate(order):
        if what == "preempt":
            back = order.index(("resume", number), at)
            assert sum(what == "start" for what, _ in order[at:back]) <= SIZES["requests"]
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
