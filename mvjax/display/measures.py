"""What an examined transcript comes to, in numbers: its measures, its segments, all of it as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvjax.display.document import Document
from mvjax.language import INT32_MAX, PARTS, Layout
from mvjax.language.tree import Outline, Text
from mvjax.language.tree import Path as PathElement


def measures(document: Document) -> dict[str, Any]:
    """The numbers of a transcript; those of the layout are missing where there is none."""
    blocks = document.transcript.blocks
    numbers: dict[str, Any] = {"tokens": len(document.pieces), "prompt_tokens": document.prompt_tokens}
    layout = document.layout
    if layout is not None:
        numbers |= {
            "new_tokens": layout.new_tokens,
            "critical_path": layout.critical_path,
            "degree": round(layout.degree, 4),
            "trained_on": int(layout.loss.sum()),
            "nesting": layout.depth,
        }
        numbers |= {f"{part}_tokens": int((layout.part == number).sum()) for number, part in enumerate(PARTS) if number}
    numbers["blocks"] = len(blocks)
    numbers["abandoned_blocks"] = sum(block.abandoned for block in blocks)
    numbers["paths"] = sum(len(block.paths) for block in blocks)
    numbers["cut"] = is_cut(document)
    return numbers


def is_cut(document: Document) -> bool:
    """Whether the transcript ends inside an element."""
    last = document.transcript.children[-1:]
    return bool(last) and not isinstance(last[0], Text) and not last[0].closed


def hidden_from(layout: Layout, token: int) -> list[list[int | None]]:
    """The row intervals that a token is hidden from, innermost first; None: to the end."""
    ends = [(int(s[token]), int(e[token])) for s, e in zip(layout.hide_start, layout.hide_end)]
    return [[start, None if end == INT32_MAX else end] for start, end in reversed(ends) if start < end]


def segments(document: Document) -> list[dict[str, Any]]:
    """One entry a segment: name, parent, tokens, rows, positions, what it is hidden from."""
    layout = document.layout
    assert layout is not None  # callers show segments of what could be laid out
    paths = [node for _, node in document.transcript.walk() if isinstance(node, PathElement)]
    order_T = np.argsort(layout.segment, kind="stable")
    bounds = np.searchsorted(layout.segment[order_T], np.arange(len(layout.parent) + 1))
    entries = []
    for segment, parent in enumerate(layout.parent.tolist()):
        rows = order_T[bounds[segment] : bounds[segment + 1]]
        label = paths[segment - 1].label if segment else ""
        entries.append(
            {
                "segment": segment,
                "name": f"path {shown(label) or '?'}" if segment else "root",
                "parent": parent if segment else None,
                "tokens": len(rows),
                "rows": [int(rows[0]), int(rows[-1])] if len(rows) else None,
                "positions": [int(layout.position[rows[0]]), int(layout.position[rows[-1]])] if len(rows) else None,
                "trained_on": int(layout.loss[rows].sum()),
                "hidden_from": hidden_from(layout, int(rows[0])) if len(rows) else [],
            }
        )
    return entries


def as_json(document: Document) -> dict[str, Any]:
    """Everything, for programs."""
    tree = []
    for depth, node in document.transcript.walk():
        entry = {"depth": depth, "kind": type(node).__name__.lower(), "start": node.start}
        if isinstance(node, Text):
            entry["text"] = flat(node.content)
        else:
            entry["closed"] = node.closed
        if isinstance(node, (Outline, PathElement)):
            entry["label"] = flat(node.label)
        tree.append(entry)
    out = {"name": document.name, "measures": measures(document), "tree": tree}
    out["faults"] = [
        {**document.locate(fault), "found": fault.found, "expected": fault.expected} for fault in document.faults
    ]
    layout = document.layout
    if layout is not None:
        out["segments"] = segments(document)
        out["layout"] = {
            "tokens": document.pieces,
            "segment": layout.segment.tolist(),
            "parent": layout.parent.tolist(),
            "position": layout.position.tolist(),
            "hide_start": layout.hide_start.tolist(),
            "hide_end": layout.hide_end.tolist(),
            "loss": layout.loss.astype(int).tolist(),
            "part": layout.part.tolist(),
            "open": layout.open,
        }
    return out


def flat(content: str | tuple) -> str:
    """Content of the tree as one string."""
    return content if isinstance(content, str) else "".join(map(str, content))


def shown(content: str | tuple, limit: int | None = None) -> str:
    """Content for a terminal: one line, nothing that steers the terminal, no longer than the limit."""
    text = " ".join(flat(content).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if limit is None or len(text) <= limit else text[: limit - 3] + "..."
