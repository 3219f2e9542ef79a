"""The records of a store that a run can use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mvjax.data.encode import FORMS, Example
from mvjax.data.records import Fault, check_share
from mvjax.data.schedule import Document, PipelineConfig
from mvjax.data.store import Store
from mvjax.errors import UserError


class Corpus:
    """Records in both forms, within the limits of a run. One that fails in either form is left out of both, so that
    twins trained on the two forms see the same problems. Tokens are read when they are asked for."""

    def __init__(self, store: Store, config: PipelineConfig):
        """Applies the limits.

        Raises:
          UserError: more than `config.max_bad_share` of the records cannot be used, or none of a file.
        """
        self.store = store
        index = store.index
        long_N = index.length_NF.max(1, initial=0) > config.row_length
        deep_N = index.depth_NF.max(1, initial=0) + 1 > config.levels
        self.numbers = np.flatnonzero(~(long_N | deep_N))
        """For each usable record its number in the store."""
        self.index = index.take(self.numbers)
        """Of the usable records."""
        places = {(file, line): reason for file, line, reason in store.faulty}
        for record in np.flatnonzero(long_N | deep_N).tolist():
            place = (int(index.file_N[record]), int(index.line_N[record]))
            places[place] = self._reason(record, config)
        self.faults: list[Fault] = [store.fault(*place, reason) for place, reason in sorted(places.items())]
        """What was left out: malformed, not encodable, too long, nested too deep; in the order of the files."""
        usable = np.bincount(self.index.file_N, minlength=len(store.files)).tolist()
        for number, name in enumerate(store.files):
            if not usable[number]:
                self._complain(
                    name, [store.fault(*place, places[place]) for place in sorted(places) if place[0] == number]
                )
        check_share(self.faults, len(self) + len(self.faults), config.max_bad_share, ", ".join(store.files))

    def _complain(self, name: str, faults: list[Fault]) -> None:
        """A file without a good record: a mistake, whatever share may be bad."""
        if not faults:
            raise UserError(f"{name}: there is no record in it")
        first = faults[0]
        raise UserError(
            f"{name}: none of its {len(faults)} records can be used; the first is {first.name}: {first.reason}"
        )

    def _reason(self, record: int, config: PipelineConfig) -> str:
        index = self.store.index
        for number, form in enumerate(FORMS):
            length = int(index.length_NF[record, number])
            if length > config.row_length:
                return f"{index.name(record)}: {length} tokens in {form} form, more than the row of {config.row_length}"
        depth = int(index.depth_NF[record].max())
        return f"{index.name(record)}: nested {depth} deep; {config.levels} levels hold {config.levels - 1}"

    def __len__(self) -> int:
        return len(self.index)

    def repeat(self, times: Sequence[int]) -> list[int]:
        """How often each usable record comes in a pass, given a number for each file."""
        return np.asarray(times, np.int64)[self.index.file_N].tolist()

    def examples(self, documents: Sequence[Document]) -> list[Example]:
        """Records in one of their forms, laid out."""
        return self.store.examples([(int(self.numbers[record]), form) for record, form in documents])
