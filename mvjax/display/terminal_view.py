"""Examined transcripts for the terminal: tree, tables, faults."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text as Line
from rich.tree import Tree

from mvjax.display.document import Document
from mvjax.display.measures import flat, hidden_from, measures, segments, shown
from mvjax.language import PARTS
from mvjax.language.tree import Outline, Text
from mvjax.language.tree import Path as PathElement

MAX_TREE_DEPTH = 24
"""Deeper nodes of the tree are left out of the view."""

STYLES = {"Block": "bold magenta", "Path": "bold cyan", "Goal": "magenta", "Outline": "blue", "Conclusion": "magenta"}
"""Styles of the tree's elements."""


def show(console: Console, document: Document, every_token: bool) -> None:
    """One transcript: tree, layout, measures, faults."""
    console.print(tree(document))
    if document.layout is not None:
        console.print(layout_table(document))
        if every_token:
            console.print(token_table(document))
    console.print(measures_table(document))
    if not document.faults:
        console.print(Line("no faults", style="green"))
        return
    console.print(Line(f"{len(document.faults)} fault{'s' * (len(document.faults) > 1)}", style="bold red"))
    for fault in document.faults:
        console.print(Line(f"  {shown(document.describe(fault))}", style="red"), soft_wrap=True)
    if document.legal_for_engine:
        console.print(Line("  legal as an engine's output (--engine-output), not as training data"))


def tree(document: Document) -> Tree:
    """The transcript's elements, with their texts in short."""
    counts = [entry["tokens"] for entry in segments(document)] if document.layout is not None else None
    top = Tree(Line(shown(document.name), style="bold"))
    if document.transcript.prompt:
        top.add(Line.assemble(("prompt  ", "bold"), (shown(document.transcript.prompt, 60), "dim")))
    branches, segment = [top], 0
    for depth, node in document.transcript.walk():
        is_path = isinstance(node, PathElement)
        segment += is_path
        text = shown(node.content, 72) if isinstance(node, Text) else ""
        if depth >= MAX_TREE_DEPTH or (isinstance(node, Text) and not text):
            continue
        if isinstance(node, Text):
            line = Line(text, style="dim")
        else:
            line = Line(title(node), style=STYLES.get(type(node).__name__, "bold"))
            if isinstance(node, Outline):
                line.append(f"  {shown(body_text(node), 60)}", style="dim")
            if is_path and counts is not None:
                line.append(f"  segment {segment}, {counts[segment]} tokens", style="dim")
            if not node.closed:
                line.append("  open", style="yellow")
        del branches[depth + 1 :]
        # An outline's one line says it all.
        hide = isinstance(node, Text) and str(branches[-1].label).startswith("outline")
        branches.append(branches[-1] if hide else branches[-1].add(line))
    return top


def title(node: Any) -> str:
    """An element's name in the tree."""
    kind = type(node).__name__.lower()
    if kind in ("outline", "path"):
        return f"{kind} {shown(node.label) or '?'}"
    if kind == "block":
        number = len(node.paths)
        return "block, abandoned" if node.abandoned else f"block of {number} path{'s' * (number != 1)}"
    return kind


def body_text(node: Any) -> str:
    """The text of an outline behind its label."""
    text = "".join(flat(child.content) for child in node.of(Text))
    return text.partition(":")[2] if ":" in text else text


def span(interval: list[int | None] | None) -> str:
    """An interval for a table: "12-20", "12-end"."""
    return "" if interval is None else f"{interval[0]}-{'end' if interval[1] is None else interval[1]}"


def hidden_rows(intervals: list[list[int | None]]) -> str:
    """Hidden intervals [start, end) as the rows that they hold."""
    return ", ".join(span([start, None if end is None else end - 1]) for start, end in intervals)


def layout_table(document: Document) -> Table:
    """The segments."""
    table = Table(title="layout", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("segment", "parent", "tokens", "rows", "positions", "trained on"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("hidden from rows")
    for entry in segments(document):
        parent = "" if entry["parent"] is None else str(entry["parent"])
        cells = (str(entry["segment"]), parent, str(entry["tokens"]), span(entry["rows"]), span(entry["positions"]))
        table.add_row(*cells, str(entry["trained_on"]), plain(entry["name"]), hidden_rows(entry["hidden_from"]))
    return table


def token_table(document: Document) -> Table:
    """Every token."""
    layout = document.layout
    assert layout is not None  # `show` lists tokens of what could be laid out
    table = Table(title="tokens", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("row", "segment", "position"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("part", "trained on", "token", "hidden from rows"):
        table.add_column(name, no_wrap=name != "hidden from rows")
    for row, piece in enumerate(document.pieces):
        cells = (str(row), str(layout.segment[row]), str(layout.position[row]), PARTS[layout.part[row]])
        trained = "yes" if layout.loss[row] else ""
        table.add_row(*cells, trained, plain(repr(piece)), hidden_rows(hidden_from(layout, row)))
    return table


def plain(text: str) -> Any:
    """Text for a table's cell, in which brackets are no markup."""
    return Line(shown(text))


def measures_table(document: Document) -> Table:
    """The measures."""
    numbers = measures(document)
    names = {"degree": "# parallel", "critical_path": "critical path (positions)"}
    table = Table(title="measures", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in numbers.items():
        text = ("yes" if value else "no") if isinstance(value, bool) else f"{value:,}"
        table.add_row(names.get(key, key.replace("_", " ")), text)
    return table


def summary(document: Document) -> tuple[str, dict[str, Any], str]:
    """One row of the table of several records."""
    first = document.describe(document.faults[0]) if document.faults else ""
    more = f" ({len(document.faults) - 1} more)" if len(document.faults) > 1 else ""
    return document.name, measures(document), first + more


def show_many(console: Console, rows: list[tuple[str, dict[str, Any], str]]) -> None:
    """A line a record, and the sums."""
    keys = ("new_tokens", "critical_path", "degree", "blocks", "paths", "nesting")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("record", no_wrap=True)
    for key in keys:
        table.add_column({"degree": "# parallel"}.get(key, key.replace("_", " ")), justify="right")
    table.add_column("cut")
    table.add_column("faults", style="red")
    for name, numbers, fault in rows:
        cells = (f"{numbers[key]:,}" if key in numbers else "" for key in keys)
        table.add_row(plain(name), *cells, "cut" if numbers["cut"] else "", plain(fault))
    console.print(table)
    good = [numbers["degree"] for _, numbers, _ in rows if "degree" in numbers]
    mean = f"; mean # parallel {sum(good) / len(good):.3f}" if good else ""
    n_faulty = sum(bool(fault) for _, _, fault in rows)
    console.print(f"{len(rows)} records, {n_faulty} with faults{mean}")
