"""`mvjax curate export`: from a store to files for `mvjax train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mvjax.cli.curate_output import check_files, write, write_rejected
from mvjax.errors import UserError
from mvjax.hub.cache import Cached


@dataclass(frozen=True)
class Export(Cached):
    """Write a store's accepted records, exact duplicates once; a run may be working on the store meanwhile."""

    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """The store."""
    output: Path
    """Where the records go (JSON lines); of records.jsonl, the test part goes to records.test.jsonl."""
    sequential: bool = True
    """Write sequential records too."""
    shuffle: int | None = None
    """Mix the records up by this seed; otherwise they come in the order of the input."""
    test_share: float = 0.0
    """Share of the problems that goes to a test part. A problem's part depends on its question only."""
    exclude: tuple[Path, ...] = ()
    """Benchmark files (JSON lines): records of their questions are left out and counted."""
    rejected: Path | None = None
    """Write the rejected problems here, one line each: name and reason."""
    tokenizer: Path | None = None
    """Measure lengths in this tokenizer's tokens instead of words."""
    json: bool = False
    """Print the statistics as JSON."""


def run(command: Export) -> int:
    """Write the records, print what they are like."""
    from mvjax.curator.store import Store
    from mvjax.curator.store.export import Selection, questions_of

    if not 0 <= command.test_share < 1:
        raise UserError(f"--test-share {command.test_share}: must be 0 or more and less than 1")
    check_files(command.output, command.exclude, command.store)
    questions = frozenset(question for path in command.exclude for question in questions_of(path))
    selection = Selection(command.sequential, command.shuffle, command.test_share, questions)
    with Store.read(command.store) as store:
        if command.rejected is not None:
            write_rejected(store, command.rejected)
        write(store, command.output, selection, command.tokenizer, command.json)
    return 0
