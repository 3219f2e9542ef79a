"""An encoded example as bytes and back: tokens, and its layout as runs of equal values.

All that a layout says of a token changes only at tags, so a transcript of T tokens has far fewer runs than tokens. The
bytes are little-endian int32: a header, the tokens, the runs, the segments' parents, the tags.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int32

from mvjax.data.encode import Example, Form
from mvjax.language import Layout, tags
from mvjax.language.grammar import Block
from mvjax.language.scan import HEADED, Structure

FORMAT = 3
"""Version of the bytes."""

_HEADER = 7
"""T, prompt length, depth, whether a block is open at the end, number of runs, of segments, of tags."""
_COLUMNS = 4
"""Segment, position less index, loss, part; then the intervals, depth starts and depth ends."""


def to_bytes(example: Example) -> bytes:
    """The bytes of an example."""
    layout, n_tokens = example.layout, len(example.tokens)
    columns_CT = np.concatenate(
        [
            layout.segment[None],
            layout.position[None] - np.arange(n_tokens, dtype=np.int32),
            layout.loss[None],
            layout.part[None],
            layout.hide_start,
            layout.hide_end,
        ],
        dtype=np.int32,
    )
    changes_T = (columns_CT[:, 1:] != columns_CT[:, :-1]).any(0)
    start_M = np.concatenate([[0], np.flatnonzero(changes_T) + 1])[:n_tokens]
    length_M = np.diff(start_M, append=n_tokens)
    colons = {span.open: span.colon for block in layout.structure.blocks for span in (*block.outlines, *block.paths)}
    tags_N = [(index, code, colons.get(index, -1)) for index, code, _ in layout.structure.events]
    header = [n_tokens, layout.prompt_length, layout.depth, int(layout.open)]
    header += [len(start_M), len(layout.parent), len(tags_N)]
    parts = (header, example.tokens, length_M, columns_CT[:, start_M], layout.parent, tags_N)
    return b"".join(np.asarray(part, "<i4").tobytes() for part in parts)


def from_bytes(data: bytes, name: str, form: Form) -> Example:
    """The example that `to_bytes` was given; `name` is the record's id."""
    values = np.frombuffer(data, "<i4")
    n_tokens, prompt_length, depth, is_open, n_runs, n_segments, n_tags = values[:_HEADER].tolist()
    n_columns = _COLUMNS + 2 * depth
    sizes = (n_tokens, n_runs, n_columns * n_runs, n_segments, 3 * n_tags)
    tokens_T, length_M, columns, parent_S, tags_N = np.split(values[_HEADER:], np.cumsum(sizes)[:-1])
    columns_CT = np.repeat(columns.reshape(n_columns, n_runs), length_M, axis=1)
    layout = Layout(
        segment=columns_CT[0],
        parent=parent_S,
        position=columns_CT[1] + np.arange(n_tokens, dtype=np.int32),
        depth=depth,
        hide_start=columns_CT[_COLUMNS : _COLUMNS + depth],
        hide_end=columns_CT[_COLUMNS + depth :],
        loss=columns_CT[2].astype(bool),
        part=columns_CT[3].astype(np.int8),
        open=bool(is_open),
        prompt_length=prompt_length,
        structure=StoredStructure(tags_N.reshape(n_tags, 3)),
    )
    return Example(tokens_T, layout, layout.loss, name, form)


# The base's slots are its own, this class is no dataclass.
class StoredStructure(Structure):  # pyrefly: ignore[bad-class-definition]
    """The blocks of stored tags, made when something asks for them: a batch does not, and may have thousands."""

    __slots__ = ("_tags",)

    def __init__(self, tags_N: Int32[np.ndarray, "N 3"]):
        self._tags = tags_N  # the fields stay unset

    def __getattr__(self, name: str):
        """For what is not set."""
        if name not in _FIELDS:
            raise AttributeError(name)
        self.events, self.blocks, self.open_blocks, self.open_think = [], [], [], False
        stack = self.open_blocks
        for index, code, colon in self._tags.tolist():
            if code in (tags.THINK_OPEN, tags.THINK_CLOSE):
                self.open_think = code == tags.THINK_OPEN
                self.events.append((index, code, None))
                continue
            if code == tags.PARALLEL_OPEN:
                stack.append(Block(index, level=len(stack)))
                self.blocks.append(stack[-1])
            block = stack[-1]
            block.take(index, code)
            if code in HEADED:
                (block.paths if code == tags.PATH_OPEN else block.outlines)[-1].colon = colon
            if code == tags.PARALLEL_CLOSE:
                stack.pop()
            self.events.append((index, code, block))
        return getattr(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and all(getattr(self, name) == getattr(other, name) for name in _FIELDS)

    __hash__ = None


_FIELDS = tuple(field.name for field in dataclasses.fields(Structure))
