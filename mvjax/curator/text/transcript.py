"""Writing transcripts: a body of lines and blocks becomes Map / Process / Reduce text, or sequential text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ANNOUNCEMENT = "Let's think in parallel."


@dataclass(frozen=True)
class Path:
    """One path of a block."""

    goal: str
    """What is to be found, without the result; the text of its outline."""
    body: tuple[str | Block, ...]
    """Lines of text and nested blocks."""


@dataclass(frozen=True)
class Block:
    """Work split into independent paths."""

    paths: tuple[Path, ...]
    """At least two."""
    conclusion: str
    """What the paths found, in short."""


Body = tuple[str | Block, ...]


def multiverse(body: Body, label: str = "") -> str:
    """The body as Multiverse text (arXiv 2506.09991 section 3.1): every tag on its own line, no newline at the end.

    Paths of the root's blocks are labelled 1, 2, ...; those inside path 1 are 1.1, 1.2, ...
    """
    return "\n".join(_lines(body, label))


def _lines(body: Body, label: str) -> Iterator[str]:
    for entry in body:
        if isinstance(entry, str):
            yield entry
        else:
            yield ANNOUNCEMENT
            yield from _block_lines(entry, f"{label}." if label else "")


def _block_lines(block: Block, prefix: str) -> Iterator[str]:
    yield from ("<Parallel>", "<Goal>")
    for number, path in enumerate(block.paths, 1):
        yield from ("<Outline>", f"{prefix}{number}: {path.goal}", "</Outline>")
    yield "</Goal>"
    for number, path in enumerate(block.paths, 1):
        first, *rest = _lines(path.body, f"{prefix}{number}")
        yield from ("<Path>", f"{prefix}{number}: {first}", *rest, "</Path>")
    yield from ("<Conclusion>", block.conclusion, "</Conclusion>", "</Parallel>")
