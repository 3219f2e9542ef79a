"""Whatever fails, every request ends, with its own answer or with its error, and the others keep their tokens."""

import dataclasses
import itertools

import numpy as np
import pytest
from faulty_engine import (
    DRAWN,
    LIMITS,
    PROMPTS,
    Faults,
    check,
    run,
    shared_engine,
    submit_all,
    usable,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mvjax.engine import Limits
from mvjax.engine.program_cache import ProgramCache
from mvjax.engine.request import Request
from mvjax.engine.state import Settings
from mvjax.errors import UserError

pytestmark = pytest.mark.xdist_group("engine/hash_model")  # the engines of these files have the same sizes


@pytest.fixture(params=[False, True], ids=["contiguous", "pages"])
def engine(request):
    engine = shared_engine(request.param)
    engine.reset()
    return engine


FAULTS = {
    "where": st.sampled_from(["prefill", "admit", "decode", "take", "result", "reserve", "refresh_table"]),
    "at": st.sets(st.integers(0, 12), min_size=1, max_size=3),
    "after": st.booleans(),
    "error": st.sampled_from([MemoryError("no memory"), ValueError("odd"), KeyboardInterrupt()]),
    "streams": st.booleans(),
}


def check_faults(paged, where, at, after, error, streams):
    engine = shared_engine(paged)
    engine.reset()
    owners = [Request, type(engine._cache), type(engine._runner)]
    owner = next(owner for owner in owners if hasattr(owner, where))
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, owner, where, at, error, after)
        numbers, told = submit_all(engine), {}

        def hear(updates):
            for update in updates:
                told.setdefault((numbers.index(update.request), update.segment), []).append(update)

        results = run(engine, numbers, hear if streams else None)
    wrong = check(results)
    assert len(wrong) <= faults.raised
    if isinstance(error, KeyboardInterrupt):
        assert not wrong
    for number, result in results.items():
        if streams and number not in wrong:  # Every token once, even where a request began anew.
            stream = result.stream
            for segment in np.unique(stream.origin).tolist():
                mine_T, pieces = stream.origin == segment, told[number, segment]
                assert [token for piece in pieces for token in piece.tokens] == stream.token[mine_T].tolist()
                top_TK = np.concatenate([piece.logprobs.top for piece in pieces])
                np.testing.assert_array_equal(top_TK, stream.logprobs.top[mine_T])
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
    assert len(wrong) == (where == "admit")  # Of a call that several share nobody knows whose fault it is.
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


def test_a_failed_request_is_a_result_of_generate(engine, monkeypatch):
    """Its prompt cannot be prefilled, also where it shares the call with others."""

    def of_request_2(rows, size):
        return any(row.request.number == 2 for row in rows)

    Faults(monkeypatch, type(engine._runner), "prefill", range(1000), ValueError("odd"), match=of_request_2)
    results = engine.generate(PROMPTS, limits=LIMITS, sampling=DRAWN)
    assert check(dict(enumerate(results)), failed=1) == [2]
    assert str(results[2].error) == "odd"
    monkeypatch.undo()
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


def test_an_interrupted_reading_repeats_no_token_and_loses_none(engine, monkeypatch):
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
