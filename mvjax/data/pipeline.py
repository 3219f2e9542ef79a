"""From records to batches: an endless Grain dataset whose position is two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from mvjax.data.curriculum import SHARES, Curriculum
from mvjax.data.encode import Example, Form, encode_tokens, lay_out_example
from mvjax.data.packing import Batch, first_fit_decreasing, to_batch
from mvjax.data.records import Fault, Record, check_share
from mvjax.language import TranscriptError
from mvjax.tokenizers.tokenizer import Tokenizer

FORMS: tuple[Form, ...] = ("multiverse", "autoregressive")


@dataclass(frozen=True)
class PipelineConfig:
    """How batches are made."""

    row_length: int = 2048
    """Tokens in a row. A longer record is left out and counted, in both forms."""
    rows: int = 8
    """Rows in a batch, all processes together."""
    levels: int = 4
    """Interval levels: the document and one for each level of nesting. A deeper record is left out and counted."""
    shares: tuple[float, ...] = SHARES
    """Share of Multiverse-form records in each pass."""
    seed: int = 0
    """Seed of the order."""
    shuffle: bool = True
    """Random order within a pass."""
    window: int = 512
    """Records that are packed together."""
    max_bad_share: float = 0.02
    """Largest share of records that may be left out."""
    process: int = 0
    """Number of this process."""
    processes: int = 1
    """How many processes share the rows of a batch: each gets rows/processes consecutive ones."""


class Corpus:
    """Records, encoded in both forms. One that fails in either form is left out of both, so that twins trained on
    the two forms see the same problems."""

    def __init__(self, records: Sequence[Record], tokenizer: Tokenizer, config: PipelineConfig, where: str = "data"):
        """Encodes everything once.

        Raises:
          UserError: more than `config.max_bad_share` of the records cannot be used.
        """
        self.tables = tokenizer.tables()
        self.pad_id = tokenizer.pad_id
        self.records: list[Record] = []
        self.indices: list[int] = []
        """For each usable record its place in `records` as they were given."""
        self.faults: list[Fault] = []
        self._encoded: list[dict[Form, tuple[np.ndarray, int]]] = []
        for index, record in enumerate(records):
            try:
                encoded = {form: self._encode(tokenizer, record, form, config) for form in FORMS}
            except (TranscriptError, _Unusable) as error:
                self.faults.append(Fault(record.id, str(error)))
            else:
                self.records.append(record)
                self.indices.append(index)
                self._encoded.append(encoded)
        check_share(self.faults, len(records), config.max_bad_share, where)

    def _encode(self, tokenizer: Tokenizer, record: Record, form: Form, config: PipelineConfig):
        tokens, prompt_length = encode_tokens(tokenizer, record, form)
        tokens_T = np.array(tokens, np.int32)
        if len(tokens) > config.row_length:
            raise _Unusable(f"{len(tokens)} tokens in {form} form, more than the row of {config.row_length}")
        depth = lay_out_example(self.tables, tokens_T, prompt_length, record, form).layout.depth
        if depth + 1 > config.levels:
            raise _Unusable(f"nested {depth} deep; {config.levels} levels hold {config.levels - 1}")
        return tokens_T, prompt_length

    def __len__(self) -> int:
        return len(self.records)

    def length(self, index: int) -> int:
        """Tokens of a record in its longer form: the room that it takes in a row."""
        return max(len(tokens_T) for tokens_T, _ in self._encoded[index].values())

    def example(self, index: int, form: Form) -> Example:
        """A record in one form, laid out."""
        return lay_out_example(self.tables, *self._encoded[index][form], self.records[index], form)


class _Unusable(ValueError):
    """A record that does not fit into a row or a batch."""


class PackedBatches(grain.IterDataset[Batch]):
    """An endless dataset of batches.

    Each pass over the records is cut into windows, each window packed by itself and its rows put in random order; a
    batch takes the next rows. So a position is (window, row), and everything before it need not be computed again.

    Rows have room for the longer form of each record: which records a step holds does not depend on the forms, and
    twins that are trained on the two forms see the same problems in the same steps.
    """

    def __init__(self, corpus: Corpus, config: PipelineConfig, repeat: Sequence[int] | None = None):
        """`repeat`: how often each usable record of the corpus comes in a pass; None: once."""
        super().__init__()
        if config.rows % config.processes:
            raise ValueError(f"{config.rows} rows cannot be shared by {config.processes} processes")
        self.corpus, self.config = corpus, config
        self.curriculum = Curriculum(
            len(corpus), config.shares, config.seed, tuple(repeat) if repeat is not None else None, config.shuffle
        )

    @property
    def windows_per_pass(self) -> int:
        """Windows that a pass is cut into."""
        return -(-self.curriculum.length // self.config.window)

    def window_rows(self, window: int) -> list[list[tuple[int, Form]]]:
        """The packed rows of a window: (record, form) of each document. A pure function of its arguments."""
        epoch, place = divmod(window, self.windows_per_pass)
        first = place * self.config.window
        last = min(first + self.config.window, self.curriculum.length)
        draws = [self.curriculum(epoch * self.curriculum.length + step) for step in range(first, last)]
        lengths = [self.corpus.length(draw.index) for draw in draws]
        rows = first_fit_decreasing(lengths, self.config.row_length)
        rng = np.random.Generator(np.random.Philox(key=[(self.config.seed + 1) % 2**64, window]))
        order = rng.permutation(len(rows)) if self.config.shuffle else range(len(rows))
        return [[(draws[step].index, draws[step].form) for step in rows[row]] for row in order]

    def batches_in(self, passes: int) -> int:
        """Batches that hold all rows of the first passes (the last one may go on into the next pass)."""
        rows = sum(len(self.window_rows(window)) for window in range(passes * self.windows_per_pass))
        return -(-rows // self.config.rows)

    def batch(self, rows: Sequence[Sequence[tuple[int, Form]]]) -> Batch:
        """The arrays of this process's part of a batch's rows."""
        share = self.config.rows // self.config.processes
        own = rows[self.config.process * share : (self.config.process + 1) * share]
        examples = [[self.corpus.example(index, form) for index, form in row] for row in own]
        return to_batch(examples, self.config.row_length, self.config.levels, self.corpus.pad_id)

    def __iter__(self) -> BatchIterator:
        return BatchIterator(self)


class BatchIterator(grain.DatasetIterator[Batch]):
    """Walks over the windows; `get_state` and `set_state` make a resumed run see the same batches."""

    def __init__(self, dataset: PackedBatches):
        super().__init__()
        self._dataset = dataset
        self._window, self._row = 0, 0
        self._rows: list[list[tuple[int, Form]]] | None = None

    def __next__(self) -> Batch:
        self._assert_not_closed()
        rows = []
        while len(rows) < self._dataset.config.rows:
            if self._rows is None:
                self._rows = self._dataset.window_rows(self._window)
            taken = self._rows[self._row : self._row + self._dataset.config.rows - len(rows)]
            rows += taken
            self._row += len(taken)
            if self._row >= len(self._rows):
                self._window, self._row, self._rows = self._window + 1, 0, None
        return self._dataset.batch(rows)

    def get_state(self) -> dict[str, Any]:
        """The position of the next batch."""
        return {"window": self._window, "row": self._row}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on at a position that `get_state` gave."""
        self._window, self._row, self._rows = int(state["window"]), int(state["row"]), None


def batches(corpus: Corpus, config: PipelineConfig, repeat: Sequence[int] | None = None) -> BatchIterator:
    """An endless iterator of batches with `get_state` and `set_state`.

    A batch takes a few milliseconds to put together, so nothing is made ahead in threads; where that matters,
    `grain.experimental.ThreadPrefetchIterDataset(PackedBatches(...))` does it and keeps the position right.

    Args:
      corpus: the encoded records.
      config: how batches are made.
      repeat: how often each usable record comes in a pass.
    """
    return iter(PackedBatches(corpus, config, repeat))
