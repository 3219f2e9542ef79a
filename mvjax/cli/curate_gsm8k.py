"""`mvjax curate gsm8k`: GSM8K's human solutions as parallel transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from mvjax.cli.curate_output import (
    EXIT_INTERRUPTED,
    check_files,
    check_not_negative,
    report_stopped,
    write,
    write_rejected,
)
from mvjax.hub.cache import Cached


@dataclass(frozen=True)
class Gsm8k(Cached):
    """Turn GSM8K solutions into parallel transcripts: independent steps become paths, the rest stays sequential."""

    input: tyro.conf.Positional[Path]
    """JSON Lines file of {"question", "answer"}, as in openai/grade-school-math."""
    output: Path
    """Where the records go (JSON lines)."""
    limit: int = 0
    """Read only this many problems; 0: all."""
    sequential: bool = True
    """Keep problems without independent steps, as sequential records."""
    tokenizer: Path | None = None
    """Measure lengths in this tokenizer's tokens instead of words."""
    rejected: Path | None = None
    """Write the rejected problems here, one line each: name and reason."""
    store: Path | None = None
    """Keep problems and outcomes in this store, for `mvjax curate status`, `show` and `export`."""
    json: bool = False
    """Print the statistics as JSON."""


def run(command: Gsm8k) -> int:
    """Make the records, write them, print what they are like."""
    from mvjax.curator import ready
    from mvjax.curator.progress import progress
    from mvjax.curator.run import run
    from mvjax.curator.store import Store
    from mvjax.curator.store.export import Selection

    check_not_negative(limit=command.limit)
    check_files(command.output, [command.input], command.store)
    with Store.open(command.store or ":memory:", {"producer": "gsm8k"}) as store:
        store.add(ready.gsm8k_problems(command.input, limit=command.limit or None), str(command.input))
        totals = run(store, ready.gsm8k_production, progress=progress())
        if totals.stopped:
            report_stopped(totals, command.store is not None)
            return EXIT_INTERRUPTED
        if command.rejected is not None:
            write_rejected(store, command.rejected)
        write(store, command.output, Selection(command.sequential), command.tokenizer, command.json)
    return 0
