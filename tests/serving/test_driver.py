"""The driver's thread: every request ends once and gives its pages back, cancelled or not, whatever the engine does."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
from driven import Ears, Gate, Watch, fresh_engine, submit
from faulty_engine import PROMPTS, answers, bias, shared_engine
from hash_model import PagedHashModel
from random_requests import TABLES

from mvjax.engine import Engine, EngineConfig, Limits, QueueFull, SamplingParams
from mvjax.engine.program_cache import PrefillKey
from mvjax.errors import UserError
from mvjax.serving import driver as driving
from mvjax.serving.driver import Broken, Draining, Driver

pytestmark = pytest.mark.xdist_group("engine/hash_model")
PAGES, FEW = 13, Limits(max_new_tokens=60)
LONG = [20 + n % 20 for n in range(100)]


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def driver(watch):
    """Of an engine in few pages."""
    answers()
    driver = Driver(fresh_engine, observers=[watch])
    driver.start()
    yield driver
    driver.stop()
    watch.check()
    fresh_engine()


@pytest.fixture
def gate(driver, monkeypatch):
    gate = Gate(shared_engine(True), monkeypatch)
    gate.shut = True
    yield gate
    gate.open()


def until_idle(driver):
    """The driver forgets a request a moment after its listener has heard of its end."""
    while driver._live:
        time.sleep(0.001)


def usable(driver):
    """Nothing is left over, and the next requests get their answers."""
    until_idle(driver)
    for number, ears in enumerate([submit(driver, number) for number in range(2)]):
        assert ears.end().tokens.tolist() == answers()[number]
    until_idle(driver)
    assert shared_engine(True)._cache.pool.free == PAGES
    assert driver.stats().running == driver.stats().waiting == driver.stats().pages_used == 0
    assert not driver._by_number
    assert not driver._inbox
    assert driver.healthy


def test_answers_are_those_of_the_engine_and_every_token_is_told(driver):
    for number, ears in enumerate([submit(driver, number) for number in range(len(PROMPTS))]):
        result = ears.end()
        assert result.tokens.tolist() == answers()[number]
        stream = result.stream
        assert ears.told == {n: stream.token[stream.origin == n].tolist() for n in np.unique(stream.origin).tolist()}
    usable(driver)


def test_an_idle_driver_sleeps(driver, watch):
    """Its thread takes no step and hardly any time."""
    submit(driver, 0).end()
    time.sleep(0.05)
    steps, before = len(watch.stays), time.process_time()
    time.sleep(0.3)
    assert len(watch.stays) == steps
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("number", [0, 2])
def test_a_client_that_goes_away_gives_its_pages_back_within_a_stay(driver, watch, gate, number):
    ears = submit(driver, number)
    other = submit(driver, 1)
    gate.let(3)
    assert ears.told
    driver.cancel(ears.ticket, drop=True)
    gate.let()
    assert ears.end().reason == "cancelled"
    assert shared_engine(True)._scheduler.on_device.count(None) == 1
    driver.cancel(other.ticket, drop=True)
    gate.permits.release()
    other.end()
    until_idle(driver)
    assert watch.stays[-1].pages_used == 0
    gate.open()
    usable(driver)


def test_a_cancelled_request_is_wound_up_and_told_to_its_end(driver):
    ears = submit(driver, 0, Ears(on_tokens=lambda ears: driver.cancel(ears.ticket)))
    result = ears.end()
    assert result.reason == result.cuts[0] == "cancelled"
    assert 0 < result.new_tokens < len(answers()[0])
    assert sum(map(len, ears.told.values())) == result.new_tokens
    usable(driver)


def test_for_observers_a_stop_string_is_an_end_like_others(driver, monkeypatch):
    """The listener cancelled it itself, and knows."""
    heard = []
    monkeypatch.setattr(driver.observers[0], "ended", lambda ticket, result, error: heard.append(result))
    stopped = submit(driver, 0, Ears(on_tokens=lambda ears: driver.cancel(ears.ticket, stopped=True)))
    assert stopped.end().reason == stopped.end().cuts[0] == "cancelled"
    cancelled = submit(driver, 0, Ears(on_tokens=lambda ears: driver.cancel(ears.ticket)))
    cancelled.end()
    until_idle(driver)
    assert [(result.reason, result.cuts.get(0)) for result in heard] == [("stop", None), ("cancelled", "cancelled")]
    monkeypatch.undo()
    driver.observers[0].events.clear()


def test_cancels_during_prefill_twice_and_after_the_end_do_no_harm(driver, gate, watch):
    ears = [submit(driver, 0, prompt=LONG, limits=FEW), submit(driver, 1)]
    gate.let()  # The first 64 tokens of the long prompt.
    assert shared_engine(True)._scheduler.on_device[0].prefilled == 64
    driver.cancel(ears[0].ticket)
    driver.cancel(ears[0].ticket, drop=True)
    gate.let()
    assert ears[0].end().reason == "cancelled"
    assert not ears[0].told
    gate.open()
    assert ears[1].end().tokens.tolist() == answers()[1]
    for each in ears:
        driver.cancel(each.ticket)
    driver.cancel(10**9)
    usable(driver)


@pytest.mark.parametrize("drop", [False, True])
def test_a_thousand_requests_that_are_reset_at_once_leave_nothing_running(driver, watch, drop):
    ears = []
    for number in range(1000):
        ears.append(submit(driver, number % 5))
        driver.cancel(ears[-1].ticket, drop=drop)
    assert {each.end().reason for each in ears} == {"cancelled"}
    usable(driver)


def test_a_failure_ends_every_request_once_and_the_next_ones_are_answered(driver, watch, monkeypatch):
    """Those that run, those that wait in the engine, and those that it has not been given."""
    engine, step, calls = shared_engine(True), Engine.step, []

    def fails(on_tokens=None):
        calls.append(1)
        if len(calls) != 4:
            return step(engine, on_tokens)
        late.append(submit(driver, 4))
        raise RuntimeError("the device is gone")

    late = []
    monkeypatch.setattr(engine, "step", fails)
    ears = [submit(driver, number) for number in range(4)]
    for each in ears:
        assert str(each.end()) == "the device is gone"
    assert str(late[0].end()) == "the device is gone"
    assert any(each.told for each in ears)
    usable(driver)


def test_a_failed_engine_is_let_go_before_the_next_one_is_built(monkeypatch):
    """Also while somebody keeps the error: its arrays take the memory that the next one needs."""
    built = []

    def build():
        assert all(one() is None for one in built)
        engine = Engine(PagedHashModel(bias(), 16), bias(), TABLES, shared_engine(True).config)
        built.append(weakref.ref(engine))
        return engine

    gc.collect()
    driver = Driver(build)
    driver.start()

    def fails(engine, on_tokens=None):
        held = engine  # noqa: F841
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", fails)
        ears = submit(driver, 0)
        assert isinstance(ears.end(), RuntimeError)
    assert submit(driver, 0).end().tokens.tolist() == answers()[0]
    assert len(built) == 2
    driver.stop()


def test_an_engine_that_cannot_be_built_again_is_not_healthy(driver, monkeypatch):
    """Requests are refused until it is back."""
    monkeypatch.setattr(driving, "FIRST_PAUSE", 0.01)
    engine, tried, may_be_built = shared_engine(True), threading.Semaphore(0), threading.Event()

    def build():
        tried.release()
        if not may_be_built.is_set():
            raise MemoryError("no memory for its pages")
        return fresh_engine()

    def fails(on_tokens=None):
        raise RuntimeError("the device is gone")

    driver._build = build
    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", fails)
        assert isinstance(submit(driver, 0).end(), RuntimeError)
    for _ in range(3):
        assert tried.acquire(timeout=60)
    assert not driver.healthy
    with pytest.raises(Broken, match="failed and is not back"):
        submit(driver, 0)
    may_be_built.set()
    while not driver.healthy:
        time.sleep(0.001)
    while driver._broken:
        time.sleep(0.001)
    usable(driver)


def test_a_step_that_does_not_return_is_not_healthy(driver, gate):
    driver._overdue = 0.02
    ears = submit(driver, 0)
    time.sleep(0.1)
    assert not driver.healthy
    driver._overdue = 60
    gate.open()
    ears.end()
    usable(driver)


def test_a_listener_that_does_not_return_is_not_healthy(driver):
    driver._overdue, hold = 0.02, threading.Event()
    ears = submit(driver, 0, Ears(on_tokens=lambda ears: hold.wait(60)))
    assert ears.heard.wait(60)
    time.sleep(0.1)
    assert not driver.healthy
    driver._overdue = 60
    hold.set()
    ears.end()
    usable(driver)


def test_a_dead_thread_is_not_healthy_and_leaves_nobody_waiting(driver, monkeypatch):
    def exits(on_tokens=None):
        raise SystemExit

    monkeypatch.setattr(shared_engine(True), "step", exits)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    ears = submit(driver, 0)
    assert isinstance(ears.end(), Draining)
    driver._thread.join()
    assert not driver.healthy
    with pytest.raises(Broken):
        submit(driver, 0)


def test_a_listener_or_observer_that_fails_harms_nobody(driver, watch, caplog):
    def fails(*_):
        raise RuntimeError("event loop is closed")

    driver.observers.insert(0, type("Bad", (), dict.fromkeys(("submitted", "tokens", "ended", "stay"), fails))())
    bad = submit(driver, 0, Ears(on_tokens=fails))
    good = submit(driver, 1)
    assert good.end().tokens.tolist() == answers()[1]
    until_idle(driver)
    assert not bad.ends
    assert "listener of request" in caplog.text
    assert caplog.text.count("an observer failed") == 1
    usable(driver)


def test_bad_requests_are_refused_before_the_engine_is_touched(driver, watch):
    with pytest.raises(UserError, match="1000 it needs more than the 204 slots"):
        submit(driver, 0, limits=Limits(max_new_tokens=1000))
    with pytest.raises(UserError, match="temperature"):
        submit(driver, 0, sampling=SamplingParams(temperature=float("nan")))
    with pytest.raises(UserError, match="vocabulary"):
        submit(driver, 0, prompt=[10**6])
    assert not watch.events


def test_deadlines_count_from_the_call(driver, gate):
    late, soon = submit(driver, 0, deadline=3600.0), submit(driver, 1, deadline=0.0)
    gate.open()
    assert soon.end().reason == "deadline"
    assert late.end().tokens.tolist() == answers()[0]


def test_the_queue_is_bounded():
    """In the engine and before it together; it takes more as soon as one has ended."""
    config = EngineConfig(**{**shared_engine(True).config.__dict__, "max_queue": 2})
    driver = Driver(lambda: Engine(PagedHashModel(bias(), 16), bias(), TABLES, config))
    driver.start()
    hold = threading.Event()
    ears = [submit(driver, 0, Ears(on_tokens=lambda ears: hold.wait(60)))]
    assert ears[0].heard.wait(60)
    ears += [submit(driver, number) for number in (1, 2, 3)]
    with pytest.raises(QueueFull, match="2 requests run and 2 wait"):
        submit(driver, 4)
    hold.set()
    assert [each.end().tokens.tolist() for each in ears] == answers()[:4]
    assert submit(driver, 4).end().tokens.tolist() == answers()[4]
    driver.stop()
    with pytest.raises(Draining):
        submit(driver, 0)


def test_draining_lets_answers_come_to_their_ends(driver):
    ears, drained = submit(driver, 0, Ears(on_tokens=lambda ears: time.sleep(0.001))), []
    thread = threading.Thread(target=lambda: drained.append(driver.drain(60)))
    assert ears.heard.wait(60)
    thread.start()
    while not driver._draining:
        time.sleep(0.001)
    with pytest.raises(Draining, match="shuts down"):
        submit(driver, 1)
    thread.join()
    assert drained == [True]
    assert ears.end().tokens.tolist() == answers()[0]


def test_draining_has_an_end(driver, gate):
    """What has not ended by then is wound up."""
    ears = [submit(driver, number) for number in range(3)]
    gate.let(3)
    threading.Timer(0.2, gate.open).start()
    assert not driver.drain(0.05)
    assert [each.end().reason for each in ears] == ["cancelled"] * 3
    assert ears[0].end().new_tokens > 0


def test_stopping_leaves_nobody_waiting(driver, gate):
    ears = [submit(driver, number) for number in range(3)]
    gate.let(2)
    threading.Timer(0.05, gate.open).start()
    driver.stop()
    assert all(isinstance(each.end(), Draining) for each in ears)
    assert not driver.healthy


def test_what_the_building_raises_comes_out_of_start():
    def build():
        raise UserError("no such model")

    driver = Driver(build)
    assert not driver.healthy
    with pytest.raises(UserError, match="no such model"):
        driver.start()
    assert not driver.healthy


def test_a_program_compiled_under_a_request_is_counted(watch, monkeypatch):
    """Here that of prompts, which is forgotten after the warm-up."""
    warm_up = Engine.warm_up

    def forgetful(engine):
        made = warm_up(engine)
        del engine._programs[next(key for key in engine._programs if isinstance(key, PrefillKey))]
        engine._warm -= 1
        return made._replace(programs=engine._warm)

    monkeypatch.setattr(Engine, "warm_up", forgetful)
    config = shared_engine(True).config
    driver = Driver(lambda: Engine(PagedHashModel(bias(), 16), bias(), TABLES, config), observers=[watch])
    warm = driver.start()
    assert warm.programs == driver.stats().programs
    assert driver.stats().cold_compilations == 0
    submit(driver, 0, prompt=LONG, limits=FEW).end()
    assert driver.stats().cold_compilations == watch.stays[-1].cold_compilations == 1
    driver.stop()
