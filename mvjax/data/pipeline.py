"""From a corpus to batches: an endless Grain dataset whose position is two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain

from mvjax.data.corpus import Corpus
from mvjax.data.packing import Batch, to_batch
from mvjax.data.schedule import BatchFacts, PipelineConfig, Position, schedule_of

AHEAD = 2
"""Batches that are made ahead of the one asked for."""


class PackedBatches(grain.IterDataset[tuple[Batch, BatchFacts]]):
    """An endless dataset of batches, or of some of their rows, each with the facts of the whole batch."""

    def __init__(
        self,
        corpus: Corpus,
        config: PipelineConfig,
        repeat: Sequence[int] | None = None,
        rows: Sequence[int] | slice | None = None,
    ):
        """See `batches`."""
        super().__init__()
        self.corpus, self.config = corpus, config
        self.schedule = schedule_of(corpus.index, config, repeat)
        numbers = range(config.rows)
        self.rows = tuple(numbers[rows] if isinstance(rows, slice) else numbers if rows is None else rows)
        """Numbers of the rows that a batch is made of here."""
        if not set(self.rows) <= set(numbers):
            raise ValueError(f"rows {self.rows} are not all among the {config.rows} of a batch")

    def batches_in(self, passes: int) -> int:
        """Batches that hold all documents of the first passes (the last one may go on into the next pass)."""
        return self.schedule.batches_in(passes)

    def batch_at(self, position: Position) -> tuple[Batch, BatchFacts, Position]:
        """The batch at a position (of it the rows that are wanted here), its facts, and the position of the next."""
        rows, following = self.schedule.take(position)
        own = [rows[number] for number in self.rows]
        examples = iter(self.corpus.examples([document for row in own for document in row]))
        examples = [[next(examples) for _ in row] for row in own]
        batch = to_batch(examples, self.config.row_length, self.config.levels, self.corpus.store.pad_id)
        return batch, self.schedule.facts(rows), following

    def __iter__(self) -> PackedIterator:
        return PackedIterator(self)


class PackedIterator(grain.DatasetIterator[tuple[Batch, BatchFacts]]):
    """Walks over the positions."""

    def __init__(self, dataset: PackedBatches):
        super().__init__()
        self._dataset = dataset
        self._position = Position(0, 0)

    def __next__(self) -> tuple[Batch, BatchFacts]:
        self._assert_not_closed()
        batch, facts, self._position = self._dataset.batch_at(self._position)
        return batch, facts

    def get_state(self) -> dict[str, int]:
        return self._position._asdict()

    def set_state(self, state: dict[str, Any]) -> None:
        self._position = Position(int(state["window"]), int(state["row"]))


class BatchIterator:
    """The batches, made ahead in a thread. The position is that of the next batch handed out, however far the thread
    has come."""

    def __init__(self, dataset: PackedBatches, ahead: int = AHEAD):
        self.dataset = dataset
        self.facts: BatchFacts | None = None
        """Of the batch handed out last."""
        self._iterator = iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=ahead))

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch:
        batch, self.facts = next(self._iterator)
        return batch

    def get_state(self) -> dict[str, int]:
        """The position of the next batch."""
        return dict(self._iterator.get_state())

    def set_state(self, state: dict[str, int]) -> None:
        """Go on at a position that `get_state` gave, whatever the number of hosts was then."""
        self._iterator.set_state(dict(state))

    def seek(self, step: int) -> None:
        """Go on with the batch of a step, counted from 0."""
        self.set_state(self.dataset.schedule.position(step)._asdict())

    def close(self) -> None:
        """End the thread."""
        self._iterator.close()


def batches(
    corpus: Corpus,
    config: PipelineConfig,
    repeat: Sequence[int] | None = None,
    rows: Sequence[int] | slice | None = None,
) -> BatchIterator:
    """An endless iterator of batches with `get_state` and `set_state`.

    Args:
      corpus: the encoded records.
      config: how batches are made.
      repeat: how often each usable record comes in a pass (`corpus.repeat`); None: once.
      rows: numbers of the rows of a batch that are wanted here, in the order wanted; None: all. A batch is the same
        however its rows are shared out.
    """
    return BatchIterator(PackedBatches(corpus, config, repeat, rows))
