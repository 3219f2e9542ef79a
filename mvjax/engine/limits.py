"""What a caller may set: limits of a request, how it samples, and the sizes of the engine."""

from __future__ import annotations

import dataclasses
from typing import Literal

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

    def validate(self, max_paths: int, max_depth: int) -> Limits:
        """These limits, or UserError when they cannot be kept by an engine of that size."""
        if self.max_new_tokens <= RESERVE:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; give more than {RESERVE}, kept for closing")
        if self.max_positions is not None and self.max_positions <= RESERVE:
            raise UserError(f"max_positions is {self.max_positions}; give more than {RESERVE}, kept for closing")
        if self.max_path_tokens is not None and self.max_path_tokens < 1:
            raise UserError(f"max_path_tokens is {self.max_path_tokens}; give 1 or more, or None for no limit")
        if not 1 <= self.max_paths <= max_paths:
            raise UserError(f"max_paths is {self.max_paths}; give 1 to {max_paths} (EngineConfig.max_paths)")
        if not 0 <= self.max_depth <= max_depth:
            raise UserError(f"max_depth is {self.max_depth}; give 0 to {max_depth} (EngineConfig.max_depth)")
        if self.max_new_tokens >= UNLIMITED:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; give less than {UNLIMITED}")
        return self


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Order: temperature, top-k, top-p of what is left (as in the usual samplers)."""

    temperature: float = 0.0
    """0: the most probable token (lowest id on ties)."""
    top_k: int = 0
    """Keep the k most probable tokens, and any that tie with the last of them; 0: all."""
    top_p: float = 1.0
    """Keep the most probable tokens up to this mass, the one that crosses it included; 1: all."""
    seed: int = 0
    """With the prompt and the other settings it fixes the answer, whatever the schedule."""

    def validate(self) -> SamplingParams:
        """These settings, or UserError when one is out of range."""
        if not 0.0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; give 0 (all tokens) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"top_p is {self.top_p}; give more than 0 and at most 1 (all tokens)")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}; give a number from 0 to 2**32 - 1")
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
        if not 1 <= self.max_branches <= 32:
            raise UserError(f"max_branches is {self.max_branches}; give 1 to 32, the bits of a visibility word")
        if self.requests < 1 or self.sync_steps < 1 or self.stream_step < 1 or self.max_depth < 1:
            raise UserError("requests, sync_steps, stream_step and max_depth must be 1 or more")
        if self.pages is not None and self.pages < 1:
            raise UserError(f"pages is {self.pages}; give 1 or more, or None")
        if not 1 <= self.max_paths <= 64:
            raise UserError(f"max_paths is {self.max_paths}; give 1 to 64, the numbers that labels are made of")
        if not self.row_counts or list(self.row_counts) != sorted(set(self.row_counts)) or self.row_counts[0] < 1:
            raise UserError("row_counts must be rising numbers, at least one")
        if not self.prefill_chunks or list(self.prefill_chunks) != sorted(set(self.prefill_chunks)):
            raise UserError("prefill_chunks must be rising sizes, at least one")
