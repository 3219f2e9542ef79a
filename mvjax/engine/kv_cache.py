"""Where the requests' streams live on the device: their sizes, their growth, and who owns which pages."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32

from mvjax.engine import state as st
from mvjax.engine import state_ops
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model import KVArrays, StepModel
from mvjax.engine.page_pool import PagePool
from mvjax.engine.program_cache import ProgramCache
from mvjax.engine.state import Sizes, State


class Preempted(NamedTuple):
    """A request that is off the device for want of pages, as it was between two steps."""

    state: State
    """Its part of the state; of the slots as many as there were."""
    content: Any
    """What its pages hold, page by page."""
    used: int
    """Slots in use."""


class KVCache:
    """The model's stream and the engine's state, for so many requests of so many slots.

    Contiguous streams grow by being copied into longer ones. Where the model keeps pages, only the state and the page
    table grow, and a request takes pages as it needs them.

    Attributes:
        sizes: of the state; None before the first `allocate`.
        state: what the engine keeps on the device.
        used_R: slots in use at each place, as the host knows it.
    """

    def __init__(self, model: StepModel, config: EngineConfig, programs: ProgramCache, number_length: int):
        self.model, self.config, self.number_length = model, config, number_length
        self._programs = programs
        self.page_size: int | None = getattr(model, "page_size", None)
        self.pages = 0
        if self.page_size:
            self.pages = 1 + (config.pages or config.requests * -(-config.max_slots // self.page_size))
        self.reset()

    def reset(self) -> None:
        """Drop everything."""
        self.sizes: Sizes | None = None
        self.state: State | None = None
        self.used_R = np.zeros(0, np.int64)
        self._stream: KVArrays | None = None
        self._pager: PagePool | None = None
        self._moved = True

    @property
    def stream(self) -> KVArrays:
        """The model's stream, under the table of today."""
        if self._pager is not None and self._moved:
            table_RM = self._pager.table(self.sizes.requests, self.sizes.slots // self.page_size)
            self._stream, self._moved = self.model.with_table(self._stream, table_RM), False
        return self._stream

    @stream.setter
    def stream(self, stream: KVArrays) -> None:
        self._stream = stream

    @property
    def most_slots(self) -> int:
        """Slots that one request can ever have."""
        return min(self.config.max_slots, (self.pages - 1) * self.page_size) if self.pages else self.config.max_slots

    def slots_for(self, need: int) -> int:
        """Stream size for so many slots: steps, then half as much again, so that long streams are seldom moved."""
        step = self.config.stream_step
        slots = step
        while slots < need:
            slots = max(slots + step, slots * 3 // 2 // step * step)
        slots = max(need, min(slots, self.config.max_slots))
        return -(-slots // self.page_size) * self.page_size if self.page_size else slots

    def allocate(self, requests: int, slots: int) -> None:
        """Empty streams of this size, unless there are such already."""
        config = self.config
        numbers = config.max_branches, config.max_depth, config.max_paths, self.number_length
        sizes = Sizes(requests, slots, *numbers, self.pages)
        self.used_R = np.zeros(requests, np.int64)
        if self.pages:
            self._pager, self._moved = PagePool(self.pages, self.page_size), True
        if sizes == self.sizes:
            return
        self.state = None  # The old ones go before the new ones come.
        if not self.pages:
            self._stream = None
            make = lambda: (self.model.init_kv(requests, slots), st.empty_state(sizes))  # noqa: E731
            self._stream, self.state = self._programs.call("allocate", sizes, make, ())
        else:
            if self._stream is None:
                self._stream = self._programs.call("pages", sizes, lambda: self.model.init_pages(self.pages), ())
            self.state = self._programs.call("allocate", sizes, lambda: st.empty_state(sizes), ())
        self.sizes = sizes

    def make_room(self, slots: int, requests: int) -> None:
        """Let the streams grow, in slots or in requests, to hold that much; their content stays."""
        old = self.sizes
        slots = max(old.slots, self.slots_for(slots))
        requests = max(old.requests, requests)
        if (slots, requests) == (old.slots, old.requests):
            return
        sizes = dataclasses.replace(old, slots=slots, requests=requests)
        name = f"grow from {old.requests} x {old.slots}"
        if self.pages:
            grow = functools.partial(state_ops.grow_state, sizes=sizes)
            self.state = self._programs.call(name, sizes, grow, (), self.state)
        else:
            grow = functools.partial(state_ops.grow, model=self.model, sizes=sizes)
            self._stream, self.state = self._programs.call(name, sizes, grow, (), self._stream, self.state)
        self.sizes, self._moved = sizes, True
        self.used_R = np.pad(self.used_R, (0, requests - old.requests))

    def could_hold(self, slots: int) -> bool:
        """Whether nobody's pages are enough for so many slots."""
        return self._pager is None or self._pager.free >= self._pager.count_for(slots)

    def reserve(self, place: int, slots: int) -> bool:
        """See that a request has pages for so many slots, or for all that there are of late; False where there are
        not enough (it keeps what it got)."""
        if self._pager is None:
            return True
        before = self._pager.room(place)
        enough = self._pager.reserve(place, min(slots, self.sizes.slots))
        self._moved |= self._pager.room(place) != before
        return enough

    def release(self, place: int) -> None:
        """A request has left: the one point where its pages become free."""
        self.used_R[place] = 0
        if self._pager is not None:
            self._pager.release(place)
            self._moved = True

    def park(self, place: int) -> Preempted:
        """Take a request off the device; its pages are still its own."""
        at = np.int32(place)
        pages_M = self._pager.owned(place, self.sizes.slots // self.page_size)
        content = jax.device_get(self.call("read pages", self.model.read_pages, (), self.stream, pages_M))
        owned = self._pager.room(place) // self.page_size
        self.state, state = self.call("park", state_ops.park, (0,), self.state, at)
        used, state = int(self.used_R[place]), jax.device_get(state)
        return Preempted(state, jax.tree.map(lambda leaf_MX: leaf_MX[:owned].copy(), content), used)

    def resume(self, place: int, preempted: Preempted) -> None:
        """Put a parked request at a place, which must have the pages for it."""
        width = self.sizes.slots // self.page_size
        pages_M = self._pager.owned(place, width)

        def padded(leaf_X, size, fill=0):
            return np.pad(leaf_X, [(0, size - len(leaf_X))] + [(0, 0)] * (leaf_X.ndim - 1), constant_values=fill)

        content = jax.tree.map(lambda leaf_MX: padded(leaf_MX, width), preempted.content)
        self.stream = self.call("write pages", self.model.write_pages, (0,), self.stream, pages_M, content)
        state = preempted.state._replace(
            segment_RS=padded(preempted.state.segment_RS, self.sizes.slots, st.NO_SEGMENT),
            record_RSC=padded(preempted.state.record_RSC, self.sizes.slots),
        )
        self.change("resume", state_ops.resume, np.int32(place), state)
        self.used_R[place] = preempted.used

    def running(self) -> int:
        """Branches with a token to feed."""
        return int(self.call("running", state_ops.running, (), self.state))

    def room_R(self) -> Int32[np.ndarray, "R"]:
        """Slots that each request may fill."""
        if self._pager is None:
            return np.full(self.sizes.requests, self.sizes.slots, np.int32)
        return np.array([self._pager.room(place) for place in range(self.sizes.requests)], np.int32)

    @property
    def compile_seconds(self) -> float:
        """Time spent on compiling so far."""
        return self._programs.seconds

    def compiled_slots(self, requests: int) -> set[int]:
        """Slots of the streams that the loop has been compiled for, with so many requests."""
        return {sizes.slots for sizes in self._programs.sizes("run") if sizes.requests == requests}

    def change(self, name: str, function: Callable, *arguments: Any) -> None:
        """Put the state through a program of its own."""
        self.state = self.call(name, function, (0,), self.state, *arguments)

    def call(self, name: str, *rest: Any) -> Any:
        """A program compiled for these sizes: function, donated arguments, arguments."""
        return self._programs.call(name, self.sizes, *rest)
