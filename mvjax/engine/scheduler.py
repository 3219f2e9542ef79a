"""Who runs: requests wait in a queue, are admitted to the device, make room for older ones, and leave."""

from __future__ import annotations

import collections
import time
from typing import NamedTuple

from mvjax.engine.kv_cache import KVCache
from mvjax.engine.model_runner import ModelRunner
from mvjax.engine.record import Record
from mvjax.engine.request import Request


class Batch(NamedTuple):
    """The program of the next stay in the loop."""

    width: int
    """Its rows."""
    narrower: int
    """The next smaller row count that there is a program for; 0: none."""


class Scheduler:
    """Requests come in order. Where pages run out the youngest is preempted, and is the next to come back.

    A fault ends one request. If it took the arrays, or nobody knows whose it is, all that ran begin anew: an answer is
    a function of its own request, so it comes out as it would have. Where nobody knows, they run one at a time until
    they have ended; one that fails alone is the one at fault.

    Attributes:
        on_device: request under each index of the device's arrays, or None.
        queue: requests that wait.
        ended: requests that ended off the device: failed (with an error), or cancelled before they began.
        running: branches on the device that have a token to feed.
        suspects: numbers of the requests one of which made a step fail.
        resize: choose the sizes anew for the next request that finds the device empty; while requests run the sizes
            only grow.
    """

    def __init__(self, cache: KVCache, runner: ModelRunner):
        self.cache, self.runner, self.config = cache, runner, runner.config
        self.queue: collections.deque[Request] = collections.deque()
        self.reset()

    def reset(self) -> None:
        """Drop all requests; the arrays are made anew with the next."""
        self.queue.clear()
        self.on_device: list[Request | None] = []
        self.ended: list[Request] = []
        self.running, self.suspects, self.resize = 0, set[int](), True
        self.cache.reset()

    def row_counts(self, requests: int) -> list[int]:
        """Row counts in use for this number of requests: up to the first that holds all branches they can have."""
        most = requests * self.config.max_branches
        counts = [count for count in self.config.row_counts if count < most]
        return [*counts, min([count for count in self.config.row_counts if count >= most], default=most)]

    def batches(self, requests: int) -> list[Batch]:
        """The programs for this number of requests."""
        counts = self.row_counts(requests)
        return [Batch(width, narrower) for width, narrower in zip(counts, [0, *counts])]

    def indices_for(self, requests: int) -> int:
        """Requests that the arrays are made for: a power of two, so that few sizes occur."""
        return min(1 << max(requests - 1, 0).bit_length(), self.config.requests)

    def allocate(self, requests: int, slots: int) -> None:
        """An empty device of this size."""
        self.on_device = [None] * requests
        self.cache.allocate(requests, slots)

    def schedule(self) -> Batch | None:
        """Room for the next step of all that run, and those admitted that wait and fit; None where nobody runs.

        Raises:
            Exception: a fault that is not one request's alone; see `recover`.
        """
        cache, branches = self.cache, self.config.max_branches
        if any(self.on_device):
            if max(cache.used_R) + branches > cache.sizes.slots:
                cache.grow(int(max(cache.used_R)) + branches, cache.sizes.requests)
            if cache.pool is not None:
                self._preempt_for_pages()
        if self.queue:
            self._drop_cancelled()
            self._admit_waiting()
        for index, request in enumerate(self.on_device):
            if request is not None and request.cancelled and not request.cancel_applied:
                self.runner.cancel(index)
                request.cancel_applied = True
        if not any(self.on_device):
            return None
        batch = next(batch for batch in self.batches(cache.sizes.requests) if batch.width >= self.running)
        if cache.pool is not None:
            self._reserve_ahead(min(branches, batch.width) * self.config.sync_steps)
        return batch

    def finish(self, index: int) -> None:
        """A request has ended on the device."""
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
        for request in waiting:
            request.preempted = None  # What it holds may not fit the sizes to come.
        self.queue = collections.deque([*sorted(running, key=lambda request: request.number), *waiting])
        self.on_device, self.running, self.resize = [], 0, True
        self.cache.reset()

    def _end(self, request: Request, error: Exception | None = None) -> None:
        request.error = error
        self.suspects.discard(request.number)
        self.ended.append(request)

    def _drop_cancelled(self) -> None:
        """Requests that were cancelled before they began end here."""
        for request in [request for request in self.queue if request.cancelled and not request.admitted]:
            self.queue.remove(request)
            self._end(request)

    def _admit_waiting(self) -> None:
        cache = self.cache
        running = sum(request is not None for request in self.on_device)
        most = 1 if self.suspects else self.config.requests
        indices = self.indices_for(min(len(self.queue) + running, most))
        if self.resize and not running and self.queue:
            slots = cache.slots_for(max(request.first_slots(self.config) for request in list(self.queue)[:indices]))
            # A size that the loop is compiled for already, unless streams would be read that are far too long.
            fitting = [size for size in cache.compiled_slots(indices) if slots <= size <= 4 * slots]
            self.allocate(indices, min(fitting, default=slots))
            self.resize = False
        for index in range(indices):
            if not self.queue or running >= most:
                break
            if index < len(self.on_device) and self.on_device[index] is not None:
                continue
            waiting = len(self.queue)
            running += self._admit(index, indices)
            if len(self.queue) == waiting or not self.on_device:
                break  # It waits until others have left; or its fault took the arrays, and all begin anew.

    def _has_room(self, index: int, indices: int, request: Request) -> bool:
        """Make room for the first step of a request that waits; False where it finds no pages. A preempted one wants
        enough of them to stay to its end."""
        cache, branches = self.cache, self.config.max_branches
        slots = request.fed + branches if request.preempted is None else request.preempted.used + branches
        cache.grow(max(slots, request.first_slots(self.config)), indices)
        self.on_device += [None] * (cache.sizes.requests - len(self.on_device))
        found = request.preempted is None or cache.could_hold(request.most_slots(branches))
        found = found and cache.reserve(index, slots)
        if not found:
            cache.release(index)
        return found

    def _admit(self, index: int, indices: int) -> bool:
        """Start the first request of the queue, or go on with it if it was preempted; whether it is on the device."""
        request = self.queue[0]
        try:
            if not self._has_room(index, indices, request):
                return False
            self.on_device[index] = request
            if request.preempted is None:
                self._start(index, request)
            else:
                self.cache.resume(index, request.preempted)
                self.running += request.preempted.running
                request.preempted = None
        except Exception as error:
            self.queue.popleft()
            self._end(request, error)
            began = request in self.on_device
            if index < len(self.on_device):
                self.finish(index)
            if not self.cache.valid:
                self.restart()
            elif began:
                self.cache.evict(index)
            return False
        self.queue.popleft()
        return True

    def _start(self, index: int, request: Request) -> None:
        """Prefill a prompt and start its root."""
        request.record = Record()
        programs = self.runner.programs
        request.admitted, compiled = time.perf_counter(), programs.seconds
        request.cancel_applied = request.cancelled
        settings, root = request.settings(self.config.max_branches, request.cancel_applied), request.root()
        self.runner.prefill(index, request.prompt)
        self.runner.admit(index, settings, root)
        request.started, request.compiled = time.perf_counter(), (compiled, programs.seconds)
        self.running += 1

    def _by_age(self) -> list[tuple[int, int]]:
        """Number and index of every request on the device, the oldest first."""
        return sorted((request.number, index) for index, request in enumerate(self.on_device) if request is not None)

    def _preempt_for_pages(self) -> None:
        """See that every request has pages for the next step; while they run out the youngest request leaves."""
        cache, by_age, branches = self.cache, self._by_age(), self.config.max_branches
        while not all(
            cache.room_R[index] >= cache.used_R[index] + branches
            or cache.reserve(index, int(cache.used_R[index]) + branches)
            for _, index in by_age
        ):
            _, index = by_age.pop()
            request = self.on_device[index]
            assert request is not None
            request.preempted = cache.preempt(index)
            self.queue.appendleft(request)
            self.on_device[index] = None
            cache.release(index)
            self.running -= request.preempted.running

    def _reserve_ahead(self, slots: int) -> None:
        """Pages for this number of slots more, as far as they are free and can be used, the oldest request first."""
        cache, branches = self.cache, self.config.max_branches
        for _, index in self._by_age():
            request = self.on_device[index]
            assert request is not None
            wanted = min(int(cache.used_R[index]) + slots, request.most_slots(branches))
            if cache.room_R[index] < min(wanted, cache.sizes.slots):
                cache.reserve(index, wanted)
