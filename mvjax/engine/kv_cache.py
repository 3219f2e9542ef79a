"""The arrays on the device: the model's keys and values and the engine's state; who has which pages."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, Int64

from mvjax.engine import program_cache as pc
from mvjax.engine import state as st
from mvjax.engine import state_ops
from mvjax.engine.kv_memory import page_count
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model import KVArrays, StepModel
from mvjax.engine.page_pool import WASTE, PagePool
from mvjax.engine.prefix_cache import PrefixCache
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.state import Sizes, State

GROUP = 16
"""Pages that a program reads or writes."""


class Preempted(NamedTuple):
    """A request that left the device for want of pages, as it was between two steps."""

    state: State
    """Its part of the state."""
    content: list[Any]
    """What its pages hold, group by group."""
    used: int
    """Slots in use."""

    @property
    def running(self) -> int:
        """Branches with a token to feed."""
        return int(np.sum(st.running(self.state.request.branches)))


class KVCache:
    """KV streams and state of `EngineConfig.requests` requests, of `slots` slots each: sizes that never change, so that
    a program is compiled once. Streams lie in pages, which a request takes as it needs them, or, where the model wants
    them so, one after the other.

    Attributes:
        sizes: of the state.
        kv: the model's arrays, under the page table of the moment once `refresh_table` has been called; None before
            `allocate`.
        state: what the engine keeps on the device.
        used_R: slots in use of each request, as the host knows it.
        room_R: slots that each request may fill.
        pool: who holds which pages; None for contiguous streams.
        prefixes: what is in pages that others may begin with; None where nothing is shared.
        replicated: sharding of the state, see `StepModel`.
        table_stale: pages have changed hands since `refresh_table`.
        valid: False while a program has the arrays; if it fails, they are gone.
    """

    def __init__(self, model: StepModel, config: EngineConfig, programs: ProgramCache, number_length: int):
        self.model: Any = model
        self.config, self.programs = config, programs
        self.page_size: int | None = getattr(model, "page_size", None)
        self.replicated = getattr(model, "replicated", None)
        pages, slots = 0, config.max_slots
        if self.page_size:
            pages = 1 + page_count(model, config)
            slots = min(-(-slots // self.page_size), pages - 1) * self.page_size
        numbers = config.max_branches, config.max_depth, config.max_paths, number_length
        self.sizes = Sizes(config.requests, slots, *numbers, pages)
        self.reset()

    def reset(self) -> None:
        """Drop everything."""
        self.state: State = None  # type: ignore[assignment]
        self.kv: KVArrays = None
        self.forget()

    def forget(self) -> None:
        """Nobody is on the device, and what is in the pages is known no more."""
        requests, slots = self.sizes.requests, self.sizes.slots
        self.used_R: Int64[np.ndarray, "R"] = np.zeros(requests, np.int64)
        self.pool: PagePool | None = None
        self.prefixes: PrefixCache | None = None
        if self.page_size:
            self.pool = PagePool(self.sizes.pages, self.page_size, requests, slots // self.page_size)
            if self.config.share_pages:
                self.prefixes = PrefixCache(self.pool, self.config.prompt_levels)
        self.valid = True
        self._update_room()

    @property
    def max_slots(self) -> int:
        """Slots that one request can ever have."""
        return min(self.config.max_slots, self.sizes.slots)

    def allocate(self) -> None:
        """Make the arrays where they are not there."""
        if self.kv is not None:
            return
        sizes, make_state = self.sizes, functools.partial(st.empty_state, self.sizes)
        if self.page_size:
            make = functools.partial(self.model.init_pages, sizes.pages)
        else:
            make = functools.partial(self.model.init_kv, sizes.requests, sizes.slots)
        kv = self.programs.run(Program(pc.AllocateKey(sizes), make, ()))
        self.state = self.programs.run(Program(pc.AllocateStateKey(sizes), make_state, (), places=self.replicated))
        self.kv = kv
        self.table_stale = self.pool is not None

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

    def share(self, request_index: int, pages: Sequence[int], first: int = 0) -> None:
        """Pages that are known, at some places of a request's stream."""
        if self.pool is not None and len(pages):
            self.pool.share(request_index, pages, first)
            self._update_room()

    def copy_shared(self, request_index: int, place: int) -> bool:
        """Give a request a copy of a shared page, to write behind what it holds; False where there is no page."""
        assert self.pool is not None
        shared = self.pool.own(request_index, place)
        if shared != WASTE:
            self.refresh_table()
            program = self.copy_program(shared, int(self.pool.table_RM[request_index, place]))
            self.valid = False
            self.kv = self.programs.run(program)
            self.valid = True
        return shared != WASTE

    def release(self, request_index: int) -> None:
        """A request has left: the one point where its pages become free."""
        self.used_R[request_index] = 0
        if self.pool is not None:
            self.pool.release(request_index)
            self._update_room()

    def refresh_table(self) -> None:
        """Give the model the page table as it is now."""
        if self.pool is not None:
            self.kv, self.table_stale = self.model.with_table(self.kv, self.pool.table_RM.copy()), False

    def preempt(self, request_index: int) -> Preempted:
        """Take a request off the device; its pages are still its own."""
        assert self.pool is not None
        self.refresh_table()
        used = int(self.used_R[request_index])
        groups_GM = in_groups(self.pool.owned(request_index)[: self.pool.count_for(used)])
        content = [jax.device_get(self.programs.run(self.read_program(pages_M))) for pages_M in groups_GM]
        program = self.preempt_program(request_index)
        self.valid = False
        self.state, state = self.programs.run(program)
        state, self.valid = jax.device_get(state), True
        return Preempted(state, content, used)

    def resume(self, request_index: int, preempted: Preempted) -> None:
        """Put a preempted request back, under an index that has the pages for it."""
        assert self.pool is not None
        self.refresh_table()
        groups_GM = in_groups(self.pool.owned(request_index)[: self.pool.count_for(preempted.used)])
        for pages_M, content in zip(groups_GM, preempted.content, strict=True):
            program = self.write_program(pages_M, content)
            self.valid = False
            self.kv = self.programs.run(program)
            self.valid = True
        self.change_state(self.resume_program(request_index, preempted.state))
        self.used_R[request_index] = preempted.used

    def read_program(self, pages_M: Int32[np.ndarray, "M"]) -> Program:
        """What is in some pages."""
        return Program(pc.ReadPagesKey(self.sizes), self.model.read_pages, (self.kv, pages_M))

    def write_program(self, pages_M: Int32[np.ndarray, "M"], content: Any) -> Program:
        """The arrays with this in some pages."""
        return Program(pc.WritePagesKey(self.sizes), self.model.write_pages, (self.kv, pages_M, content), (0,))

    def copy_program(self, source: int, target: int) -> Program:
        """The arrays with the content of a page in another."""
        copy = functools.partial(copy_page, self.model)
        return Program(pc.CopyPageKey(self.sizes), copy, (self.kv, np.int32(source), np.int32(target)), (0,))

    def preempt_program(self, request_index: int) -> Program:
        """The state without a request, and the request's part of it."""
        arguments = self.state, np.int32(request_index)
        return Program(pc.PreemptKey(self.sizes), state_ops.preempt, arguments, (0,))

    def resume_program(self, request_index: int, state: State) -> Program:
        """Its inverse."""
        arguments = self.state, np.int32(request_index), state
        return Program(pc.ResumeKey(self.sizes), state_ops.resume, arguments, (0,))

    def evict_program(self, request_index: int) -> Program:
        """The state without a request."""
        return Program(pc.EvictKey(self.sizes), state_ops.evict, (self.state, np.int32(request_index)), (0,))

    def programs_ahead(self) -> list[Program]:
        """All programs above that may be needed; the arrays must be there."""
        found = [self.evict_program(0)]
        if self.pool is None:
            return found
        self.refresh_table()
        found.append(self.copy_program(WASTE, WASTE))
        if self.pool.free < self.pool.table_RM.size:  # They may run out.
            pages_M = np.full(GROUP, WASTE, np.int32)
            content = jax.eval_shape(self.model.read_pages, self.kv, pages_M)
            state = jax.eval_shape(state_ops.preempt, self.state, np.int32(0))[1]
            content, state = (
                jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), each) for each in (content, state)
            )
            found += [self.read_program(pages_M), self.write_program(pages_M, content)]
            found += [self.preempt_program(0), self.resume_program(0, state)]
        return found

    def evict(self, request_index: int) -> None:
        """Take a request out of the state; nothing of it is kept."""
        self.change_state(self.evict_program(request_index))

    def change_state(self, program: Program) -> None:
        """Put the state through a program that takes it over."""
        compiled = self.programs.compile(program)
        self.valid = False
        self.state = compiled(*program.arguments)
        self.valid = True

    def _update_room(self) -> None:
        if self.pool is None:
            self.room_R: Int32[np.ndarray, "R"] = np.full(self.sizes.requests, self.sizes.slots, np.int32)
        else:
            self.room_R = self.pool.room_R()
        self.table_stale = self.pool is not None


def in_groups(pages: np.ndarray) -> np.ndarray:
    """Pages [G, GROUP], the last group filled up with `WASTE`."""
    return np.pad(pages, (0, -len(pages) % GROUP), constant_values=WASTE).reshape(-1, GROUP)


def copy_page(model: Any, kv: KVArrays, source: Any, target: Any) -> KVArrays:
    """The arrays of a `PagedStepModel` with the content of a page in another."""
    return model.write_pages(kv, target[None], model.read_pages(kv, source[None]))
