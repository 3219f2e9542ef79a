"""Who runs: requests wait in a queue, are admitted and prefilled, make room for older ones, and leave."""

from __future__ import annotations

import collections
import time
from typing import NamedTuple

from mvjax.engine.kv_cache import KVCache
from mvjax.engine.model_runner import ModelRunner
from mvjax.engine.prefill import CallSize, next_rows
from mvjax.engine.prompt_pages import PromptPages
from mvjax.engine.request import Request

STALL = 4
"""Steps of the loop that a call which prefills may take as long as, beside its smallest size."""
STAY_BETWEEN = 2
"""Steps of the loop between two calls that prefill."""


class Batch(NamedTuple):
    """The next stay in the loop."""

    width: int
    """Rows of its program."""
    narrower: int
    """The next smaller row count that there is a program for; 0: none."""
    steps: int
    """At most."""


class Scheduler:
    """Requests come in order. Prompts are prefilled in pieces, between short stays in the loop. Where pages run out the
    youngest request is preempted; it comes back before those that have never run, but for a few of them that find
    pages where it finds too few.

    A fault ends one request. If it took the arrays, or nobody knows whose it is, all that ran begin anew: an answer is
    a function of its own request, so it comes out as it would have. Where nobody knows, they run one at a time until
    they have ended; one that fails alone is the one at fault.

    Attributes:
        on_device: request under each index of the device's arrays, or None.
        queue: requests that wait.
        ended: requests that ended off the device: failed (with an error), or cancelled before they began.
        running: branches on the device that have a token to feed.
        suspects: numbers of the requests one of which made a step fail.
        pages: that prompts share.
        preemptions, prompt_tokens: counts since the beginning, see `EngineStats`.
    """

    def __init__(self, cache: KVCache, runner: ModelRunner):
        self.cache, self.runner, self.config = cache, runner, runner.config
        self.queue: collections.deque[Request] = collections.deque()
        self.pages = PromptPages(cache)
        self.preemptions = self.prompt_tokens = 0
        self.reset()

    def reset(self) -> None:
        """Drop all requests; the arrays are made anew with the next."""
        self.queue.clear()
        self.ended: list[Request] = []
        self.suspects = set[int]()
        self._clear()

    def batches(self) -> list[Batch]:
        """The programs of the loop: row counts up to the number of all branches there can be."""
        most = self.config.requests * self.config.max_branches
        counts = [*(count for count in self.config.row_counts if count < most), most]
        return [Batch(width, narrower, self.config.sync_steps) for width, narrower in zip(counts, [0, *counts])]

    def schedule(self, most_steps: int) -> Batch | None:
        """Admit those that wait and fit, prefill a piece of their prompts; the next stay, None where nobody runs.

        Args:
            most_steps: of the stay.

        Raises:
            Exception: a fault that is not one request's alone; see `recover`.
        """
        self.cache.allocate()
        self._expire()
        if self.cache.pool is not None:
            self._preempt_for_pages()
        self._admit_waiting()
        self._prefill()
        for index, request in enumerate(self.on_device):
            if request is not None and request.started and request.cancelled and not request.cancel_applied:
                self.runner.cancel(index)
                request.cancel_applied = True
        if not self.running:
            return None
        batch = next(batch for batch in self.batches() if batch.width >= self.running)
        batch = batch._replace(steps=min(most_steps, STAY_BETWEEN) if self._to_prefill() else most_steps)
        if self.cache.pool is not None:
            self._reserve_ahead(min(self.config.max_branches, batch.width) * batch.steps)
        return batch

    def finish(self, index: int) -> None:
        """A request has left the device."""
        request, self.on_device[index] = self.on_device[index], None
        if request is not None:
            self.suspects.discard(request.number)
        self.cache.release(index)

    def fail(self, index: int, error: Exception) -> None:
        """End a request on the device whose tokens cannot be read."""
        request = self.on_device[index]
        self.finish(index)
        if request is not None:
            self._end(request, error)
        self.cache.evict(index)

    def recover(self, error: BaseException) -> None:
        """After a fault in `schedule` or in the loop: the request at fault ends, the others begin anew.

        An interruption (KeyboardInterrupt) is nobody's fault.
        """
        running = [request for request in self.on_device if request is not None]
        self.restart()
        if not isinstance(error, Exception) or not self.queue:
            return
        # The one that ran is the first of the queue again; where none ran, the first was to be admitted.
        if len(running) == 1 or len(self.queue) == 1 or (self.suspects and not running):
            self._end(self.queue.popleft(), error)
        else:
            self.suspects |= {request.number for request in running or self.queue}

    def restart(self) -> None:
        """Requests on the device go back to the head of the queue, the oldest first, and begin anew."""
        running = [request for request in self.on_device if request is not None]
        waiting = [request for request in self.queue if request not in running]
        for request in [*running, *waiting]:
            request.begin_anew()
        self.queue = collections.deque([*sorted(running, key=lambda request: request.number), *waiting])
        self._clear()

    def _clear(self) -> None:
        """Nobody is on the device; the arrays are made anew."""
        self.on_device: list[Request | None] = [None] * self.config.requests
        self.running = 0
        self.cache.reset()

    def _end(self, request: Request, error: Exception | None = None) -> None:
        request.error = error
        self.suspects.discard(request.number)
        self.ended.append(request)

    def _expire(self) -> None:
        """Requests whose deadlines have passed are cancelled. Cancelled ones end here where they had not begun or are
        dropped."""
        now = time.perf_counter()
        for request in [*self.queue, *filter(None, self.on_device)]:
            if request.deadline is not None and now > request.deadline and not request.cancelled:
                request.expired = request.cancelled = True
        for request in [request for request in self.queue if request.ends_at_once]:
            self.queue.remove(request)
            self._end(request)
        for index, request in enumerate(self.on_device):
            if request is not None and request.ends_at_once:
                self.finish(index)
                self._end(request)
                if request.started:
                    self.cache.evict(index)

    def _admit_waiting(self) -> None:
        """Give indices and pages to requests of the queue, in order."""
        for request in list(self.queue):
            on_device = sum(other is not None for other in self.on_device)
            if on_device >= (1 if self.suspects else self.config.requests):
                return
            if not self._admit(self.on_device.index(None), request):
                if request.error is not None:
                    continue
                # A preempted one that finds too few pages does not keep all others waiting, nor waits for good.
                if request.preempted is None or request.overtaken >= self.config.requests:
                    return

    def _admit(self, index: int, request: Request) -> bool:
        """Put a request of the queue on the device, where it finds pages; whether it is there."""
        cache, branches = self.cache, self.config.max_branches
        try:
            if request.preempted is None:
                found = self.pages.take(index, request, spare=branches)
            else:
                found = cache.could_hold(request.resuming_slots(branches))
                found = found and cache.reserve(index, request.preempted.used + branches)
            if not found:
                cache.release(index)
                return False
            self.on_device[index] = request
            if request.preempted is None:
                compiled = self.runner.programs.seconds
                request.admitted, request.compiled = time.perf_counter(), (compiled, compiled)
            else:
                cache.resume(index, request.preempted)
                self.running += request.preempted.running
                request.preempted = None
        except Exception as error:
            self._fail_to_begin(index, request, error)
            return False
        for other in self.queue:
            other.overtaken += other.preempted is not None and other.number < request.number
        self.queue.remove(request)
        return True

    def _fail_to_begin(self, index: int, request: Request, error: Exception) -> None:
        """End a request that could not be put on the device; the others begin anew if its fault took the arrays."""
        if request in self.queue:
            self.queue.remove(request)
        self._end(request, error)
        began = self.on_device[index] is request
        self.finish(index)
        if not self.cache.valid:
            self.restart()
        elif began:
            self.cache.evict(index)

    def _to_prefill(self) -> list[tuple[int, Request]]:
        """Requests on the device that have not started, the oldest first, and their indices."""
        waiting = [(index, request) for index, request in enumerate(self.on_device) if request and not request.started]
        return sorted(waiting, key=lambda one: one[1].number)

    def _prefill(self) -> None:
        """One call that prefills; requests whose prompts are complete start."""
        waiting = self._to_prefill()
        if not waiting:
            return
        rows = next_rows(self.pages.without_twins(waiting), self._call_size())
        requests = {row.request_index: row.request for row in rows}
        try:
            if rows:
                self.runner.prefill(rows, next(size for size in self.runner.call_sizes if size.rows >= len(rows)))
        except Exception as error:
            if len(requests) > 1:
                raise
            self._fail_to_begin(*next(iter(requests.items())), error)
            return
        for row in rows:
            row.request.prefilled = row.offset + row.length
        for index, request in waiting:
            if self.on_device[index] is request:
                self.pages.know(index, request)
                if request.prefilled == request.fed:
                    self._start(index, request)

    def _call_size(self) -> CallSize:
        """The largest size of a call that does not keep those that run waiting for long."""
        sizes, runner = self.runner.call_sizes, self.runner
        if not self.running:
            return sizes[-1]
        quick = [size for size in sizes if runner.prefill_seconds.get(size, STALL) <= STALL * runner.step_seconds]
        return quick[-1] if quick else sizes[0]

    def _start(self, index: int, request: Request) -> None:
        """Start the root of a request whose prompt has been prefilled."""
        request.cancel_applied = request.cancelled
        try:
            settings, root = request.settings(self.config.max_branches, request.cancel_applied), request.root()
            self.runner.admit(index, settings, root)
        except Exception as error:
            self._fail_to_begin(index, request, error)
            return
        self.prompt_tokens += 0 if request.begun else len(request.prompt.tokens)
        request.started, request.begun = time.perf_counter(), True
        request.compiled = request.compiled[0], self.runner.programs.seconds
        self.running += 1

    def _by_age(self) -> list[tuple[int, int]]:
        """Number and index of every request on the device, the oldest first."""
        return sorted((request.number, index) for index, request in enumerate(self.on_device) if request is not None)

    def _has_pages(self, index: int, slots: int) -> bool:
        """Whether a request on the device has pages for its next step, or gets them."""
        request, cache = self.on_device[index], self.cache
        if request is None or not request.started:  # It has those of its prompt.
            return True
        wanted = int(cache.used_R[index]) + slots
        return cache.room_R[index] >= wanted or cache.reserve(index, wanted)

    def _preempt_for_pages(self) -> None:
        """See that every request has pages for the next step; while they run out the youngest request leaves."""
        cache, by_age = self.cache, self._by_age()
        while not all(self._has_pages(index, self.config.max_branches) for _, index in by_age):
            _, index = by_age.pop()
            request = self.on_device[index]
            assert request is not None
            if request.started:
                request.preempted = cache.preempt(index)
                request.preemptions += 1
                self.preemptions += 1
                request.overtaken = 0
                self.running -= request.preempted.running
            else:
                request.prefilled = 0
            self.queue.appendleft(request)
            self.on_device[index] = None
            cache.release(index)

    def _reserve_ahead(self, slots: int) -> None:
        """Pages for this number of slots more, as far as they are free and can be used, the oldest request first."""
        cache, branches = self.cache, self.config.max_branches
        for _, index in self._by_age():
            request = self.on_device[index]
            assert request is not None
            if request.started:
                wanted = min(int(cache.used_R[index]) + slots, request.most_slots(branches))
                if cache.room_R[index] < min(wanted, cache.sizes.slots):
                    cache.reserve(index, wanted)
