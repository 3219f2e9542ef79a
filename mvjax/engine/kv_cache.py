"""The arrays on the device: the model's keys and values, the engine's state, their sizes, growth and pages."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, Int64

from mvjax.engine import program_cache as pc
from mvjax.engine import state as st
from mvjax.engine import state_ops
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model import KVArrays, StepModel
from mvjax.engine.page_pool import WASTE, PagePool
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.state import Sizes, State


class Preempted(NamedTuple):
    """A request that left the device for want of pages, as it was between two steps."""

    state: State
    """Its part of the state; of the slots as many as there were."""
    content: Any
    """What its pages hold, page by page."""
    used: int
    """Slots in use."""

    @property
    def running(self) -> int:
        """Branches with a token to feed."""
        return int(np.sum(st.running(self.state.request.branches)))


class KVCache:
    """KV streams and state of a number of requests, of a number of slots each.

    Contiguous streams grow by being copied into longer ones. Where the model keeps pages, only the state and the page
    table grow, and a request takes pages as it needs them.

    Attributes:
        sizes: of the state; None before the first `allocate`.
        kv: the model's arrays, under the page table of the moment once `refresh_table` has been called.
        state: what the engine keeps on the device.
        used_R: slots in use of each request, as the host knows it.
        room_R: slots that each request may fill.
        pool: owners of the pages; None for contiguous streams.
        replicated: sharding of the state, see `StepModel`.
        table_stale: pages have changed hands since `refresh_table`.
        valid: False while a program has the arrays; if it fails, they are gone.
    """

    def __init__(self, model: StepModel, config: EngineConfig, programs: ProgramCache, number_length: int):
        self.model: Any = model
        self.config, self.programs, self.number_length = config, programs, number_length
        self.page_size: int | None = getattr(model, "page_size", None)
        self.replicated = getattr(model, "replicated", None)
        self.pages = 0
        if self.page_size:
            self.pages = 1 + (config.pages or config.requests * -(-config.max_slots // self.page_size))
        self.reset()

    def reset(self) -> None:
        """Drop everything."""
        self.sizes: Sizes = None  # type: ignore[assignment]
        self.state: State = None  # type: ignore[assignment]
        self.kv: KVArrays = None
        self.used_R: Int64[np.ndarray, "R"] = np.zeros(0, np.int64)
        self.room_R: Int32[np.ndarray, "R"] = np.zeros(0, np.int32)
        self.pool: PagePool | None = None
        self.table_stale, self.valid = False, True

    @property
    def max_slots(self) -> int:
        """Slots that one request can ever have."""
        if not self.page_size:
            return self.config.max_slots
        return min(self.config.max_slots, (self.pages - 1) * self.page_size)

    def slots_for(self, need: int) -> int:
        """Slots of a stream that needs this number: steps, then half as much again, so that long ones seldom move."""
        step = self.config.stream_step
        slots = step
        while slots < need:
            slots = max(slots + step, slots * 3 // 2 // step * step)
        slots = max(need, min(slots, self.config.max_slots))
        return -(-slots // self.page_size) * self.page_size if self.page_size else slots

    def allocate(self, requests: int, slots: int) -> None:
        """Empty streams of this size; arrays that have it already are used again."""
        config = self.config
        numbers = config.max_branches, config.max_depth, config.max_paths, self.number_length
        sizes = Sizes(requests, slots, *numbers, self.pages)
        if self.page_size:
            self.pool = PagePool(self.pages, self.page_size)
        if sizes != self.sizes:
            self.state = None  # type: ignore[assignment]  # The old arrays go before the new ones come.
            if self.page_size is None:
                self.kv = None
                make = lambda: (self.model.init_kv(requests, slots), st.empty_state(sizes))  # noqa: E731
                program = Program(pc.AllocateKey(sizes), make, (), places=(None, self.replicated))
                self.kv, self.state = self.programs.run(program)
            else:
                if self.kv is None:
                    make = functools.partial(self.model.init_pages, self.pages)
                    self.kv = self.programs.run(Program(pc.AllocatePagesKey(sizes), make, ()))
                make = functools.partial(st.empty_state, sizes)
                self.state = self.programs.run(Program(pc.AllocateKey(sizes), make, (), places=self.replicated))
        self.sizes = sizes
        self.used_R = np.zeros(requests, np.int64)
        self._update_room()

    def grow(self, slots: int, requests: int) -> None:
        """Let the streams grow, in slots or in requests, to hold that much; their content stays."""
        old = self.sizes
        sizes = dataclasses.replace(
            old, slots=max(old.slots, self.slots_for(slots)), requests=max(old.requests, requests)
        )
        if sizes == old:
            return
        key = pc.GrowKey(old, sizes)
        if self.page_size:
            function = functools.partial(state_ops.grow_state, sizes=sizes)
            self.state = self.programs.run(Program(key, function, (self.state,)))
        else:
            function = functools.partial(state_ops.grow, model=self.model, sizes=sizes)
            self.kv, self.state = self.programs.run(Program(key, function, (self.kv, self.state)))
        self.sizes = sizes
        self.used_R = np.pad(self.used_R, (0, sizes.requests - old.requests))
        self._update_room()

    def could_hold(self, slots: int) -> bool:
        """Whether the free pages are enough for this number of slots."""
        return self.pool is None or self.pool.free >= self.pool.count_for(slots)

    def reserve(self, request_index: int, slots: int) -> bool:
        """See that a request has pages for this number of slots, or for all that a stream has now; False where there
        are not enough (it keeps what it got)."""
        slots = min(slots, self.sizes.slots)
        if self.pool is not None and self.room_R[request_index] < slots:
            self.pool.reserve(request_index, slots)
            self._update_room()
        return bool(self.room_R[request_index] >= slots)

    def release(self, request_index: int) -> None:
        """A request has left: the one point where its pages become free."""
        self.used_R[request_index] = 0
        if self.pool is not None:
            self.pool.release(request_index)
            self._update_room()

    def refresh_table(self) -> None:
        """Give the model the page table as it is now."""
        if self.pool is not None and self.page_size:
            table_RM = self.pool.table(self.sizes.requests, self.sizes.slots // self.page_size)
            self.kv, self.table_stale = self.model.with_table(self.kv, table_RM), False

    def preempt(self, request_index: int) -> Preempted:
        """Take a request off the device; its pages are still its own."""
        pages_M = self._pages_of(request_index)
        read = Program(pc.ReadPagesKey(self.sizes), self.model.read_pages, (self.kv, pages_M))
        content = jax.device_get(self.programs.run(read))
        owned = np.count_nonzero(pages_M != WASTE)
        key, index = pc.PreemptKey(self.sizes), np.int32(request_index)
        program = Program(key, state_ops.preempt, (self.state, index), (0,))
        self.valid = False
        self.state, state = self.programs.run(program)
        state, self.valid = jax.device_get(state), True
        content = jax.tree.map(lambda leaf_MX: leaf_MX[:owned].copy(), content)
        return Preempted(state, content, int(self.used_R[request_index]))

    def resume(self, request_index: int, preempted: Preempted) -> None:
        """Put a preempted request back, under an index that has the pages for it."""
        pages_M = self._pages_of(request_index)

        def padded(leaf_X: Any, size: int, fill: int = 0) -> Any:
            return np.pad(leaf_X, [(0, size - len(leaf_X))] + [(0, 0)] * (leaf_X.ndim - 1), constant_values=fill)

        content = jax.tree.map(lambda leaf_MX: padded(leaf_MX, len(pages_M)), preempted.content)
        write = Program(pc.WritePagesKey(self.sizes), self.model.write_pages, (self.kv, pages_M, content), (0,))
        self.valid = False
        self.kv = self.programs.run(write)
        segment_S = padded(preempted.state.segment_RS, self.sizes.slots, st.NO_SEGMENT)
        state = preempted.state._replace(segment_RS=segment_S)
        key = pc.ResumeKey(self.sizes)
        self.change_state(Program(key, state_ops.resume, (self.state, np.int32(request_index), state), (0,)))
        self.used_R[request_index] = preempted.used

    def evict(self, request_index: int) -> None:
        """Take a request out of the state; nothing of it is kept."""
        key = pc.EvictKey(self.sizes)
        self.change_state(Program(key, state_ops.evict, (self.state, np.int32(request_index)), (0,)))

    def change_state(self, program: Program) -> None:
        """Put the state through a program that takes it over."""
        compiled = self.programs.compile(program)
        self.valid = False
        self.state = compiled(*program.arguments)
        self.valid = True

    def compiled_slots(self, requests: int) -> set[int]:
        """Slots of the streams that the loop has been compiled for, with this number of requests."""
        keys = [key for key in self.programs if isinstance(key, pc.DecodeKey)]
        return {key.sizes.slots for key in keys if key.sizes.requests == requests}

    def _pages_of(self, request_index: int) -> Int32[np.ndarray, "M"]:
        """A request's pages, as many entries as a row of the page table."""
        self.refresh_table()
        assert self.pool is not None
        return self.pool.owned(request_index, self.sizes.slots // self.pool.page_size)

    def _update_room(self) -> None:
        if self.pool is None:
            self.room_R = np.full(self.sizes.requests, self.sizes.slots, np.int32)
        else:
            self.room_R = np.array([self.pool.room(index) for index in range(self.sizes.requests)], np.int32)
            self.table_stale = True
