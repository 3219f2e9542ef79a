"""The transcript as a tree of elements: from tokens to the tree and back, token by token.

The tree keeps everything, separators included, so that rendering gives back what was parsed. Its texts hold what the
transcript was made of: strings where text was parsed, tuples of tokens where tokens were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from mvjax.language import tags
from mvjax.language.errors import TranscriptError
from mvjax.language.grammar import NONE
from mvjax.language.scan import MAX_DEPTH, Structure, scan

Content = str | tuple
"""A piece of text, or a tuple of tokens (ids or strings)."""


@dataclass(frozen=True)
class Text:
    """Text without tags."""

    content: Content
    start: int = field(default=NONE, compare=False)
    """Where it begins in what was parsed: a token index, for text a character."""


@dataclass(frozen=True)
class Element:
    """An opening tag, what it holds, and its closing tag."""

    OPEN: ClassVar[int] = NONE
    children: tuple[Text | Element, ...]
    closed: bool = True
    """Whether the closing tag is there; a cut transcript lacks some."""
    start: int = field(default=NONE, compare=False)
    """Where the opening tag stands in what was parsed: a token index, for text a character."""

    def of(self, kind: type) -> tuple:
        """The children of one kind."""
        return tuple(child for child in self.children if isinstance(child, kind))


@dataclass(frozen=True)
class Think(Element):
    OPEN: ClassVar[int] = tags.THINK_OPEN


@dataclass(frozen=True)
class Outline(Element):
    OPEN: ClassVar[int] = tags.OUTLINE_OPEN
    label: Content = ""
    """What stands before the ":": a string, or of token ids those between the separator and the one with the ":"."""


@dataclass(frozen=True)
class Path(Element):
    OPEN: ClassVar[int] = tags.PATH_OPEN
    label: Content = ""
    """As for an outline."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.of(Block)


@dataclass(frozen=True)
class Goal(Element):
    OPEN: ClassVar[int] = tags.GOAL_OPEN

    @property
    def outlines(self) -> tuple[Outline, ...]:
        return self.of(Outline)


@dataclass(frozen=True)
class Conclusion(Element):
    OPEN: ClassVar[int] = tags.CONCLUSION_OPEN


@dataclass(frozen=True)
class Block(Element):
    """A `<Parallel>` block."""

    OPEN: ClassVar[int] = tags.PARALLEL_OPEN

    @property
    def goal(self) -> Goal | None:
        return next(iter(self.of(Goal)), None)

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.of(Path)

    @property
    def conclusion(self) -> Conclusion | None:
        return next(iter(self.of(Conclusion)), None)

    @property
    def abandoned(self) -> bool:
        """Closed without a path: the engine had no room left for one."""
        return self.closed and not self.paths


KINDS: dict[int, type[Element]] = {kind.OPEN: kind for kind in (Think, Block, Goal, Outline, Path, Conclusion)}
"""Element class by the ordinal of its opening tag; the closing tag's ordinal is one more."""


@dataclass(frozen=True)
class Transcript:
    """One document: a prompt, which is never scanned, and what follows it."""

    prompt: Content
    children: tuple[Text | Element, ...]

    def walk(self) -> Iterator[tuple[int, Text | Element]]:
        """All nodes in order, each with its depth in the tree."""
        stack = [(0, child) for child in reversed(self.children)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            if isinstance(node, Element):
                stack.extend((depth + 1, child) for child in reversed(node.children))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, nested ones too, in the order of their `<Parallel>`."""
        return tuple(node for _, node in self.walk() if isinstance(node, Block))


def parse_tokens(
    tokens: Sequence,
    codes_T: np.ndarray,
    colon_T: np.ndarray,
    prompt_length: int = 0,
    *,
    separator_T: np.ndarray | None = None,
    scan_prompt: bool = False,
    engine_output: bool = False,
    complete: bool = False,
    max_depth: int = MAX_DEPTH,
    record: str = "",
    faults: list[TranscriptError] | None = None,
) -> Transcript:
    """The tree of a transcript of tokens (ids or strings).

    The other arguments are those of `lay_out`. With `scan_prompt`, the prompt is part of the tree, and the transcript's
    own `prompt` is empty. `render_tokens` gives the tokens back.

    Raises TranscriptError at the first fault; with a list for `faults` they are collected there instead, and the tree
    is the best that can be made.
    """
    codes_T = np.asarray(codes_T)
    structure = scan(
        codes_T,
        np.asarray(colon_T, bool),
        prompt_length,
        separator_T=separator_T,
        scan_prompt=scan_prompt,
        engine_output=engine_output,
        complete=complete,
        max_depth=max_depth,
        record=record,
        faults=faults,
    )

    def label(start: int, colon: int) -> Content:
        if isinstance(tokens[colon], str):
            return "".join(tokens[start + 1 : colon + 1]).partition(":")[0].strip()
        has_separator = start + 1 < colon and (separator_T is None or separator_T[start + 1])
        return tuple(tokens[start + 1 + has_separator : colon])

    return build(structure, tokens, 0 if scan_prompt else prompt_length, tuple, label, lambda index: index)


def build(
    structure: Structure,
    pieces: Sequence,
    prompt_length: int,
    join: Callable[[Sequence], Content],
    label: Callable[[int, int], Content],
    place: Callable[[int], int],
) -> Transcript:
    """Make the tree from accepted tags.

    `join` makes a text's content from pieces, `label` a label from the places of its tag and of its ":", and `place`
    turns the index of a piece into a `start`. Where faults were collected, elements left open end where the next one
    begins, and tags that were passed over are text.
    """
    labels = {span.open: span.colon for block in structure.blocks for span in (*block.outlines, *block.paths)}
    open_: list[tuple[type[Element] | None, int, list]] = [(None, NONE, [])]

    def close(closed: bool) -> None:
        kind, start, children = open_.pop()
        assert kind is not None  # the root is never closed
        more = {}
        if kind in (Outline, Path):
            more["label"] = label(start, labels[start]) if labels[start] != NONE else join(pieces[:0])
        open_[-1][2].append(kind(tuple(children), closed, place(start), **more))

    def text(end: int) -> None:
        if done < end:
            open_[-1][2].append(Text(join(pieces[done:end]), place(done)))

    done = prompt_length
    for index, code, _ in structure.events:
        text(index)
        done = index + 1
        if code in KINDS:
            holder = {tags.OUTLINE_OPEN: Goal, tags.THINK_OPEN: None}.get(code, Block)
            while code != tags.PARALLEL_OPEN and open_[-1][0] is not holder:
                close(closed=False)
            open_.append((KINDS[code], index, []))
        else:
            while open_[-1][0] is not KINDS[code - 1]:
                close(closed=False)
            close(closed=True)
    text(len(pieces))
    while len(open_) > 1:
        close(closed=False)
    return Transcript(join(pieces[:prompt_length]), tuple(open_[0][2]))


def render_tokens(transcript: Transcript, tag_ids: Sequence = tags.TAGS) -> list:
    """The tokens of a transcript, as parsed; `tag_ids` are the twelve tags as tokens."""
    return [token for content in _contents(transcript, [(tag,) for tag in tag_ids]) for token in content]


def render(transcript: Transcript) -> str:
    """The text of a transcript whose texts are strings, as parsed."""
    contents = list(_contents(transcript, tags.TAGS))
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) < len(contents):
        raise TypeError("render is for transcripts of text; render_tokens for those of tokens")
    return "".join(texts)


def _contents(transcript: Transcript, tag_contents: Sequence[Content]) -> Iterator[Content]:
    """All contents in order, without recursion: a hostile transcript may nest deeper than Python's stack."""
    yield transcript.prompt
    stack: list = list(reversed(transcript.children))
    while stack:
        node = stack.pop()
        if isinstance(node, Text):
            yield node.content
        elif isinstance(node, Element):
            yield tag_contents[node.OPEN]
            if node.closed:
                stack.append(node.OPEN + 1)
            stack.extend(reversed(node.children))
        else:
            yield tag_contents[node]
