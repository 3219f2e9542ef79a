"""Driving productions: stored replies are replayed, missing ones asked for, every reply and outcome committed at once.

One event loop, no threads. A few records are at work at the same time; each call of them waits for a free slot. So a
run can stop between any two commits and go on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mvjax.curator.production import Call, Outcome, Problem, Production, Reply, advance
from mvjax.curator.store import Store
from mvjax.curator.totals import BUDGET, INTERRUPTED, Totals
from mvjax.errors import UserError

if TYPE_CHECKING:
    from mvjax.curator.endpoint.client import ChatClient
    from mvjax.curator.endpoint.spending import Spending
    from mvjax.curator.progress import LiveLine, PlainLines

FAULT = "fault of mvjax"
FAILURES = 20
"""Calls in a row that fail for good before the run ends: the endpoint is down, and records should not pay for it."""
CLOSING = 5.0
"""Seconds that a client may take to close."""


def run(
    store: Store,
    producer: Callable[[Problem], Production],
    client: ChatClient | None = None,
    *,
    concurrency: int = 8,
    spending: Spending | None = None,
    progress: LiveLine | PlainLines | None = None,
) -> Totals:
    """Bring every pending record of a store to its end.

    SIGINT and SIGTERM stop the run at once, calls in flight are given up; so does the budget, but calls in flight are
    waited for. What is committed stays, and a second run goes on from there.

    Args:
      producer: makes a problem's production.
      client: None for producers that ask for no calls.
      concurrency: calls that may be in flight together.
      spending: None: whatever it takes.
      progress: None: nothing is shown.
    Raises:
      UserError: no call can succeed; what is committed stays.
    """
    return asyncio.run(_Run(store, producer, client, concurrency, spending, progress).whole())


class _Run:
    def __init__(self, store, producer, client, concurrency, spending, progress):
        self.store: Store = store
        self.producer: Callable[[Problem], Production] = producer
        self.client: ChatClient | None = client
        self.spending: Spending | None = spending
        self.progress: LiveLine | PlainLines | None = progress
        self.workers = concurrency if client is not None else 1
        self.slots = asyncio.Semaphore(concurrency)
        self.totals = Totals.of(store)
        self.closing = False
        self.waiting: deque[tuple[int, Problem]] = deque()
        self.taken = 0
        self.failures = 0
        self.in_flight = 0
        self.landed = asyncio.Event()
        if spending is not None:
            prompt_tokens, completion_tokens, _ = store.spent()
            spending.add(Reply("", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens))

    async def whole(self) -> Totals:
        """From the first record to the last, or to whatever stops the run."""
        shown = asyncio.create_task(self.show())
        with self.signals():
            try:
                if self.client is not None and self.store.pending(limit=1):
                    await self.client.preflight()
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.workers):
                        group.create_task(self.worker())
            except asyncio.CancelledError:
                if self.totals.stopped != INTERRUPTED:
                    raise
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
            finally:
                self.closing = True
                shown.cancel()
                if self.progress is not None:
                    self.progress.close()
                if self.client is not None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.client.close(), CLOSING)
        return self.totals

    @contextlib.contextmanager
    def signals(self):
        """Meanwhile SIGINT and SIGTERM stop the run, once; more of them change nothing."""
        loop, whole = asyncio.get_running_loop(), asyncio.current_task()
        assert whole is not None  # a coroutine of ours

        def stop() -> None:
            if self.totals.stopped != INTERRUPTED and not self.closing:
                self.totals.stopped = INTERRUPTED
                whole.cancel()

        kinds = (signal.SIGINT, signal.SIGTERM)
        try:
            for kind in kinds:
                loop.add_signal_handler(kind, stop)
        except (ValueError, RuntimeError):  # not the main thread: whoever owns it decides
            kinds = ()
        try:
            yield
        finally:
            for kind in kinds:
                loop.remove_signal_handler(kind)

    async def show(self) -> None:
        """Show progress now and then."""
        while self.progress is not None:
            self.progress.show(self.totals)
            await asyncio.sleep(self.progress.every)

    async def worker(self) -> None:
        """Record after record."""
        while not self.totals.stopped and (entry := self.next()) is not None:
            await self.record(*entry)
            await asyncio.sleep(0)  # signals and progress come through where no call is waited for

    def next(self) -> tuple[int, Problem] | None:
        """The next pending record in input order."""
        if not self.waiting:
            self.waiting.extend(self.store.pending(after=self.taken))
        if not self.waiting:
            return None
        self.taken = self.waiting[0][0]
        return self.waiting.popleft()

    async def record(self, number: int, problem: Problem) -> None:
        """One record, to its outcome or to where the run stops."""
        stored = self.store.replies(number)
        production, replies, asked = self.producer(problem), None, 0
        while True:
            step = _advance(production, replies)
            if isinstance(step, Outcome):
                break
            replies = await self.replies(number, problem, step, asked, stored)
            if replies is None:
                production.close()
                return
            asked += len(step)
        self.store.drop(number, asked)
        self.store.finish(number, step)
        self.totals.add_outcome(step)

    async def replies(
        self, record: int, problem: Problem, calls: tuple[Call, ...], first: int, stored: dict[int, tuple[str, Reply]]
    ) -> tuple[Reply, ...] | None:
        """Replies to calls that may run together, from the store or the endpoint; None: the run stops."""
        if self.client is None:
            raise TypeError(f"record {problem.id!r}: its producer asks for calls, but there is no client")
        for number, call in enumerate(calls, first):
            if number in stored and stored[number][0] != call.fingerprint:
                dropped = self.store.drop(record, number)
                self.say(f"{problem.id}: what is asked has changed; {dropped} stored replies count no more")
                for later in [other for other in stored if other >= number]:
                    del stored[later]
        self.totals.replayed += sum(number in stored for number in range(first, first + len(calls)))
        async with asyncio.TaskGroup() as group:
            asked = {
                number: group.create_task(self.ask(record, number, call))
                for number, call in enumerate(calls, first)
                if number not in stored
            }
        replies = [
            asked[number].result() if number in asked else stored[number][1]
            for number in range(first, first + len(calls))
        ]
        given = tuple(reply for reply in replies if reply is not None)
        return given if len(given) == len(replies) else None

    async def ask(self, record: int, number: int, call: Call) -> Reply | None:
        """One call, its reply committed; None where the run stops first."""
        async with self.slots:
            if not await self.may_ask(call):
                return None
            self.in_flight += 1
            try:
                assert self.client is not None  # `replies` looked
                reply = await self.client.complete(call)
            finally:
                self.in_flight -= 1
            # Half a surrogate pair can be neither stored nor written.
            reply = replace(reply, text=reply.text.encode("utf-8", "replace").decode())
            cost = self.spending.cost(reply) if self.spending is not None else 0.0
            self.store.commit(record, number, call, reply, cost)
            if self.spending is not None:
                self.spending.add(reply, call)
            self.landed.set()
        self.totals.add_reply(reply, cost)
        self.failures = self.failures + 1 if reply.finish == "failed" else 0
        if self.failures == FAILURES:
            raise UserError(
                f"the endpoint failed {FAILURES} calls in a row, at last with: {reply.text[:200]};"
                " what is done is kept; once it is well again, the same command with `--again endpoint` goes on"
            )
        return reply

    async def may_ask(self, call: Call) -> bool:
        """Whether a call may be made: the run goes on and the budget has room, if need be once others have landed."""
        while not self.totals.stopped and self.spending is not None and not self.spending.allows(call):
            if self.in_flight:
                self.landed.clear()
                await self.landed.wait()
            else:
                self.totals.stopped = BUDGET
        return not self.totals.stopped

    def say(self, line: str) -> None:
        if self.progress is not None:
            self.progress.say(line)


def _advance(production: Production, replies: tuple[Reply, ...] | None) -> tuple[Call, ...] | Outcome:
    """The next calls, or the outcome. A producer that breaks costs its own record only; its replies are kept."""
    try:
        return advance(production, replies)
    except UserError:
        raise
    except Exception as error:
        return Outcome(None, FAULT, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _first(errors: BaseExceptionGroup) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
