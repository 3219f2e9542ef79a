"""Limits hold in every window of a minute, first come first served."""

import asyncio
import selectors

from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.curator.endpoint.limits import WINDOW, Limiter


class Jumps(selectors.SelectSelector):
    """Waiting for nothing takes no time: the clock jumps to where something happens."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "everybody waits for somebody else"
        self.now += max(timeout, 0)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when all of it sleeps."""

    def __init__(self):
        self.jumps = Jumps()
        super().__init__(self.jumps)

    def time(self):
        return self.jumps.now


def run(work):
    """What `work(limiter factory)` comes to."""

    async def whole():
        clock = asyncio.get_running_loop().time
        return await work(lambda **limits: Limiter(**limits, clock=clock))

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(whole())


def let_through(requests, **limits):
    """Tickets of (arrival, estimate, seconds at work, taken), in the order in which they were let through."""
    passed = []

    async def one(limiter, number, arrival, size, seconds, taken):
        await asyncio.sleep(arrival)
        ticket = await limiter.wait(size)
        passed.append((number, ticket))
        await asyncio.sleep(seconds)
        limiter.correct(ticket, min(taken, size))

    async def everyone(make):
        limiter = make(**limits)
        await asyncio.gather(*(one(limiter, number, *request) for number, request in enumerate(requests)))

    run(everyone)
    return passed


REQUESTS = st.lists(
    st.tuples(st.integers(0, 100), st.integers(0, 120), st.integers(0, 90), st.integers(0, 120)), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(0, 5), st.sampled_from([0, 50, 100]))
def test_no_window_holds_more_than_the_limits_and_everybody_has_a_turn(requests, rate, tokens):
    passed = let_through(requests, requests_per_minute=rate, tokens_per_minute=tokens)
    assert sorted(number for number, _ in passed) == list(range(len(requests)))
    arrivals = [requests[number][0] for number, _ in passed]
    assert arrivals == sorted(arrivals)
    tickets = [ticket for _, ticket in passed]
    for first in tickets:
        window = [ticket for ticket in tickets if first.time <= ticket.time < first.time + WINDOW]
        assert not rate or len(window) <= rate
        # What a request took in truth counts; one that is larger than the limit goes alone.
        assert not tokens or sum(t.tokens for t in window) <= max(tokens, *(t.tokens for t in window))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=20), st.integers(1, 5))
def test_nobody_waits_longer_than_needed(sizes, rate):
    """All come at once and take what they said: each goes as soon as those before it leave room."""
    passed = let_through([(0, size, 1000, size) for size in sizes], requests_per_minute=rate, tokens_per_minute=100)
    times = []
    for size in sizes:
        time = times[-1] if times else 0.0
        while True:
            window = [(t, s) for t, s in zip(times, sizes) if t > time - WINDOW]
            if len(window) < rate and sum(s for _, s in window) + size <= 100:
                break
            time = min(t for t, _ in window) + WINDOW
        times.append(time)
    assert [ticket.time for _, ticket in passed] == times


def test_what_a_request_did_not_take_is_room_for_who_waits():
    passed = let_through([(0, 60, 7, 5), (0, 60, 7, 5), (0, 95, 7, 5)], tokens_per_minute=100)
    assert [ticket.time for _, ticket in passed] == [0, 7, 60]
    assert [ticket.time for _, ticket in let_through([(0, 60, 0, 0)] * 9, tokens_per_minute=100)] == [0] * 9


def test_corrections_that_come_late_change_nothing():
    passed = let_through([(0, 60, 80, 0), (70, 60, 80, 60), (85, 60, 1, 60)], tokens_per_minute=100)
    assert [ticket.time for _, ticket in passed] == [0, 70, 130]


def test_a_request_over_the_limit_goes_alone():
    passed = let_through([(0, 10, 99, 10), (0, 500, 99, 500), (0, 10, 99, 10)], tokens_per_minute=100)
    assert [ticket.time for _, ticket in passed] == [0, 60, 120]


def test_no_limit_holds_nobody():
    assert {ticket.time for _, ticket in let_through([(0, 10**9, 0, 0)] * 20)} == {0}


def test_a_pause_holds_everybody_also_who_waits_already():
    async def work(make):
        limiter = make(requests_per_minute=1)

        async def storm():
            await asyncio.sleep(50)
            limiter.pause(30)
            limiter.pause(10)

        *tickets, _ = await asyncio.gather(*(limiter.wait(1) for _ in range(3)), storm())
        return [ticket.time for ticket in tickets]

    assert run(work) == [0, 80, 140]


def test_who_leaves_the_queue_takes_nothing():
    async def work(make):
        limiter = make(requests_per_minute=2, tokens_per_minute=100)
        await limiter.wait(80)
        gone = [asyncio.create_task(limiter.wait(90)) for _ in ("at the head", "behind it")]
        stays = asyncio.create_task(limiter.wait(20))
        await asyncio.sleep(5)
        for task in gone:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*gone, return_exceptions=True)
        )
        return (await stays).time

    assert run(work) == 5
