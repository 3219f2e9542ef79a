"""Reading transcripts: Multiverse text becomes blocks again, each with the text that all its paths see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mvjax.curator.text.transcript import ANNOUNCEMENT, Block, Body, Path
from mvjax.language import parse_text, tree


def blocks(response: str) -> Iterator[tuple[Block, str]]:
    """All blocks of a response, outer ones first, each with what comes before it in the segments that hold it.

    Raises:
      TranscriptError: the response breaks the grammar.
    """
    return _blocks(parse_text(response, complete=True).children, "")


def content(text: tree.Text) -> str:
    """What a text of a transcript holds that was parsed from text, not from tokens."""
    assert isinstance(text.content, str)
    return text.content


def _blocks(children: Sequence[tree.Text | tree.Element], known: str) -> Iterator[tuple[Block, str]]:
    for child in children:
        if isinstance(child, tree.Block):
            yield _block(child), known.strip()
            for path in child.paths:
                yield from _blocks(path.children, known)
        elif isinstance(child, tree.Think):
            yield from _blocks(child.children, known)
        known += _text(child)


def _block(block: tree.Block) -> Block:
    goal, conclusion = block.goal, block.conclusion
    assert goal is not None  # a complete transcript was parsed
    assert conclusion is not None
    paths = tuple(Path(_labelled(_text(outline)), _body(path)) for outline, path in zip(goal.outlines, block.paths))
    return Block(paths, _text(conclusion).strip())


def _body(path: tree.Path) -> Body:
    entries: list[str | Block] = []
    for child in path.children:
        if isinstance(child, tree.Text):
            text = content(child) if entries or child is not path.children[0] else _labelled(content(child))
            entries.extend(line for line in text.strip().split("\n") if line)
        elif isinstance(child, tree.Block):
            if entries and entries[-1] == ANNOUNCEMENT:
                entries.pop()
            entries.append(_block(child))
    return tuple(entries)


def _labelled(text: str) -> str:
    """What comes after a label."""
    return text.partition(":")[2].strip()


def _text(node: tree.Text | tree.Element) -> str:
    """Text of a node, tags left out."""
    return content(node) if isinstance(node, tree.Text) else "".join(map(_text, node.children))
