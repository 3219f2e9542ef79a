"""Where in a record something parallel may begin: the ends of its lines, distinguished by what follows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mvjax.curator.local_model import LocalModel, Sheet
from mvjax.curator.text.reading import content
from mvjax.curator.text.transcript import ANNOUNCEMENT
from mvjax.data.encode import Form, encode_tokens, lay_out_example
from mvjax.data.records import Record
from mvjax.language import parse_text, tree

PROMPT = -1
"""Place of the prompt's last token."""
THINK = ("<Think>", "</Think>")
ALIKE = 0.6
"""Share of two lines that must be the same for one to count as the other reworded."""
CONTAINED = 12
"""Characters from which a line that occurs within another one counts as the same."""


@dataclass(frozen=True)
class Point:
    """The end of a line (or of the prompt), behind which text follows or a block."""

    kind: str
    """`start`: nothing of the response comes before it; `line`: a line of it does."""
    place: int
    """Index in the text of the newline that ends the line; PROMPT: the end of the prompt."""
    parallel: bool
    """Whether a block follows (in the autoregressive form: what the block's first path became)."""


@dataclass(frozen=True)
class _Line:
    """A line of a body, and what follows."""

    text: str
    """Without a label; "" for the start."""
    place: int
    next: str | tree.Block


def points(record: Record, form: Form) -> list[Point]:
    """The points of a record in one of its forms, in their order.

    Only lines of sequential text and of paths count, and only those behind which a line of text, or a block with its
    announcement, follows: what ends a path or a Map would be easy to tell. Points of the autoregressive form are those
    of the other one whose two lines stand side by side there too; where the order differs there is none.

    Raises:
        TranscriptError: the response breaks the grammar.
    """
    lines = list(_lines(parse_text(record.response, complete=True, record=record.id).children))
    if form == "multiverse":
        return [_point(line, line.place) for line in lines]
    text = record.autoregressive
    written = [(line, place) for line, place in _split(text, 0) if line and line not in THINK]
    start = len(THINK[0]) if text.startswith(f"{THINK[0]}\n") else PROMPT
    return [_point(line, place) for line in lines if (place := _find(line, written, start)) is not None]


def _point(line: _Line, place: int) -> Point:
    return Point("line" if line.text else "start", place, isinstance(line.next, tree.Block))


def _lines(children: Sequence[tree.Text | tree.Element], place: int | None = PROMPT) -> Iterator[_Line]:
    """The lines of a body. `place` of its start; None: a start that does not count, as a path's."""
    for number, child in enumerate(children):
        after = children[number + 1] if number + 1 < len(children) else None
        if isinstance(child, tree.Text):
            yield from _text_lines(child, after, place)
        elif isinstance(child, tree.Think):
            head = child.children[0] if child.children else None
            yield from _lines(child.children, head.start if isinstance(head, tree.Text) else None)
        elif isinstance(child, tree.Block):
            if place is not None:
                yield _Line("", place, child)
            for path in child.paths:
                yield from _lines(path.children, None)
        place = None


def _text_lines(text: tree.Text, after: tree.Element | tree.Text | None, place: int | None) -> Iterator[_Line]:
    rows = [row for row in _split(content(text), text.start) if row[0]]
    announced = bool(rows) and rows[-1][0] == ANNOUNCEMENT and isinstance(after, tree.Block)
    follows: list[str | tree.Element | tree.Text | None] = [row[0] for row in rows[1:]] + [after]
    if announced:
        rows.pop()
        follows = [*follows[: len(rows) - 1], after] if rows else []
    first = rows[0][0] if rows else after
    if place is not None and isinstance(first, (str, tree.Block)):
        yield _Line("", place, first)
    for (line, end), following in zip(rows, follows):
        if end is not None and isinstance(following, (str, tree.Block)):
            yield _Line(line, end, following)


def _split(text: str, start: int) -> Iterator[tuple[str, int | None]]:
    """Lines without label and space around them, each with the place of the newline before the next line that is not
    blank (of the last newline for the last line; None where there is none)."""
    rows: list[tuple[str, int | None]] = []
    at = start
    for line in text.split("\n"):
        end = at + len(line)
        if line.strip():
            rows.append((_bare(line), end if end < start + len(text) else None))
        elif rows and end < start + len(text):
            rows[-1] = rows[-1][0], end
        at = end + 1
    return iter(rows)


def _bare(line: str) -> str:
    label, colon, rest = line.strip().partition(":")
    return rest.strip() if colon and label.replace(".", "").isdigit() else line.strip()


def _find(line: _Line, written: Sequence[tuple[str, int | None]], start: int) -> int | None:
    """Where in the autoregressive form the line ends and the same follows; None unless there is just one such place.

    start: place where its text begins.
    """
    if line.text:
        found = [number for number, (text, _) in enumerate(written) if _same(line.text, text)]
        if len(found) != 1 or found[0] + 1 >= len(written):
            return None
        place, following = written[found[0]][1], written[found[0] + 1][0]
    else:
        place, following = start, written[0][0] if written else ""
    wanted = list(_path_lines(line.next)) if isinstance(line.next, tree.Block) else [line.next]
    return place if any(_alike(text, following) for text in wanted) else None


def _path_lines(block: tree.Block) -> Iterator[str]:
    for path in block.paths:
        for child in path.children:
            if isinstance(child, tree.Text):
                yield from (text for text, _ in _split(content(child), 0) if text and text != ANNOUNCEMENT)
            elif isinstance(child, tree.Block):
                yield from _path_lines(child)


def _same(line: str, other: str) -> bool:
    return line == other or (len(line) >= CONTAINED and line in other)


def _alike(line: str, other: str) -> bool:
    return _same(line, other) or _same(other, line) or difflib.SequenceMatcher(None, line, other).ratio() >= ALIKE


def read(
    model: LocalModel, record: Record, form: Form, kinds: Sequence[str]
) -> tuple[Sheet, np.ndarray, list[Point]] | None:
    """A record as the model reads it, cut behind its last point, with the rows of the points; None where it has none.

    Raises:
        TranscriptError: the response breaks the grammar.
        UserError: the tokenizer has no chat template or no end of text.
    """
    chosen = [point for point in points(record, form) if point.kind in kinds]
    if not chosen:
        return None
    tokens, prompt_length = encode_tokens(model.tokenizer, record, form)
    text = record.response if form == "multiverse" else record.autoregressive
    lengths = [len(model.tokenizer.token_bytes(token)) for token in tokens[prompt_length:-1]]
    # Some vocabularies put a space before a text; others cannot spell all of it, and then nothing can be found.
    extra = sum(lengths) - len(text.encode())
    if extra not in (0, 1):
        return None
    ends = np.cumsum(lengths)
    rows = [
        prompt_length - 1 + (0 if point.place == PROMPT else 1 + int(np.searchsorted(ends, extra + size)))
        for point in chosen
        for size in [len(text[: point.place + 1].encode())]
    ]
    tokens_T = np.array(tokens, np.int32)
    layout = lay_out_example(model.tables, tokens_T, prompt_length, record, form).layout
    cut = slice(max(rows) + 1)
    sheet = Sheet(tokens_T[cut], layout.position[cut], layout.hide_start[:, cut], layout.hide_end[:, cut])
    return sheet, np.array(rows), chosen
