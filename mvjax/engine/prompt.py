"""A prompt as the engine takes it: token ids, and for conversations the layout of the earlier turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mvjax.engine.limits import UNLIMITED
from mvjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Token ids with their layout. A plain prompt (no arrays) is text: positions 0, 1, ...; nothing is hidden.

    Prompts are never scanned for tags. Earlier turns that are transcripts keep the layout that `mvjax.language` gives.
    """

    tokens: Sequence[int]
    """Token ids; the last one is the first that the engine feeds step by step."""
    positions: np.ndarray | None = None
    """Rotary position of each token, int[T]; None: 0, 1, ... The last token's is the largest."""
    hide_start: np.ndarray | None = None
    """Half-open intervals of rows, int[E, T], from which each token is hidden; None: none."""
    hide_end: np.ndarray | None = None

    @property
    def laid_out(self) -> bool:
        """Whether the prompt brings intervals."""
        return self.hide_start is not None and len(self.hide_start) > 0

    @property
    def last_position(self) -> int:
        """Position of the last token."""
        return len(self.tokens) - 1 if self.positions is None else int(self.positions[-1])

    def validate(self, name: str, vocab_size: int, levels: int) -> Prompt:
        """This prompt, or UserError when the engine cannot take it."""
        count = len(self.tokens)
        if not count:
            raise UserError(f"{name} is empty; give at least one token")
        tokens = np.asarray(self.tokens)
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise UserError(f"{name} must be a list of token ids")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            wrong = int(tokens.min() if tokens.min() < 0 else tokens.max())
            raise UserError(f"{name} holds token {wrong}; the model's vocabulary has {vocab_size} tokens")
        if self.positions is not None:
            positions = np.asarray(self.positions)
            if positions.shape != (count,) or positions.min() < 0:
                raise UserError(f"{name} has {count} tokens but positions of shape {positions.shape}")
            if not np.issubdtype(positions.dtype, np.integer) or positions.max() > UNLIMITED - 2:
                raise UserError(f"{name}: positions must be whole numbers up to {UNLIMITED - 2}")
            if count > 1 and positions[-1] <= positions[:-1].max():
                raise UserError(f"{name} ends inside a block (its last position is not the largest); close it first")
        if (self.hide_start is None) != (self.hide_end is None):
            raise UserError(f"{name} has only one of hide_start and hide_end; give both or none")
        if self.laid_out:
            start, end = np.asarray(self.hide_start), np.asarray(self.hide_end)
            if start.shape != end.shape or start.shape[1:] != (count,):
                raise UserError(f"{name} has {count} tokens but intervals of shapes {start.shape} and {end.shape}")
            if len(start) > levels:
                raise UserError(
                    f"{name} nests {len(start)} levels deep; the engine takes {levels} (EngineConfig.prompt_levels)"
                )
            for interval in (start, end):
                if not np.issubdtype(interval.dtype, np.integer) or interval.min(initial=0) < 0:
                    raise UserError(f"{name}: hide_start and hide_end must be whole numbers, 0 or more")
            if (end[start < end] > count).any():
                raise UserError(f"{name} ends inside a block; close it before the model goes on")
        return self

    def position_array(self) -> Int[np.ndarray, "T"]:
        """Positions of all tokens."""
        if self.positions is None:
            return np.arange(len(self.tokens), dtype=np.int32)
        return np.asarray(self.positions, np.int32)

    def hidden(self, levels: int, slots: int) -> tuple[Int[np.ndarray, "E S"], Int[np.ndarray, "E S"]]:
        """Intervals over the slots of a stream, `levels` of them."""
        start_ES, end_ES = np.zeros((2, levels, slots), np.int32)
        if self.hide_start is not None and self.hide_end is not None:
            depth, count = np.shape(self.hide_start)
            start_ES[:depth, :count] = self.hide_start
            end_ES[:depth, :count] = self.hide_end
        return start_ES, end_ES
