"""A block as one sheet on which each of its paths is scored several times, by one forward pass.

Chains of paths follow the Map. A path sees what is known, the Map, and what its own chain holds before it;
positions rise along a chain. So what is first in a chain is alone, and what follows has siblings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from mvjax.curator.local_model import LocalModel, Sheet
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number
from mvjax.curator.text.transcript import Block, Body, Path, multiverse
from mvjax.language import INT32_MAX, Layout, lay_out
from mvjax.language.tags import TEXT

MOST_KNOWN = 1024
"""Tokens of what is known before the block that the model is shown, the last ones."""
TRIES = 50
"""Draws of a number in place of another before one that occurs elsewhere in the block is taken."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A block behind what is known, as tokens."""

    tokens: np.ndarray
    layout: Layout
    spans: list[tuple[int, int]]
    """The paths of the block, each with all that belongs to its segment."""

    @classmethod
    def of(cls, model: LocalModel, block: Block, known: str) -> Encoded:
        """Encode a block and the last `MOST_KNOWN` tokens of what is known.

        Raises:
            TranscriptError: the block's text breaks the grammar.
        """
        tokenizer, tables = model.tokenizer, model.tables
        prompt = tokenizer.encode(f"{known.rstrip()}\n")[-MOST_KNOWN:]
        tokens_T = np.array([*prompt, *tokenizer.encode_response(multiverse((block,)))], np.int32)
        codes_T = tables.codes[tokens_T]
        codes_T[: len(prompt)] = TEXT
        separator_T = tokens_T == tables.separator_id
        layout = lay_out(codes_T, tables.colon[tokens_T], len(prompt), separator_T=separator_T, complete=True)
        outer = layout.structure.blocks[0]
        assert outer.conclusion is not None  # complete
        return cls(tokens_T, layout, list(pairwise([*(path.open for path in outer.paths), outer.conclusion.open])))

    def targets(self, path: int) -> np.ndarray:
        """The tokens of a path that the model itself must produce, without the closing tag."""
        span = self.layout.structure.blocks[0].paths[path]
        return np.flatnonzero(self.layout.loss[span.colon + 1 : span.close]) + span.colon + 1


@dataclass(frozen=True, eq=False)
class Part:
    """A path at one of the places where it is scored."""

    path: int
    """Number, from 0."""
    place: str
    """What it sees: alone, earlier (the siblings before it), later (those behind it, the last one first),
    earlier_altered or later_altered (the same siblings with other numbers)."""
    sources: np.ndarray
    """Rows that predict its tokens."""
    targets: np.ndarray
    """Rows of its tokens."""


@dataclass(frozen=True, eq=False)
class Chains:
    """A block as one sheet: what is known, the Map, chains of paths."""

    sheet: Sheet
    parts: tuple[Part, ...]
    """Where which path is scored."""

    @classmethod
    def of(cls, model: LocalModel, block: Block, known: str) -> Chains:
        """Lay a block out: all paths forwards and backwards, each path between alone, then with altered siblings."""
        real, count = Encoded.of(model, block, known), len(block.paths)
        writer = _Writer(real)
        writer.chain(range(count), "earlier")
        for path in range(1, count - 1):
            writer.chain([path], "")
        if count > 1:
            writer.chain(range(count - 1, -1, -1), "later")
        other = altered(block, known)
        if other != block:
            encoded = Encoded.of(model, other, known)
            writer.detours(range(count), encoded, "earlier_altered")
            writer.detours(range(count - 1, -1, -1), encoded, "later_altered")
        return cls(writer.sheet(), tuple(writer.parts))

    @property
    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that predict the tokens that are scored, and these tokens, one part after the other."""
        rows_N = np.concatenate([part.sources for part in self.parts])
        return rows_N, self.sheet.tokens[np.concatenate([part.targets for part in self.parts])]


class _Writer:
    """Puts paths behind one another."""

    def __init__(self, real: Encoded):
        self.real = real
        self.length = first = real.spans[0][0]
        self.base = int(real.layout.position[first])
        self.parts: list[Part] = []
        blank_ET = np.zeros((real.layout.depth, first), np.int32)
        self.pieces = [(real.tokens[:first], real.layout.position[:first], blank_ET, blank_ET)]

    def chain(self, order: Sequence[int], place: str) -> None:
        """Paths that see those before them; nothing behind the chain sees any. The first is alone."""
        end = self.length + sum(size(self.real, path) for path in order)
        at = self.base
        for path in order:
            at = self.put(self.real, path, at, end, "alone" if path == order[0] else place)

    def detours(self, order: Sequence[int], other: Encoded, place: str) -> None:
        """A chain of altered paths, and beside each place in it the real path that belongs there, seen by nothing."""
        end = self.length + sum(size(other, path) for path in order[:-1]) + sum(size(self.real, p) for p in order[1:])
        at = self.base
        for before, path in pairwise(order):
            at = self.put(other, before, at, end, "")
            self.put(self.real, path, at, self.length + size(self.real, path), place)

    def put(self, encoded: Encoded, path: int, at: int, hidden_from: int, place: str) -> int:
        """Write a path, its first token at position `at`; returns the position behind it.

        hidden_from: row from which on nothing sees the path.
        place: the score that it is for; "": it is only read.
        """
        layout, (start, stop) = encoded.layout, encoded.spans[path]
        shift, rows = self.length - start, slice(start, stop)
        position_T = layout.position[rows] - self.base + at
        used_ET = layout.hide_end[:, rows] > 0
        start_ET = np.where(used_ET, layout.hide_start[:, rows] + shift, 0)
        end_ET = np.where(used_ET, layout.hide_end[:, rows] + shift, 0)
        start_ET[0], end_ET[0] = hidden_from, INT32_MAX
        self.pieces.append((encoded.tokens[rows], position_T, start_ET, end_ET))
        if place:
            targets_N = encoded.targets(path)
            self.parts.append(Part(path, place, layout.predecessor[targets_N] + shift, targets_N + shift))
        self.length += stop - start
        return int(position_T.max()) + 1

    def sheet(self) -> Sheet:
        """All of it."""
        tokens_T, position_T, start_ET, end_ET = zip(*self.pieces, strict=True)
        start_ET, end_ET = (np.concatenate(hide, axis=1).astype(np.int32) for hide in (start_ET, end_ET))
        return Sheet(np.concatenate(tokens_T), np.concatenate(position_T).astype(np.int32), start_ET, end_ET)


def size(encoded: Encoded, path: int) -> int:
    """Tokens of a path's segment."""
    start, stop = encoded.spans[path]
    return stop - start


def altered(block: Block, known: str) -> Block:
    """The block with every number of its paths that is not in `known` replaced by another one as long.

    The same number becomes the same other number everywhere; which one depends on nothing but the block's text.
    """
    given = numbers_in(known)
    taken = given | numbers_in(multiverse((block,)))
    draw = random.Random(multiverse((block,)))
    others: dict[str, str] = {}

    def other(match) -> str:
        text = match[0]
        if parse_number(text) in given:
            return text
        if text not in others:
            others[text] = _drawn(text, taken, draw)
        return others[text]

    def body(entries: Body) -> Body:
        return tuple(NUMBER.sub(other, entry) if isinstance(entry, str) else inner(entry) for entry in entries)

    def inner(block: Block) -> Block:
        paths = tuple(Path(path.goal, body(path.body)) for path in block.paths)
        return Block(paths, NUMBER.sub(other, block.conclusion))

    return replace(inner(block), conclusion=block.conclusion)


def _drawn(text: str, taken: Set[Fraction], draw: random.Random) -> str:
    """A number with as many digits, if possible none of those that are taken."""
    drawn = text
    for _ in range(TRIES):
        digits = [draw.choice("123456789" if place == 0 else "0123456789") for place in range(len(text))]
        drawn = "".join(digit if old.isdigit() else old for digit, old in zip(digits, text, strict=True))
        if parse_number(drawn) not in taken:
            break
    return drawn
