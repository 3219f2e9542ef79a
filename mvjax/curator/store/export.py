"""From a store to files for `mvjax train`: order, duplicates, benchmark problems, a test part of other problems."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mvjax.curator.store import Store
from mvjax.curator.store.counts import count
from mvjax.curator.text import dedup
from mvjax.data.records import Record, write_records
from mvjax.errors import UserError


@dataclass(frozen=True)
class Selection:
    """Which accepted records leave the store, and in what order."""

    sequential: bool = True
    """Those with nothing parallel too."""
    shuffle: int | None = None
    """Mix them up by this seed; None: input order."""
    test_share: float = 0.0
    """Share of the problems that belongs to the test part. A problem's part depends on its question only, so adding
    records moves none, and all records of a problem are in one part."""
    exclude: frozenset[bytes] = frozenset()
    """Questions of benchmarks, as `questions_of` gives them: no record of them leaves the store."""


@dataclass
class Exported:
    """What left the store."""

    train: int = 0
    test: int = 0
    left_out: dict[str, int] = field(default_factory=lambda: {"benchmark problem": 0, "duplicate record": 0})
    """Accepted records that did not, by reason."""


def path_of_test_part(output: Path) -> Path:
    """Where the test part goes: beside `records.jsonl` it is `records.test.jsonl`."""
    return output.with_name(f"{output.stem}.test{output.suffix}")


def export(store: Store, output: Path, selection: Selection) -> Exported:
    """Write the selected records; the test part, where there is one, to `path_of_test_part(output)`.

    Raises:
      UserError: nothing is left for the training part.
    """
    exported = Exported()
    exported.train = write_records(output, _some(records(store, selection, "train", exported), output, store))
    if selection.test_share:
        exported.test = write_records(path_of_test_part(output), records(store, selection, "test", exported))
    return exported


def records(store: Store, selection: Selection, part: str, exported: Exported | None = None) -> Iterator[Record]:
    """Selected records of a part, `train` or `test`; what is left out on the way is counted in `exported`."""
    left_out = Exported().left_out if exported is None else exported.left_out
    seen = _Seen()
    order = None if selection.shuffle is None else str(selection.shuffle)
    for problem, outcome in store.outcomes(order):
        record = outcome.record
        if record is None or not (selection.sequential or outcome.state == "parallel"):
            continue
        if (dedup.share(problem.question, "test") < selection.test_share) != (part == "test"):
            continue
        if dedup.digest(problem.question) in selection.exclude:
            left_out["benchmark problem"] += 1
        elif not seen.adds(dedup.digest(problem.question, record.response)):
            left_out["duplicate record"] += 1
        else:
            yield record


def questions_of(path: Path) -> frozenset[bytes]:
    """Questions of a benchmark's file (JSON Lines: curated records, question/answer or problem/answer lines).

    Raises:
      UserError: the file cannot be read, or holds anything else.
    """
    from mvjax.evaluation.problems import read_problems

    try:
        problems = read_problems(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return frozenset(dedup.digest(problem.messages[-1]["content"]) for problem in problems)


def _some(records: Iterator[Record], output: Path, store: Store) -> Iterator[Record]:
    """The records; UserError where there is none."""
    first = next(records, None)
    if first is None:
        reasons = ", ".join(f"{reason} {number}" for reason, number in count(store).reasons.items()) or "none rejected"
        raise UserError(f"{output}: there is no record to write ({reasons}); `mvjax curate status` says more")
    yield first
    yield from records


class _Seen:
    """A set that grows on the disk, not in memory."""

    def __init__(self):
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("PRAGMA synchronous = OFF")

    def adds(self, key: bytes) -> bool:
        """Add a key; whether it is new."""
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1
