"""Requests that are cancelled, wherever they are."""

import threading

import pytest
from faulty_engine import check, run, shared_engine, submit_all

from mvjax.engine.request import Request

pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes


@pytest.fixture(params=[False, True], ids=["contiguous", "pages"])
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
