"""Driving productions: each call is paid for once, each record ends once, and a run can stop anywhere."""

import asyncio
import os
import random
import signal
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_productions import Client, call, problem, produce, ready, record

from mvjax.curator.endpoint.spending import Prices, Spending
from mvjax.curator.production import Outcome, Reply
from mvjax.curator.progress import PlainLines, duration, line
from mvjax.curator.run import FAILURES, FAULT, run
from mvjax.curator.store import Store
from mvjax.curator.store.counts import count
from mvjax.curator.totals import BUDGET, INTERRUPTED
from mvjax.errors import UserError


def memory(number):
    store = Store.open(":memory:")
    store.add(map(problem, range(number)))
    return store


class Lines:
    """Progress that remembers."""

    every = 60.0

    def __init__(self):
        self.said, self.shown, self.closed = [], [], False

    def show(self, totals):
        self.shown.append(line(totals))

    def say(self, line):
        self.said.append(line)

    def close(self):
        self.closed = True


class Purse:
    """Room for so many calls, at a price each."""

    def __init__(self, calls):
        self.calls = calls

    def allows(self, call):
        self.calls -= self.calls > 0
        return self.calls > 0

    def add(self, reply, call=None):
        pass

    def cost(self, reply):
        return 0.5


def test_every_record_ends_once():
    store, client = memory(20), Client({"p3 tree": Reply("reject"), "p4 tree": Reply("sequential")})
    totals = run(store, produce, client, concurrency=4, spending=Purse(1000))
    assert (totals.total, totals.done, totals.left, totals.finished) == (20, 20, 0, 20)
    assert (totals.parallel, totals.sequential, totals.rejected) == (18, 1, 1)
    assert totals.reasons == {"answer": 1}
    assert (totals.calls, totals.tokens, totals.cost, totals.stopped) == (80, 78 * 12, 40.0, "")
    assert store.spent() == (780, 156, 40.0)
    assert 2 < client.most <= 4
    assert client.closed
    assert set(client.asked.values()) == {1}
    assert [entry.id for entry, _ in store.outcomes()] == [f"p{k}" for k in range(20)]
    asked = ("tree", "paths path 1", "paths path 2", "judge")
    assert store.outcome("p2").stages["texts"] == [f"re: p2 {what}" for what in asked]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_a_run_that_stops_anywhere_goes_on_as_if_it_had_not(seed, concurrency):
    whole, store, client, rng = memory(8), memory(8), Client(), random.Random(seed)
    run(whole, produce, Client(), concurrency=1)
    for _ in range(100):
        totals = run(store, produce, client, concurrency=concurrency, spending=Purse(rng.randint(1, 8)))
        if not totals.left:
            break
        assert totals.stopped == BUDGET
    assert list(store.outcomes()) == list(whole.outcomes())
    assert set(client.asked.values()) == {1}
    assert len(client.asked) == 32


def test_stored_replies_of_a_half_answered_yield_are_used():
    store, client = memory(1), Client()
    store.commit(1, 0, call(problem(0), "tree"), Reply("sequential"))
    store.commit(1, 2, call(problem(0), "paths", "path 2"), Reply("stored"))
    totals = run(store, produce, client)
    assert sorted(client.asked) == ["p0 judge", "p0 paths path 1"]
    assert (totals.replayed, totals.calls) == (2, 2)
    assert store.outcome("p0").stages["texts"][2] == "stored"
    assert store.outcome("p0").state == "sequential"


def test_changed_prompts_drop_what_they_change():
    store, client, progress = memory(2), Client(), Lines()
    run(store, produce, client, spending=Purse(4), concurrency=1)
    totals = run(store, partial(produce, wording="please: "), client, progress=progress, concurrency=1)
    assert totals.parallel == 2
    assert progress.said == ["p0: what is asked has changed; 3 stored replies count no more"]
    assert len(store.calls("p0")) == 7
    assert store.outcome("p0").stages["texts"][0] == "re: please: p0 tree"
    assert progress.closed


def test_replies_beyond_the_end_count_no_more():
    store = memory(1)
    store.commit(1, 9, call(problem(0), "judge"), Reply("left over"))
    run(store, produce, Client())
    assert [entry.number for entry in store.calls("p0")] == [0, 1, 2, 3, None]


def test_producers_without_calls():
    store = memory(3)
    assert run(store, ready).parallel == 3
    store = memory(3)
    with pytest.raises(TypeError, match="'p0': its producer asks for calls"):
        run(store, produce)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_run_cleanly(kind):
    store, client, progress = memory(5), Client(hangs_on="p2 judge"), Lines()
    waiting = []

    async def interrupt():
        await client.hanging.wait()
        while len(store.pending()) > 1:
            await asyncio.sleep(0)
        os.kill(os.getpid(), kind)
        os.kill(os.getpid(), kind)

    def producer(problem):
        if problem.id == "p0":
            waiting.append(asyncio.create_task(interrupt()))
        return produce(problem)

    totals = run(store, producer, client, concurrency=2, progress=progress)
    assert totals.stopped == INTERRUPTED
    assert (totals.done, totals.left) == (4, 1)
    assert client.closed
    assert progress.closed
    assert store.outcome("p2") is None
    client.hangs_on = ""
    assert run(store, produce, client).left == 0
    assert client.asked.pop("p2 judge") == 2
    assert set(client.asked.values()) == {1}


def test_a_budget_that_is_reached_waits_for_what_is_in_flight():
    store, client = memory(5), Client()
    totals = run(store, produce, client, concurrency=3, spending=Purse(8))
    assert totals.stopped == BUDGET
    assert client.asked.total() == 7 == totals.calls
    assert store.spent()[2] == 3.5
    assert totals.left == 5 - totals.done > 0


def test_room_for_one_call_is_enough():
    """What calls in flight may cost at worst holds others back; it does not end the run."""
    store, client = memory(5), Client()
    room = call(problem(0), "tree").max_tokens + 45
    totals = run(store, produce, client, concurrency=4, spending=Spending(Prices(0, 1e6), room))
    assert (totals.stopped, totals.parallel, totals.cost) == ("", 5, 40.0)
    assert client.most == 1
    totals = run(memory(5), produce, Client(), concurrency=4, spending=Spending(Prices(0, 1e6), room - 10))
    assert totals.stopped == BUDGET
    assert 34 <= totals.cost <= 36


def test_what_the_store_has_spent_counts():
    class Counting(Purse):
        added = Reply("")

        def add(self, reply, call=None):
            self.added = Reply("", "stop", self.added.prompt_tokens + reply.prompt_tokens)

    store, purse = memory(2), Counting(100)
    run(store, produce, Client(), spending=Counting(4), concurrency=1)
    run(store, produce, Client(), spending=purse)
    assert purse.added.prompt_tokens == store.spent()[0] == 80


def test_errors_of_the_whole_run_end_it():
    store, client = memory(5), Client({"p2 tree": UserError("the key is wrong")})
    with pytest.raises(UserError, match="the key is wrong"):
        run(store, produce, client, concurrency=2)
    assert client.closed
    assert count(store).pending >= 3

    class Broken(Client):
        async def preflight(self):
            raise UserError("no such host")

    with pytest.raises(UserError, match="no such host"):
        run(store, produce, Broken())


def test_nothing_is_asked_where_all_is_done():
    class Broken(Client):
        async def preflight(self):
            raise UserError("no such host")

    assert run(memory(0), produce, Broken()).total == 0


def test_an_endpoint_that_is_down_costs_few_records():
    client = Client()

    async def down(call):
        return Reply("503 from the endpoint", "failed")

    client.complete = down
    store = memory(100)
    with pytest.raises(UserError, match=f"failed {FAILURES} calls in a row.*503"):
        run(store, produce, client, concurrency=4)
    rejected = count(store).reasons["endpoint"]
    assert FAILURES - 4 <= rejected <= FAILURES
    assert store.again("endpoint") == rejected
    assert run(store, produce, Client()).parallel == 100


def test_calls_that_fail_now_and_then_end_no_run():
    """Only failures in a row count: more than the limit of them, with a reply between, are no outage."""
    client, asked = Client(), 0
    complete = client.complete

    async def flaky(call):
        nonlocal asked
        asked += 1
        return Reply("503 from the endpoint", "failed") if asked % FAILURES else await complete(call)

    client.complete = flaky
    store = memory(3 * FAILURES)
    assert run(store, produce, client, concurrency=1).left == 0
    assert count(store).reasons["endpoint"] > FAILURES


def test_a_producer_that_breaks_costs_its_own_record():
    def breaks(problem):
        yield (call(problem, "tree"),)
        if problem.id == "p1":
            raise KeyError("no step S3")
        return Outcome(record(problem))

    store, client = memory(3), Client()
    assert run(store, breaks, client).reasons == {FAULT: 1}
    assert "KeyError" in store.outcome("p1").reason
    store.again(FAULT)
    assert run(store, produce, client).parallel == 3
    assert client.asked["p1 tree"] == 1


def test_replies_with_half_a_surrogate_pair():
    store = memory(1)
    run(store, produce, Client({"p0 tree": Reply("a \ud800 b")}))
    assert store.outcome("p0").stages["texts"][0] == "a ? b"


def test_progress_lines():
    store, progress = memory(4), Lines()
    totals = run(store, produce, Client({"p1 tree": Reply("reject")}), progress=progress, spending=Purse(99))
    assert progress.shown[0].startswith("0/4 records · 0 parallel, 0 sequential, 0 rejected")
    assert line(totals).startswith("4/4 records · 3 parallel, 0 sequential, 1 rejected · ")
    assert line(totals).endswith("180 tokens · 8.00 spent · rejects: answer 1")
    totals.total = 8
    assert "left" in line(totals)
    assert [duration(seconds) for seconds in (3.2, 600, 9000)] == ["3 s", "10 min", "2.5 h"]


def test_plain_lines_are_quiet_at_first(capsys):
    from rich.console import Console

    lines, totals = PlainLines(Console(width=40)), run(memory(1), ready)
    lines.show(totals)
    assert capsys.readouterr().out == ""
    lines.show(totals)
    lines.say("a note with [brackets]")
    assert capsys.readouterr().out == line(totals) + "\na note with [brackets]\n"
