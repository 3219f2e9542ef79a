"""What the engine asks of a model: prefill a prompt, decode a compact batch of rows over the requests' streams."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

KVArrays = Any
"""What the model keeps per request and slot (keys and values, as a rule): a pytree whose arrays grow with requests
and slots."""


class RowPlacement(NamedTuple):
    """Where the rows of one decode step stand. A lane is a row's bit in its request's visibility words.

    The lanes of a request are compact (0, 1, ... without a gap), so the slots that it writes in a step are too.
    """

    request_W: Int[Array, "W"]
    """Request of each row."""
    lane_W: Int[Array, "W"]
    """Lane of each row in its request."""
    row_RL: Int[Array, "R Lanes"]
    """Row of each lane of each request; W or more where there is none."""
    start_R: Int[Array, "R"]
    """First slot that the request writes in this step: lane l writes slot start_R[r] + l. Slots from there to
    start_R[r] + Lanes are free, so a model may write all lanes at once and leave anything in the unused ones."""
    active_W: Bool[Array, "W"]
    """Rows that hold a token; the others' logits are not read."""


@runtime_checkable
class StepModel(Protocol):
    """A decoder seen step by step. Pure functions: the engine calls them inside its own jit-compiled programs.

    A model may have an attribute `arithmetic`, a hashable value: two models with equal ones compute the same from the
    same arguments. Engines of such models share their compiled programs.
    Another is `replicated`, the sharding of what the engine keeps beside the model's arrays: a copy on each of the
    model's devices. Without it that lies on JAX's default device.
    """

    vocab_size: int
    """Width of the logits."""

    def init_kv(self, requests: int, slots: int) -> KVArrays:
        """Empty arrays for `requests` KV streams of `slots` slots each."""
        ...

    def prefill(
        self,
        params: Any,
        kv: KVArrays,
        tokens_BT: Int[Array, "B T"],
        positions_BT: Int[Array, "B T"],
        hide_start_BES: Int[Array, "B E S"],
        hide_end_BES: Int[Array, "B E S"],
        request_B: Int[Array, "B"],
        offset_B: Int[Array, "B"],
        length_B: Int[Array, "B"],
    ) -> KVArrays:
        """Put a chunk of each of several prompts into slots offset .. offset + length of its request.

        B and T are static. Tokens from `length` on are padding and may be written too (the slots are free); a chunk of
        length 0 is a blank, which writes nothing to any slot. A token sees its request's slots up to its own, except
        those whose hidden interval (rows are slots) holds its slot; E may be 0, for prompts of which nothing is hidden.
        Several chunks may be of one request if they follow each other in order and all but the last are full.
        """
        ...

    def decode(
        self,
        params: Any,
        kv: KVArrays,
        tokens_W: Int[Array, "W"],
        positions_W: Int[Array, "W"],
        rows: RowPlacement,
        visibility_RS: UInt[Array, "R S"],
    ) -> tuple[Float[Array, "W V"], KVArrays]:
        """Feed one token per row. Bit l of visibility_RS[r, s]: lane l of request r sees slot s (this step's
        slots included)."""
        ...


@runtime_checkable
class PagedStepModel(StepModel, Protocol):
    """A step model whose KV streams may lie in pages. `page_size` None: it wants contiguous ones, see `init_kv`.

    `prefill` and `decode` then get arrays that `with_table` has given the page table, int32[R, M]: slot s of request r
    is slot s % page_size of page table[r, s // page_size]. The table names pages for all slots that may be written.
    """

    page_size: int | None
    """Slots of a page."""

    def init_pages(self, pages: int) -> KVArrays:
        """Empty pages, with no table yet."""
        ...

    def with_table(self, kv: KVArrays, table_RM: Int[Array | np.ndarray, "R M"]) -> KVArrays:
        """The same pages under a table."""
        ...

    def read_pages(self, kv: KVArrays, pages_M: Int[Array, "M"]) -> Any:
        """What these pages hold: a pytree whose leaves have M as their first dimension."""
        ...

    def write_pages(self, kv: KVArrays, pages_M: Int[Array, "M"], content: Any) -> KVArrays:
        """The arrays with this content in these pages. A page that is named more than once may hold any of it."""
        ...
