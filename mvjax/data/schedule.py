"""Which documents are in which row of which batch: a pure function of seed and position, from the index alone.

There are two ways to fill a batch, both independent of the number of hosts that share its rows:

- `RowSchedule`: as full as possible. Each pass over the records is cut into windows of equally many records, each
  window packed by itself and its rows put in random order; a batch takes the next rows. How many transcripts and tokens
  a step has varies a little. A position is (window, row).
- `DocumentSchedule`: a set number of transcripts a step, or at most a set number of tokens. A batch takes the next
  documents in the order of the curriculum, over the end of a pass into the next one, and spreads them over its rows. A
  position is (pass, place in the pass).

Compiled programs have fixed shapes, so the number of rows is fixed in both. With a set number of transcripts the rows
that these need vary, and what is left over is padding: rows must be enough for the fullest step of the run, which
`check` looks up in the index before anything is compiled. It is not the sixteen longest transcripts that must fit, but
each sixteen that come together. (A varying number of micro-batches would save the padding and cost a program for each
number, and steps whose time nobody can foretell.)
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from mvjax.data.curriculum import SHARES, Curriculum
from mvjax.data.encode import FORMS, Form
from mvjax.data.packing import pack, spread
from mvjax.data.store import Index
from mvjax.errors import UserError
from mvjax.language import INT32_MAX


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
    transcripts: int = 0
    """Documents in a batch; 0: as many as its rows hold."""
    tokens: int = 0
    """Tokens in a batch at most, padding left out (a longer document is a batch of its own); 0: as many as its rows
    hold."""


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
    """Number of the window, counted over all passes; where batches are counted in documents, number of the pass."""
    row: int
    """Number of the row in the window; of the document in the pass."""


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


class Schedule(abc.ABC):
    """The endless sequence of batches, as documents."""

    def __init__(self, index: Index, config: PipelineConfig, repeat: Sequence[int] | None = None):
        """`index`: of the usable records; `repeat`: how often each comes in a pass; None: once."""
        self.index, self.config = index, config
        self.curriculum = Curriculum(
            len(index), config.shares, config.seed, tuple(repeat) if repeat is not None else None, config.shuffle
        )

    @abc.abstractmethod
    def take(self, position: Position) -> tuple[Rows, Position]:
        """The rows of the batch that begins at a position, and the position of the next."""

    @abc.abstractmethod
    def position(self, step: int) -> Position:
        """Where the batch of a step begins, counted from 0."""

    @abc.abstractmethod
    def batches_in(self, passes: int) -> int:
        """Batches that hold all documents of the first passes (the last one may go on into the next pass)."""

    @abc.abstractmethod
    def check(self, steps: int) -> None:
        """UserError where a batch of the first steps does not fit into its rows."""

    def lengths(self, records_N: np.ndarray, multiverse_N: np.ndarray) -> np.ndarray:
        """Room that documents take: their own tokens, or with `equal_records` those of their records' longer form."""
        lengths_NF = self.index.length_NF[records_N]
        if self.config.equal_records:
            return lengths_NF.max(1)
        return lengths_NF[np.arange(len(records_N)), np.where(multiverse_N, 0, 1)]

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


def schedule_of(index: Index, config: PipelineConfig, repeat: Sequence[int] | None = None) -> Schedule:
    """The schedule that a configuration asks for."""
    kind = DocumentSchedule if config.transcripts or config.tokens else RowSchedule
    return kind(index, config, repeat)


def as_documents(records_N: np.ndarray, multiverse_N: np.ndarray) -> list[Document]:
    """Draws of a curriculum as documents."""
    pairs = zip(records_N.tolist(), multiverse_N.tolist())
    return [Document(record, FORMS[0] if multiverse else FORMS[1]) for record, multiverse in pairs]


class RowSchedule(Schedule):
    """Batches of full rows."""

    def __init__(self, index: Index, config: PipelineConfig, repeat: Sequence[int] | None = None):
        super().__init__(index, config, repeat)
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
        rows = pack(self.lengths(records_N, multiverse_N), self.config.row_length)
        if self.config.shuffle:
            rng = np.random.Generator(np.random.Philox(key=[(self.config.seed + 1) % 2**64, window]))
            rows = [rows[row] for row in rng.permutation(len(rows))]
        documents = as_documents(records_N, multiverse_N)
        return [[documents[step] for step in row] for row in rows]

    def count(self, window: int) -> int:
        """Rows of a window."""
        if window not in self._counts:
            self._counts[window] = len(self.window_rows(window))
        return self._counts[window]

    def take(self, position: Position) -> tuple[Rows, Position]:
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
        return -(-self.rows_in(passes) // self.config.rows)

    def rows_in(self, passes: int) -> int:
        """Rows that hold all documents of the first passes, and no other."""
        return sum(self.count(window) for window in range(passes * self.windows_per_pass))

    def check(self, steps: int) -> None:
        """Rows are filled as far as they go: there is nothing that does not fit."""


LOOK = 4096
"""Documents that are looked at together."""


class DocumentSchedule(Schedule):
    """Batches of a set number of documents, or of at most a set number of tokens."""

    def take(self, position: Position) -> tuple[Rows, Position]:
        drawn, following = self._drawn(position)
        documents = [document for part in drawn for document in as_documents(*part)]
        rows = spread(self._lengths_of(drawn), self.config.row_length, self.config.rows)
        return [[documents[number] for number in row] for row in rows], following

    def _drawn(self, position: Position) -> tuple[list[tuple[np.ndarray, np.ndarray]], Position]:
        """The draws of a batch, a pair of arrays for each pass that it reaches into, and the position of the next."""
        drawn = []
        epoch, place = position
        wanted, room = self.config.transcripts or INT32_MAX, self.config.tokens or np.inf
        full = False
        while not full:
            end = place + min(wanted, LOOK)
            records_N, multiverse_N = (array[place:end] for array in self.curriculum.draws(epoch))
            ends_N = np.cumsum(self.lengths(records_N, multiverse_N))
            count = int(np.searchsorted(ends_N, room, side="right"))
            if not count and not drawn:
                count = 1
            full = count < len(records_N) or count == wanted
            if count:
                drawn.append((records_N[:count], multiverse_N[:count]))
                wanted, room, place = wanted - count, room - ends_N[count - 1], place + count
            if place == self.curriculum.length:
                epoch, place = epoch + 1, 0
        return drawn, Position(epoch, place)

    def _lengths_of(self, drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return np.concatenate([self.lengths(*part) for part in drawn])

    def position(self, step: int) -> Position:
        """Where the batch of a step begins, counted from 0. With a set number of tokens the batches before it are
        counted again, without reading tokens."""
        if self.config.transcripts:
            return Position(*divmod(step * self.config.transcripts, self.curriculum.length))
        position = Position(0, 0)
        for _ in range(step):
            _, position = self._drawn(position)
        return position

    def batches_in(self, passes: int) -> int:
        if self.config.transcripts:
            return -(-passes * self.curriculum.length // self.config.transcripts)
        steps, position = 0, Position(0, 0)
        while position.window < passes:
            _, position = self._drawn(position)
            steps += 1
        return steps

    def check(self, steps: int) -> None:
        """UserError where a batch of the first steps does not fit into its rows: each is packed here, without reading
        tokens (some 50 ms for 500 steps of 16)."""
        rows, length = self.config.rows, self.config.row_length
        if 0 < self.config.transcripts <= rows:
            return
        position, worst = Position(0, 0), (rows, 0, 0, 0)
        for step in range(1, steps + 1):
            drawn, position = self._drawn(position)
            lengths_N = self._lengths_of(drawn)
            worst = max(worst, (len(spread(lengths_N, length, rows)), -step, len(lengths_N), int(lengths_N.sum())))
        if (needed := worst[0]) > rows:
            raise UserError(
                f"config: data.rows = {rows} of {length:,} tokens are too few for step {-worst[1]}, whose {worst[2]} "
                f"transcripts have {worst[3]:,} tokens and take {needed} rows; set data.rows to {needed} or more"
            )
