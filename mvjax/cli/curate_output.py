"""What the verbs that write records have in common: the files they name, the records and what these are like."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvjax.errors import UserError

EXIT_INTERRUPTED = 130

if TYPE_CHECKING:
    from mvjax.curator.store import Store
    from mvjax.curator.store.export import Selection
    from mvjax.curator.totals import Totals


def check_files(output: Path | None, inputs: Sequence[Path] = (), store: Path | None = None) -> None:
    """Raise UserError where an output is a directory, an input or the store, or the store is an input."""
    taken = {path.resolve(): "the input file" for path in inputs}
    if store is not None:
        if store.resolve() in taken:
            raise UserError(f"{store}: --store is the input file; name another one")
        taken[store.resolve()] = "the store"
    if output is None:
        return
    if output.is_dir():
        raise UserError(f"{output}: is a directory; --output must name a file")
    if output.resolve() in taken:
        raise UserError(f"{output}: --output is {taken[output.resolve()]}; name another one")


def check_not_negative(**options: float) -> None:
    """Raise UserError for a number below 0, and for an integer of more than 64 bits."""
    for name, value in options.items():
        if not value >= 0:  # nan too
            raise UserError(f"--{name.replace('_', '-')} {value}: must be 0 or more")
        if isinstance(value, int) and value > sys.maxsize:
            raise UserError(f"--{name.replace('_', '-')} {str(value)[:20]}...: must be at most {sys.maxsize}")


def write(store: Store, output: Path, selection: Selection, tokenizer: Path | None = None, as_json=False) -> None:
    """Write a store's records, and print what those of the training part are like.

    Raises:
      UserError: there is none.
    """
    from mvjax.curator.analysis import statistics
    from mvjax.curator.store.counts import count
    from mvjax.curator.store.export import export, path_of_test_part, records

    measured_in = None
    if tokenizer is not None:
        from mvjax.hub import local_path
        from mvjax.tokenizers.load import load_tokenizer

        measured_in = load_tokenizer(local_path(tokenizer, "tokenizer")).with_control_tags()
    exported = export(store, output, selection)
    result = statistics.collect(records(store, selection, "train"), count(store).reasons, measured_in)
    if as_json:
        print(json.dumps(result.to_dict() | {"test": exported.test, "left_out": exported.left_out}, indent=2))
        return
    from rich.console import Console

    Console().print(statistics.table(result, str(output)))
    if selection.test_share:
        say(f"{exported.test} records of the test part are in {path_of_test_part(output)}")
    for reason, number in exported.left_out.items():
        if number:
            say(f"{number} left out: {reason}")


def write_rejected(store: Store, path: Path) -> None:
    """Write the rejected problems and the lines that could not be used, a line each: name and reason."""
    from mvjax.files import atomic_path

    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for problem, outcome in store.outcomes():
            if outcome.record is None:
                file.write(f"{problem.id}\t{' '.join(outcome.reason.split())}\n")
        for fault, _ in store.faults():
            file.write(f"{fault.name}\t{' '.join(fault.reason.split())}\n")


def report_stopped(totals: Totals, kept: bool = True) -> None:
    """Say that a run was interrupted and, where a file holds its store, how to go on."""
    how = "every reply is kept; the same command goes on from here" if kept else "nothing is kept without --store"
    say(f"stopped: {totals.done:,} of {totals.total:,} records are done, {how}")


def say(line: str) -> None:
    """A line beside the output."""
    print(line, file=sys.stderr, flush=True)
