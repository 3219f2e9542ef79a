"""What a caller may set: limits of a request, and the sizes of the engine."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mvjax import settings
from mvjax.language.grammar import RESERVE
from mvjax.settings import setting

Mode = Literal["parallel", "sequential", "autoregressive"]
UNLIMITED = 2**30
SLOTS, MOST_SLOTS = 512, 32768
"""Slots of the shortest and of the longest streams of `stream_slots`."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one request. None depends on the order in which branches run: a schedule cannot change an answer."""

    max_new_tokens: int = setting(1024, at_least=1, at_most=UNLIMITED - 1)
    """Tokens in all branches together, written ones included. The root's share; a fork divides what is left of it."""
    max_positions: int | None = setting(None, at_least=1)
    """Length of the critical path (last position - last prompt position); None: max_new_tokens."""
    max_path_tokens: int | None = setting(None, at_least=1)
    """Tokens of a path, its head and its nested paths included; None: only its share of the total limits it."""
    max_paths: int = setting(16, at_least=1, note="EngineConfig.max_paths")
    """Outlines, and so paths, of a block."""
    max_depth: int = setting(3, at_least=0, note="EngineConfig.max_depth")
    """Nesting levels of blocks; 0: no block may open."""
    min_block_share: int = setting(64, at_least=0)
    """A block may open only while the segment has this many tokens and positions left."""

    def validate(self, max_paths: int, max_depth: int, mode: Mode = "parallel") -> Limits:
        """These limits, or UserError when one is of a wrong type or cannot be kept by an engine of that size."""
        least = {"at_least": RESERVE + 1, "note": f"{RESERVE} are kept for closing"}
        if mode == "autoregressive":  # Nothing can be open, so nothing is reserved for closing it.
            least = {}
        bounds = {"max_new_tokens": least, "max_positions": least}
        bounds |= {"max_paths": {"at_most": max_paths}, "max_depth": {"at_most": max_depth}}
        settings.validate(self, "", bounds)
        return self


def stream_slots(need: int) -> int:
    """Slots of a stream that holds this number of them: one of few sizes, so that compiled programs are found again,
    and no more than `EngineConfig.max_slots` by default."""
    slots = SLOTS
    while slots < min(need, MOST_SLOTS):
        slots = max(slots + SLOTS, slots * 3 // 2 // SLOTS * SLOTS)
    return min(slots, MOST_SLOTS)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Sizes that programs are compiled for."""

    requests: int = setting(4, at_least=1)
    """Requests that run at once; more wait in a queue."""
    max_branches: int = setting(8, at_least=1, at_most=32, note="the bits of a visibility word")
    """Branches of one request that run at once, 1 to 32 (the bits of a visibility word)."""
    row_counts: tuple[int, ...] = setting((1, 4, 16, 32, 64, 256), at_least=1)
    """Batch sizes that the loop is compiled for; a step runs on the smallest that holds all rows. The last one that is
    used is `requests` x `max_branches`, which holds all there can be. Fewer of them compile faster, and some cost
    nothing: the weights are read once a step, and products with 2 rows take as long as with 4."""
    max_depth: int = setting(3, at_least=1)
    """Largest `Limits.max_depth` that a request may ask for."""
    max_paths: int = setting(16, at_least=1, at_most=64, note="labels are made of their numbers")
    """Largest `Limits.max_paths` that a request may ask for."""
    max_slots: int = setting(MOST_SLOTS, at_least=1)
    """Slots of a stream at most: a prompt with its new tokens must fit."""
    pages: int | None = setting(None, at_least=1)
    """Pages for the streams of all requests, where the model keeps them in pages; None: as many as `memory` has room
    for. Where they run out, the youngest request leaves the device and comes back as it was."""
    memory: float = setting(0.9, above=0, at_most=1)
    """Share of a device's memory that weights and pages may take together. On CPUs: of the memory that is free on the
    host, for pages, of which there are no more than `requests` streams of `max_slots` have use for, and no more than
    2 GiB."""
    share_pages: bool = setting(True)
    """Where streams lie in pages: prompts that begin alike share them, and a conversation's next turn goes on in the
    pages of the one before."""
    sync_steps: int = setting(32, at_least=1)
    """Steps after which the loop reports to the host at the latest: for cancelling, and for requests that wait."""
    stream_steps: int = setting(8, at_least=1)
    """The same while somebody listens (`on_tokens`), where it is less."""
    prefill_chunks: tuple[int, ...] = setting((64, 256), at_least=1)
    """Tokens of a call that prefills prompts, of one or of several requests. While requests run, a call has the
    smallest of these sizes that keeps them waiting for no more than a few steps."""
    logprobs: int | None = setting(None, at_least=0, at_most=20)
    """Keep the log-probability of every sampled token and of this number of the model's top alternatives, see
    `Result.logprobs`; None: none are computed."""
    max_queue: int | None = setting(None, at_least=1)
    """Requests that may wait at a time; `Engine.submit` refuses more of them. None: any number."""
    prompt_levels: int = setting(5, at_least=1)
    """Interval levels of laid-out prompts (the document, then nesting), for conversations."""

    def __post_init__(self):
        settings.validate(self, "")

    def conflict(self) -> str:
        """What is wrong with the order of sizes; empty: nothing."""
        for name in ("row_counts", "prefill_chunks"):
            sizes = getattr(self, name)
            if not sizes or list(sizes) != sorted(set(sizes)):
                return f"{name} = {sizes} must be rising sizes, at least one"
        return ""
