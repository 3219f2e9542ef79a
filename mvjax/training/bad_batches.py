"""The batch of a step whose loss or gradient was not finite, kept for a look at it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from mvjax.data.packing import Batch
from mvjax.data.schedule import BatchFacts, Document
from mvjax.files import atomic_path
from mvjax.training.metrics import plain


class BadBatches:
    """Writes into DIRECTORY/bad-batches: step-N.json (metrics, and the documents of each row) and, for each process P,
    step-N-process-P.npz (the arrays of `Batch`, and under `rows` the numbers of its rows).

    Args:
        directory: of the run.
        name: what a document is called; None: by the number of its record.
        rows: numbers of the rows that this process has; None: all.
    """

    def __init__(
        self, directory: Path, name: Callable[[Document], str] | None = None, rows: Sequence[int] | None = None
    ):
        self._directory, self._rows = directory / "bad-batches", rows
        self._name = name or (lambda document: f"record {document.record}")

    def save(
        self, step: int, metrics: Mapping[str, float | bool], batch: Batch, facts: BatchFacts | None = None
    ) -> Path:
        """Write the batch of a step; returns the path of the .json file, for the error message.

        All processes call it; each writes its own rows, process 0 the .json file.

        Raises:
            OSError: it cannot be written; nothing is left half-written.
        """
        here = range(len(batch.tokens_BT)) if self._rows is None else self._rows
        arrays = self._directory / f"step-{step}-process-{jax.process_index()}.npz"
        with atomic_path(arrays) as temporary:
            np.savez_compressed(temporary, rows=np.asarray(here, np.int32), **batch._asdict())
        path = self._directory / f"step-{step}.json"
        if jax.process_index() == 0:
            rows = [] if facts is None else facts.rows
            record = {
                "step": step,
                "metrics": {name: plain(value) for name, value in metrics.items()},
                "rows": [[{"name": self._name(document), "form": document.form} for document in row] for row in rows],
                "processes": jax.process_count(),
            }
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def read_bad_batch(path: Path) -> Batch:
    """The rows of one process, from its .npz file."""
    with np.load(path) as arrays:
        return Batch(**{name: arrays[name] for name in Batch._fields})
