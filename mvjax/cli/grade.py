"""`mvjax grade`: whether responses have the right final answers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from mvjax.cli.options import parse


@dataclass(frozen=True)
class GradeArguments:
    """Compare the final answers of responses with reference answers, as `mvjax evaluate` does."""

    file: tyro.conf.Positional[Path]
    """JSON lines of {"id", "answer", "response"}, and "kind" where the answer does not tell it: math, choice (a
    letter), integer (in digits) or list (in order)."""
    json: bool = False
    """Print {"id", "correct", "extracted"}, one object a line."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    arguments = parse(GradeArguments, argv, "grade")
    from rich.console import Console
    from rich.progress import track

    from mvjax.grading import grade
    from mvjax.grading.files import read_items

    items = list(read_items(arguments.file))
    console = Console(file=sys.stderr)
    rows = []
    for item in track(items, description=arguments.file.stem, console=console, transient=True):
        verdict = grade(item.response, item.answer, item.kind)
        rows.append((item, verdict))
        if arguments.json:
            print(json.dumps({"id": item.id, "correct": verdict.correct, "extracted": verdict.extracted}))
    if not arguments.json:
        show(rows)
    return 0


def show(rows) -> None:
    """Print a table of items and verdicts, and their totals."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in ("id", "answer", "extracted", "verdict"):
        table.add_column(name)
    for item, verdict in rows:
        found = escape(_short(verdict.extracted)) or "[dim]none found[/dim]"
        mark = "[green]right[/green]" if verdict.correct else "[red]wrong[/red]"
        table.add_row(escape(item.id), escape(_short(item.answer)), found, mark)
    right = sum(verdict.correct for _, verdict in rows)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{right} of {len(rows)} right ({right / len(rows):.1%})")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
