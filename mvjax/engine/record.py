"""What the loop has fed of a request, on the host: a row per token in the order of the slots, and log-probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32

from mvjax.engine.logprobs import LogProbs, unpacked
from mvjax.engine.state import WRITTEN_FLAG

FIELDS = 6
"""Fields of a row; behind them stands what `logprobs.packed` keeps of the next token of the segment."""
TOKEN, POSITION, ORIGIN, FLAGS, FORK, PATHS = range(FIELDS)
"""Origin: the segment that made the token. Fork and paths: number of path 1 and count of the paths of the block that
forks at this token; 0: none."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Rows from the prompt's last token on, which is the first that the loop feeds.

    A record is never changed: `extended` gives a longer one, which has the rows of the first in common with it. So a
    request that keeps the newest has either all rows of a stay or none, whenever it is interrupted.
    """

    buffer_NC: Int32[np.ndarray, "N C"] = dataclasses.field(default_factory=lambda: np.zeros((0, FIELDS), np.int32))
    """The rows, and room for more."""
    before_N: Int32[np.ndarray, "N"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    """Row of the token before it in the same segment; -1: none. Kept where the rows hold log-probabilities."""
    length: int = 0
    last: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Last row of each segment, kept alike."""

    def __len__(self) -> int:
        return self.length

    @property
    def rows_TC(self) -> Int32[np.ndarray, "T C"]:
        """The rows, without a copy."""
        return self.buffer_NC[: self.length]

    def extended(self, start: int, rows_TC: Int32[np.ndarray, "T C"]) -> Record:
        """The record with the rows from `start` on; itself where it has them already.

        Raises:
            RuntimeError: rows between are missing.
        """
        end = start + len(rows_TC)
        if end <= self.length:
            return self
        if start != self.length:
            raise RuntimeError(f"rows {start} to {end} of a request do not follow the {self.length} that are known")
        buffer_NC, before_N = self.buffer_NC, self.before_N
        if end > len(buffer_NC):
            room = max(end, 2 * len(buffer_NC), 64)
            buffer_NC, before_N = np.zeros((room, rows_TC.shape[1]), np.int32), np.zeros(room, np.int32)
            if self.length:
                buffer_NC[: self.length], before_N[: self.length] = self.rows_TC, self.before_N[: self.length]
        buffer_NC[start:end] = rows_TC
        if rows_TC.shape[1] == FIELDS:
            return Record(buffer_NC, before_N, end)
        last = dict(self.last)
        for row, origin in enumerate(rows_TC[:, ORIGIN].tolist(), start):
            before_N[row] = last.get(origin, -1)
            last[origin] = row
        return Record(buffer_NC, before_N, end, last)

    def logprobs(self, start: int) -> LogProbs | None:
        """Those of the tokens from row `start` on: they stand in the rows before them in their segments. None where the
        loop keeps none."""
        if self.buffer_NC.shape[1] == FIELDS:
            return None
        before_T = self.before_N[start : self.length]
        sampled_T = (self.rows_TC[start:, FLAGS] & WRITTEN_FLAG == 0) & (before_T >= 0)
        return unpacked(self.buffer_NC[before_T, FIELDS:], sampled_T)
