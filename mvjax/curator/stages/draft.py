"""From stages 3 and 4 to a body: runs of original sentences, and blocks that are still to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mvjax.curator.stages.groups import Group
from mvjax.curator.stages.refill import Refill, joined
from mvjax.curator.stages.structure import Fork, Node, Structure
from mvjax.curator.text.transcript import Block, Body


@dataclass(frozen=True)
class DraftBlock:
    """A block before its paths are written."""

    number: str
    """1, 2, ...; those inside block 1 are 1.1, 1.2, ..."""
    group: Group
    """The group that it comes from."""
    branches: tuple[Draft, ...]
    """Original sentences and nested blocks of each branch."""
    before: tuple[int, ...]
    """The sentences of the enclosing segments that come before it."""

    @property
    def nested(self) -> list[DraftBlock]:
        """The blocks directly inside its branches."""
        return [part for branch in self.branches for part in branch if isinstance(part, DraftBlock)]


Draft = tuple[tuple[int, ...] | DraftBlock, ...]
"""Numbers of sentences that follow one another, and blocks."""
Written = Mapping[str, Block | None]
"""Blocks by number; None: it stays sequential text."""


def draft(structure: Structure, refill: Refill) -> Draft:
    """The original sentences in the order of the structure, with blocks where the structure has forks."""
    return _Drafter(refill).draft(structure, "", ())


def blocks(parts: Draft) -> list[DraftBlock]:
    """The outermost blocks of a draft."""
    return [part for part in parts if isinstance(part, DraftBlock)]


def numbers(parts: Sequence[tuple[int, ...] | DraftBlock]) -> tuple[int, ...]:
    """All sentences of a draft, in order."""
    return tuple(
        number
        for part in parts
        for number in (part if isinstance(part, tuple) else (n for branch in part.branches for n in numbers(branch)))
    )


def resolved(parts: Draft, written: Written) -> Iterator[tuple[int, ...] | DraftBlock]:
    """The parts with each block that stays sequential replaced by its branches; neighbouring sentences as one part."""
    run: tuple[int, ...] = ()
    for part in _unfolded(parts, written):
        if isinstance(part, DraftBlock):
            if run:
                yield run
            yield part
            run = ()
        else:
            run += part
    if run:
        yield run


def body(parts: Draft, written: Written, sentences: Sequence[str]) -> Body:
    """Lines of original text and written blocks."""
    entries: list[str | Block] = []
    for part in resolved(parts, written):
        if isinstance(part, DraftBlock):
            block = written[part.number]
            assert block is not None  # `resolved` leaves these out
            entries.append(block)
        else:
            entries.extend(joined(part, sentences).strip().split("\n"))
    return tuple(entries)


def kept(parts: Draft, written: Written) -> Iterator[DraftBlock]:
    """The blocks that are written, in the order of the transcript, outer ones before inner ones."""
    for part in resolved(parts, written):
        if isinstance(part, DraftBlock):
            yield part
            for branch in part.branches:
                yield from kept(branch, written)


def _unfolded(parts: Draft, written: Written) -> Iterator[tuple[int, ...] | DraftBlock]:
    for part in parts:
        if isinstance(part, DraftBlock) and written.get(part.number) is None:
            for branch in part.branches:
                yield from _unfolded(branch, written)
        else:
            yield part


class _Drafter:
    def __init__(self, refill: Refill):
        self.numbers = refill.numbers
        self.count: Counter[str] = Counter()
        """Blocks numbered so far, by the block that they are in."""

    def draft(self, entries: Sequence[Node | Fork], above: str, before: tuple[int, ...]) -> Draft:
        """Entries that are in the block `above`, behind the sentences `before` of the enclosing segments."""
        parts: list[tuple[int, ...] | DraftBlock] = []
        here = before
        for entry in entries:
            if isinstance(entry, Fork):
                new: Draft = (self.block(entry, above, here),)
            elif own := self.numbers[entry.label]:
                new = (own, *self.draft(entry.inside, above, here + own))
            else:
                new = self.draft(entry.inside, above, here)
            parts += new
            here += numbers(new)
        return tuple(parts)

    def block(self, fork: Fork, above: str, before: tuple[int, ...]) -> DraftBlock:
        """A fork that is in the block `above`."""
        self.count[above] += 1
        number = f"{above}.{self.count[above]}" if above else f"{self.count[above]}"
        branches = tuple(self.draft(branch, number, before) for branch in fork.branches)
        return DraftBlock(number, fork.group, branches, before)
