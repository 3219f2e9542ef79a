"""Who runs where: requests wait in a queue, take a place on the device, make room for older ones, and leave."""

from __future__ import annotations

import collections
import time

import jax
import numpy as np

from mvjax.engine import state_ops
from mvjax.engine.kv_cache import KVCache
from mvjax.engine.model_runner import ModelRunner, next_power
from mvjax.engine.prompt import chunk_plan
from mvjax.engine.request import Request


class Scheduler:
    """Requests come in order. Where pages run out the youngest leaves the device as it stands, and is the next to come.

    Attributes:
        jobs: request at each place of the device, or None.
        queue: requests that wait.
        running: branches on the device that have a token to feed.
        resize: choose the sizes of the streams anew for the next request that finds the device empty; while requests
            run the sizes only grow.
    """

    def __init__(self, streams: KVCache, calls: ModelRunner):
        self.streams, self.calls, self.config = streams, calls, calls.config
        self.jobs: list[Request | None] = []
        self.queue: collections.deque[Request] = collections.deque()
        self.running = 0
        self.resize = True

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return bool(self.queue) or any(self.jobs)

    @property
    def width(self) -> int:
        """Row count of the program that runs next."""
        counts = self.calls.row_counts(self.streams.sizes.requests)
        return next(count for count in counts if count >= self.running)

    def places_for(self, requests: int) -> int:
        """Requests that state and streams are made for, so that few sizes occur."""
        return min(next_power(requests), self.config.requests)

    def allocate(self, requests: int, slots: int) -> None:
        """Empty places and streams of this size."""
        self.jobs = [None] * requests
        self.streams.allocate(requests, slots)

    def schedule(self) -> None:
        """Before a stay in the loop: room and pages for the next step of all that run, and those admitted that fit."""
        if self.running:
            self.streams.make_room(max(self.streams.used_R) + self.config.max_branches, self.streams.sizes.requests)
            self._park_some()
        if self.queue:
            self._admit_waiting()
        for place, job in enumerate(self.jobs):
            if job is not None and job.cancelled and not job.cancel_told:
                self.streams.change("cancel", state_ops.cancel, np.int32(place))
                job.cancel_told = True

    def reserve_ahead(self, slots: int) -> None:
        """Pages for so many slots more, as far as there are some and a request can use them, the oldest first."""
        for _, place in self._by_age():
            most = self.jobs[place].most_slots(self.config.max_branches)
            self.streams.reserve(place, min(self.streams.used_R[place] + slots, most))

    def release(self, place: int) -> None:
        """A request leaves its place."""
        self.jobs[place] = None
        self.streams.release(place)

    def reset(self) -> None:
        """Drop all requests (after an interruption); the streams are made anew with the next."""
        self.queue.clear()
        self.jobs, self.running = [], 0
        self.streams.reset()

    def _admit_waiting(self) -> None:
        streams = self.streams
        places = self.places_for(len(self.queue) + sum(job is not None for job in self.jobs))
        if self.resize and not any(self.jobs):
            slots = streams.slots_for(max(job.first_slots(self.config) for job in list(self.queue)[:places]))
            # A size that the loop is compiled for already, unless streams would be read that are far too long.
            fitting = [size for size in streams.compiled_slots(places) if slots <= size <= 4 * slots]
            self.allocate(places, min(fitting, default=slots))
            self.resize = False
        elif places > streams.sizes.requests:
            self.jobs += [None] * (places - len(self.jobs))
            streams.make_room(0, places)
        for place, job in enumerate(self.jobs):
            if job is None and self.queue:
                if not self._finds_pages(place, self.queue[0]):
                    break  # It waits until others have left.
                self._admit(place, self.queue.popleft())

    def _finds_pages(self, place: int, job: Request) -> bool:
        """Take pages for the first step of a request that waits. A parked one wants enough to stay to its end."""
        if job.preempted is None:
            found = self.streams.reserve(place, job.fed + self.config.max_branches)
        else:
            found = self.streams.could_hold(job.most_slots(self.config.max_branches))
            found = found and self.streams.reserve(place, job.preempted.used + self.config.max_branches)
        if not found:
            self.streams.release(place)
        return found

    def _admit(self, place: int, job: Request) -> None:
        """Prefill a prompt and start its root, or go on with a parked request."""
        streams, self.jobs[place] = self.streams, job
        if job.preempted is not None:
            streams.resume(place, job.preempted)
            job.preempted, self.running = None, streams.running()
            return
        job.admitted, compiled = time.perf_counter(), streams.compile_seconds
        streams.make_room(job.first_slots(self.config), streams.sizes.requests)
        tokens_T, positions_T = np.asarray(job.prompt.tokens, np.int32), job.prompt.position_array()
        hidden = job.prompt.hidden(self.config.prompt_levels, streams.sizes.slots)
        for offset, size, length in chunk_plan(job.fed, self.config.prefill_chunks):
            chunk, padding = slice(offset, offset + length), (0, size - length)
            columns = np.pad(tokens_T[chunk], padding), np.pad(positions_T[chunk], padding)
            streams.stream = streams.call(*self.calls.prefill(*columns, hidden, place, offset, length))
        jax.block_until_ready(streams.stream)
        streams.state = streams.call(*self.calls.admission(place, job))
        job.cancel_told, job.told = job.cancelled, job.fed + 1
        job.started, job.compiled = time.perf_counter(), (compiled, streams.compile_seconds)
        streams.used_R[place] = job.fed
        self.running += 1

    def _by_age(self) -> list[tuple[int, int]]:
        """Number and place of every request on the device, the oldest first."""
        return sorted((job.request, place) for place, job in enumerate(self.jobs) if job is not None)

    def _park_some(self) -> None:
        """See that every request has pages for the next step; while they run out the youngest request leaves."""
        streams, by_age = self.streams, self._by_age()
        while not all(streams.reserve(place, streams.used_R[place] + self.config.max_branches) for _, place in by_age):
            _, place = by_age.pop()
            job = self.jobs[place]
            job.preempted = streams.park(place)
            self.release(place)
            self.queue.appendleft(job)
            self.running = streams.running()
