"""What a caller may set: limits of a request, and the sizes of the engine."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mvjax.engine.checks import check_integer, shown
from mvjax.errors import UserError
from mvjax.language.grammar import RESERVE

Mode = Literal["parallel", "sequential", "autoregressive"]
UNLIMITED = 2**30


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one request. None depends on the order in which branches run: a schedule cannot change an answer."""

    max_new_tokens: int = 1024
    """Tokens in all branches together, written ones included. The root's share; a fork divides what is left of it."""
    max_positions: int | None = None
    """Length of the critical path (last position - last prompt position); None: max_new_tokens."""
    max_path_tokens: int | None = None
    """Tokens of a path, its head and its nested paths included; None: only its share of the total limits it."""
    max_paths: int = 16
    """Outlines, and so paths, of a block."""
    max_depth: int = 3
    """Nesting levels of blocks; 0: no block may open."""
    min_block_share: int = 64
    """A block may open only while the segment has this many tokens and positions left."""

    def validate(self, max_paths: int, max_depth: int, mode: Mode = "parallel") -> Limits:
        """These limits, or UserError when one is of a wrong type or cannot be kept by an engine of that size."""
        # Where nothing can be open, nothing is reserved for closing it.
        least, why = (1, "") if mode == "autoregressive" else (RESERVE + 1, f" ({RESERVE} are kept for closing)")
        check_integer("max_new_tokens", self.max_new_tokens, least, UNLIMITED - 1, why)
        if self.max_positions is not None:
            check_integer("max_positions", self.max_positions, least, note=f"{why}, or None for max_new_tokens")
        if self.max_path_tokens is not None:
            check_integer("max_path_tokens", self.max_path_tokens, 1, note=", or None for no limit")
        check_integer("max_paths", self.max_paths, 1, max_paths, " (EngineConfig.max_paths)")
        check_integer("max_depth", self.max_depth, 0, max_depth, " (EngineConfig.max_depth)")
        check_integer("min_block_share", self.min_block_share, 0)
        return self


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Sizes that programs are compiled for."""

    requests: int = 4
    """Requests that run at once; more wait in a queue."""
    max_branches: int = 8
    """Branches of one request that run at once, 1 to 32 (the bits of a visibility word)."""
    row_counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Batch sizes that the loop is compiled for, as they are needed; a step runs on the smallest that holds all rows.
    Counts beyond `requests` x `max_branches` are not used; fewer of them compile faster."""
    max_depth: int = 3
    """Largest `Limits.max_depth` that a request may ask for."""
    max_paths: int = 16
    """Largest `Limits.max_paths` that a request may ask for."""
    stream_step: int = 512
    """Slots that a stream grows by."""
    max_slots: int = 32768
    """Slots of a stream at most: a prompt with its new tokens must fit."""
    pages: int | None = None
    """Pages for the streams of all requests, where the model keeps them in pages; None: enough for `requests` streams
    of `max_slots`. With fewer, the youngest request leaves the device when they run out and comes back as it was."""
    sync_steps: int = 32
    """Steps after which the loop reports to the host at the latest: for streaming and cancelling."""
    prefill_chunks: tuple[int, ...] = (16, 64, 256)
    """Static sizes of the chunks in which a prompt is prefilled."""
    prompt_levels: int = 5
    """Interval levels of laid-out prompts (the document, then nesting), for conversations."""

    def __post_init__(self):
        check_integer("requests", self.requests, 1)
        check_integer("max_branches", self.max_branches, 1, 32, ", the bits of a visibility word")
        check_integer("max_depth", self.max_depth, 1)
        check_integer("max_paths", self.max_paths, 1, 64, ", the numbers that labels are made of")
        check_integer("stream_step", self.stream_step, 1)
        check_integer("max_slots", self.max_slots, 1)
        check_integer("sync_steps", self.sync_steps, 1)
        check_integer("prompt_levels", self.prompt_levels, 1)
        if self.pages is not None:
            check_integer("pages", self.pages, 1, note=", or None")
        for name in ("row_counts", "prefill_chunks"):
            sizes = getattr(self, name)
            if not isinstance(sizes, (tuple, list)) or not sizes:
                raise UserError(f"{name} is {shown(sizes)}; give rising sizes, at least one")
            for size in sizes:
                check_integer(f"a size of {name}", size, 1)
            if list(sizes) != sorted(set(sizes)):
                raise UserError(f"{name} is {shown(sizes)}; give rising sizes")
