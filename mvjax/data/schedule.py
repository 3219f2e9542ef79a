"""Which documents are in which row of which batch: a pure function of seed and position, from the index alone.

Each pass over the records is cut into windows of equally many records, each window packed by itself and its rows put
in random order; a batch takes the next rows. So a position is (window, row), and everything before it need not be
computed again. How many hosts share the rows of a batch plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from mvjax.data.curriculum import SHARES, Curriculum
from mvjax.data.encode import FORMS, Form
from mvjax.data.packing import pack
from mvjax.data.store import Index


@dataclass(frozen=True)
class PipelineConfig:
    """How batches are made."""

    row_length: int = 2048
    """Tokens in a row. A longer record is left out and counted, in both forms."""
    rows: int = 8
    """Rows in a batch, all hosts together."""
    levels: int = 4
    """Interval levels: the document and one for each level of nesting. A deeper record is left out and counted."""
    shares: tuple[float, ...] = SHARES
    """Share of Multiverse-form records in each pass."""
    seed: int = 0
    """Seed of the order."""
    shuffle: bool = True
    """Random order within a pass."""
    window: int = 1024
    """Rows that are packed together, about. The more, the fuller they are; without `shuffle`, the fewer, the nearer
    they keep to the order given."""
    equal_records: bool = False
    """Rows have room for the longer form of each record, so that which records a step holds does not depend on the
    forms: twins that are trained on the two forms see the same problems in the same steps. Rows are less full."""
    max_bad_share: float = 0.02
    """Largest share of records that may be left out."""


class Document(NamedTuple):
    """A record in one of its forms."""

    record: int
    """Its number in the corpus."""
    form: Form
    """The form it is taught in."""


Rows = list[list[Document]]
"""The documents of each row."""


class Position(NamedTuple):
    """Where a batch begins."""

    window: int
    """Number of the window, counted over all passes."""
    row: int
    """Number of the row in the window."""


@dataclass(frozen=True)
class BatchFacts:
    """What is known of a batch, the rows of all hosts together, without reading its tokens."""

    rows: Rows
    """Its documents."""
    tokens: int
    """Tokens that are no padding."""
    efficiency: float
    """Packing efficiency: these tokens over the room in the rows."""
    parallel: float
    """Degree of parallelism of its Multiverse-form documents: new tokens over critical path, both summed; 1.0 where
    there are none (SPEC section 8)."""


class Schedule:
    """The endless sequence of batches, as documents."""

    def __init__(self, index: Index, config: PipelineConfig, repeat: Sequence[int] | None = None):
        """`index`: of the usable records; `repeat`: how often each comes in a pass; None: once."""
        self.index, self.config = index, config
        self.curriculum = Curriculum(
            len(index), config.shares, config.seed, tuple(repeat) if repeat is not None else None, config.shuffle
        )
        self._counts: dict[int, int] = {}

    @cached_property
    def windows_per_pass(self) -> int:
        """Windows that a pass is cut into."""
        records_N, _ = self.curriculum.draws(0)
        tokens = int(self.index.length_NF[records_N].max(1).sum())
        return max(1, min(tokens // (self.config.row_length * self.config.window), self.curriculum.length))

    @cached_property
    def window_rows(self):
        """`window_rows(window)`: the packed rows of a window, in the order in which they are taught."""
        return lru_cache(maxsize=4)(self._window_rows)

    def _window_rows(self, window: int) -> Rows:
        epoch, place = divmod(window, self.windows_per_pass)
        first, last = (self.curriculum.length * (place + i) // self.windows_per_pass for i in range(2))
        records_N, multiverse_N = (array[first:last] for array in self.curriculum.draws(epoch))
        lengths_NF = self.index.length_NF[records_N]
        own_N = lengths_NF[np.arange(len(records_N)), np.where(multiverse_N, 0, 1)]
        rows = pack(lengths_NF.max(1) if self.config.equal_records else own_N, self.config.row_length)
        if self.config.shuffle:
            rng = np.random.Generator(np.random.Philox(key=[(self.config.seed + 1) % 2**64, window]))
            rows = [rows[row] for row in rng.permutation(len(rows))]
        documents = [
            Document(record, FORMS[0] if multiverse else FORMS[1])
            for record, multiverse in zip(records_N.tolist(), multiverse_N.tolist())
        ]
        return [[documents[step] for step in row] for row in rows]

    def count(self, window: int) -> int:
        """Rows of a window."""
        if window not in self._counts:
            self._counts[window] = len(self.window_rows(window))
        return self._counts[window]

    def take(self, position: Position) -> tuple[Rows, Position]:
        """The rows of the batch that begins at a position, and the position of the next."""
        rows: Rows = []
        window, row = position
        while len(rows) < self.config.rows:
            taken = self.window_rows(window)[row : row + self.config.rows - len(rows)]
            rows += taken
            row += len(taken)
            if row >= self.count(window):
                window, row = window + 1, 0
        return rows, Position(window, row)

    def position(self, step: int) -> Position:
        """Where the batch of a step begins, counted from 0. The windows before it are packed again (without reading
        tokens: some 10 ms for 4,000 records), so a position that has been saved is the faster way back."""
        window, row = 0, step * self.config.rows
        while row >= self.count(window):
            row -= self.count(window)
            window += 1
        return Position(window, row)

    def batches_in(self, passes: int) -> int:
        """Batches that hold all rows of the first passes (the last one may go on into the next pass)."""
        rows = sum(self.count(window) for window in range(passes * self.windows_per_pass))
        return -(-rows // self.config.rows)

    def facts(self, rows: Rows) -> BatchFacts:
        """What the index says of a batch's rows."""
        documents = [document for row in rows for document in row]
        records_N = np.array([document.record for document in documents], np.int64)
        forms_N = np.array([FORMS.index(document.form) for document in documents], np.int64)
        tokens = int(self.index.length_NF[records_N, forms_N].sum())
        multiverse_M = records_N[forms_N == 0]
        new_M = self.index.length_NF[multiverse_M, 0] - self.index.prompt_NF[multiverse_M, 0]
        critical = int(self.index.critical_NF[multiverse_M, 0].sum())
        return BatchFacts(
            rows=rows,
            tokens=tokens,
            efficiency=tokens / (len(rows) * self.config.row_length),
            parallel=int(new_M.sum()) / critical if critical else 1.0,
        )
