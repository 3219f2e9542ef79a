"""The thread that owns an engine: requests in from any thread, events out on its own.

An engine serves one caller at a time. Here that caller is one thread, which takes requests from a queue, calls
`Engine.step` as long as anything runs or waits, and hands what is new to each request's listener. A fault that escapes
`Engine.step` ends all requests with an error; the engine is built again and the thread goes on.
"""

from __future__ import annotations

import collections
import dataclasses
import gc
import itertools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from mvjax.engine import (
    Engine,
    EngineConfig,
    EngineStats,
    Limits,
    Mode,
    Prompt,
    QueueFull,
    Replicas,
    Result,
    SamplingParams,
    TokenUpdate,
    WarmUp,
)
from mvjax.errors import UserError
from mvjax.serving.listener import Job, Listener, Observer

__all__ = ["Broken", "Draining", "Driver", "Listener", "Observer"]

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between tries to build an engine anew: the first, and the longest; each is twice the one before."""


class Draining(UserError):
    """No new requests are taken: the server shuts down."""


class Broken(Draining):
    """No new requests are taken: the engine died and could not be built again yet."""


class Driver:
    """Runs an engine on a thread of its own.

    Args:
        build: makes the engine; called on the driver's thread, and again after a failure.
        observers: told of everything.
        overdue: seconds; a step of the engine that takes longer counts as no progress (`healthy`).
    """

    def __init__(
        self, build: Callable[[], Engine | Replicas], *, observers: Sequence[Observer] = (), overdue: float = 120.0
    ) -> None:
        self.observers = list(observers)
        self._build, self._overdue = build, overdue
        self._engine: Engine | Replicas | None = None
        self._wake = threading.Condition()
        """Guards what follows, and wakes the thread."""
        self._inbox: collections.deque[Job] = collections.deque()
        self._errands: collections.deque[tuple[Callable[[], Any], Future]] = collections.deque()
        self._live: dict[int, Job] = {}
        """Requests that have not ended, by ticket."""
        self._draining = self._stopping = self._broken = False
        self._tickets = itertools.count(1)
        self._by_number: dict[int, Job] = {}
        """Requests that the engine has. The driver's thread only, like the rest below."""
        self._failed_observers: list[Observer] = []
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._warm_up: WarmUp | None = None
        self._start_error: BaseException | None = None
        self._turn_began: float | None = None
        """When the thread began what it is doing; None: it waits."""
        self._stats = EngineStats(*[0] * len(EngineStats._fields))
        self.tokenizer: Any = None
        self.vocabulary: Any = None
        self.config = EngineConfig()
        self.max_slots, self.has_tags = 0, False
        self.max_position: int | None = None

    # From any thread.

    def start(self) -> WarmUp:
        """Build and warm up the engine on the driver's thread; returns when it is ready.

        Raises what the building raises.
        """
        self._thread = threading.Thread(target=self._run, name="mvjax driver", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._start_error is not None:
            self._thread.join()
            raise self._start_error
        assert self._warm_up is not None
        return self._warm_up

    def submit(
        self,
        prompt: Prompt | Sequence[int],
        *,
        limits: Limits,
        sampling: SamplingParams,
        mode: Mode,
        deadline: float | None = None,
        listener: Listener,
        request_id: str = "",
    ) -> int:
        """Give the engine a request; returns its ticket. The listener may hear of it before this returns.

        Args:
            deadline: seconds from now after which it is wound up, with the reason "deadline".
            request_id: for observers.

        Raises:
            UserError: a bad request, with the numbers; the engine has not been touched.
            QueueFull: `EngineConfig.max_queue` requests wait already.
            Draining: no new requests are taken.
        """
        engine = self._engine
        if engine is not None:
            engine.check(prompt, limits, sampling, mode)
        tokens = prompt.tokens if isinstance(prompt, Prompt) else prompt
        arguments = {"prompt": prompt, "limits": limits, "sampling": sampling, "mode": mode, "deadline": deadline}
        job = Job(next(self._tickets), request_id, len(tokens), arguments, listener)
        with self._wake:
            self._refuse_where_none_are_taken()
            most = self.config.max_queue
            if most is not None and len(self._live) >= self.config.requests + most:
                raise QueueFull(
                    f"{self.config.requests} requests run and {len(self._live) - self.config.requests} wait, as many "
                    "as the queue takes (EngineConfig.max_queue); try later"
                )
            self._live[job.ticket] = job
            self._inbox.append(job)
            self._wake.notify_all()
        return job.ticket

    def cancel(self, ticket: int, *, drop: bool = False, stopped: bool = False) -> None:
        """Wind up a request, which then ends in a result; nothing where it has ended.

        Args:
            drop: nobody waits for the answer: its pages are free with the next step, and its result has no tokens.
            stopped: it has met a stop string: observers hear that it has ended by itself.
        """
        with self._wake:
            job, engine = self._live.get(ticket), self._engine
            if job is not None:
                job.cancelled, job.dropped, job.stopped = True, job.dropped or drop, job.stopped or stopped
                if job.number is not None and engine is not None:
                    engine.cancel(job.number, drop=job.dropped)

    def run(self, function: Callable[[], Any]) -> Future:
        """Call a function on the driver's thread, between two steps of the engine, which wait for it; a future of its
        result.

        Raises:
            Draining: no new work is taken.
        """
        future: Future = Future()
        with self._wake:
            self._refuse_where_none_are_taken()
            self._errands.append((function, future))
            self._wake.notify_all()
        return future

    def drain(self, seconds: float) -> bool:
        """Take no new requests, wait for those that there are, at most this long, then cancel them and wait for their
        ends; whether all ended by themselves."""
        with self._wake:
            self._draining = True
            if self._wake.wait_for(lambda: not self._live, timeout=seconds):
                return True
            tickets = list(self._live)
        for ticket in tickets:
            self.cancel(ticket)
        with self._wake:
            self._wake.wait_for(lambda: not self._live, timeout=self._overdue)
        return False

    def stop(self) -> None:
        """End the thread after the step that it is in; requests that have not ended fail. A step that does not return
        is left to itself."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._overdue)

    @property
    def healthy(self) -> bool:
        """Whether the engine makes progress: its thread lives, it has been built, no step is overdue, and nor are
        listeners and observers."""
        began, thread = self._turn_began, self._thread
        overdue = began is not None and time.monotonic() - began > self._overdue
        return thread is not None and thread.is_alive() and self._engine is not None and not overdue

    def stats(self) -> EngineStats:
        """Of the last step; requests that the engine has not been given yet count as waiting."""
        return self._stats._replace(waiting=self._stats.waiting + len(self._inbox))

    def _refuse_where_none_are_taken(self) -> None:
        if self._draining or self._stopping:
            raise Draining("the server shuts down and takes no new requests; try another, or later")
        if self._broken or self._thread is None or not self._thread.is_alive():
            raise Broken("the engine has failed and is not back yet; try later")

    # The driver's thread.

    def _run(self) -> None:
        try:
            self._warm_up = self._renew()
        except BaseException as error:
            self._start_error = error
            return
        finally:
            self._ready.set()
        try:
            while self._wait():
                self._turn_began = time.monotonic()
                self._run_errands()
                try:
                    if self._inbox or self._by_number:
                        self._stay()
                except Exception as error:
                    self._recover(error)
                self._turn_began = None
        except BaseException:
            log.exception("the driver's thread dies")
            raise
        finally:
            with self._wake:
                self._broken = True  # Nothing comes in any more, though the thread lives for a moment yet.
            self._fail_all(Draining("the server was stopped"))
            self._engine = None
            for _, future in self._errands:
                future.cancel()

    def _renew(self) -> WarmUp:
        """Build the engine and warm it up."""
        engine = self._build()
        warm_up = engine.warm_up()
        self.tokenizer, self.vocabulary, self.config = engine.tokenizer, engine.vocabulary, engine.config
        self.max_slots, self.max_position, self.has_tags = engine.max_slots, engine.max_position, engine.has_tags
        self._stats = engine.stats()
        self._engine = engine
        return warm_up

    def _wait(self) -> bool:
        """Wait until there is something to do; False: the thread is to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._inbox or self._by_number or self._errands)
            return not self._stopping

    def _run_errands(self) -> None:
        while self._errands:
            function, future = self._errands.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

    def _stay(self) -> None:
        """Hand over what has come, let the engine take a step, tell everybody."""
        engine = self._engine
        assert engine is not None
        self._hand_over(engine)
        began = time.monotonic()
        results = engine.step(self._tell)
        self._stats = stats = engine.stats()
        seconds = time.monotonic() - began
        for result in results:
            job = self._by_number.pop(result.request)
            self._end(job, result, None)
        self._observe("stay", stats, seconds)

    def _hand_over(self, engine: Engine | Replicas) -> None:
        most = engine.config.max_queue
        room = None if most is None else most - engine.stats().waiting
        while self._inbox and (room is None or room > 0):
            job = self._inbox.popleft()
            room = None if room is None else room - 1
            arguments = dict(job.arguments)
            prompt, deadline = arguments.pop("prompt"), arguments.pop("deadline")
            if deadline is not None:
                deadline -= time.perf_counter() - job.submitted
            try:
                job.number = engine.submit(prompt, deadline=deadline, **arguments)
            except UserError as error:  # It was checked before, but not while the engine was being built.
                self._end(job, None, error)
                continue
            self._by_number[job.number] = job
            if job.cancelled:
                engine.cancel(job.number, drop=job.dropped)
            self._announce(job)

    def _tell(self, updates: list[TokenUpdate]) -> None:
        """New tokens to their listeners."""
        for number, group in itertools.groupby(updates, lambda update: update.request):
            job, its = self._by_number[number], list(group)
            self._call(job, "tokens", its)
            self._observe("tokens", job.ticket, its)

    def _end(self, job: Job, result: Result | None, error: Exception | None) -> None:
        if result is not None:
            self._call(job, "ended", result)
        else:
            self._call(job, "failed", error)
        self._announce(job)
        if result is not None and job.stopped and result.reason == "cancelled":
            cuts = {segment: why for segment, why in result.cuts.items() if why != "cancelled"}
            result = dataclasses.replace(result, reason="stop", cuts=cuts)
        self._observe("ended", job.ticket, result, error)
        with self._wake:
            self._live.pop(job.ticket, None)
            self._wake.notify_all()

    def _call(self, job: Job, name: str, argument: Any) -> None:
        """Tell a listener; one that raises is told no more, and its request is dropped."""
        if job.deaf:
            return
        try:
            getattr(job.listener, name)(argument)
        except Exception:
            log.exception("the listener of request %s failed; the request is dropped", job.request_id or job.ticket)
            job.deaf = True
            self.cancel(job.ticket, drop=True)

    def _announce(self, job: Job) -> None:
        """Observers hear of a request before they hear more of it."""
        if not job.announced:
            job.announced = True
            self._observe("submitted", job.ticket, job.request_id, job.prompt_tokens)

    def _observe(self, name: str, *arguments: Any) -> None:
        for observer in self.observers:
            try:
                getattr(observer, name)(*arguments)
            except Exception:
                if observer not in self._failed_observers:
                    log.exception("an observer failed; it may do so again, but this is not repeated")
                    self._failed_observers.append(observer)

    def _recover(self, error: Exception) -> None:
        """The engine is lost: all requests fail, another one is built."""
        log.error("the engine failed and is built anew", exc_info=error)
        self._engine = None
        self._fail_all(error)
        release_frames(error)
        pause = FIRST_PAUSE
        while self._engine is None and not self._stopping:
            try:
                self._renew()
            except Exception as again:
                log.error("the engine cannot be built; the next try is in %d s", pause, exc_info=again)
                with self._wake:
                    self._broken = True
                self._fail_all(again)
                with self._wake:
                    self._wake.wait_for(lambda: self._stopping, timeout=pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        with self._wake:
            self._broken = False

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            jobs = list(self._live.values())
            self._inbox.clear()
        self._by_number.clear()
        for job in jobs:
            self._end(job, None, error)


def release_frames(error: BaseException | None) -> None:
    """Let go what the calls that an error came from held, an engine's arrays among it; listeners may keep the error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
