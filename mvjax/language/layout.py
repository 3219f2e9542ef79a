"""From a transcript to segments, positions, hidden intervals and the loss (arXiv 2506.09991, section 5).

The transcript of a document is a tree of segments. Segment 0, the root, holds the prompt and all sequential text. Each
`<Path>` opens a segment, which runs up to, not including, the next `<Path>` or `<Conclusion>` of its block: the
separator after `</Path>` belongs to the path just closed. All else belongs to the segment that holds the block.

A token sees an earlier one unless some block has the two in different paths. It is carried as one half-open interval of
query rows per nesting level: a key is hidden from the rows from its path's end to the end of the block's last path.

Positions rise by one within a segment. All paths of a block start at the position after the last token before the first
of them; `<Conclusion>` has one more than the largest position of any path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32

from mvjax.language import tags
from mvjax.language.grammar import NONE, WRITTEN_SEPARATOR
from mvjax.language.scan import MAX_DEPTH, Structure, scan

INT32_MAX = np.iinfo(np.int32).max
"""End of an interval that reaches to the end of the document."""

PROMPT, SEQUENTIAL, PATH, TAG, CONCLUSION = range(5)
"""The parts of a document, for metrics by part."""

PARTS = ("prompt", "sequential", "path", "tag", "conclusion")
"""Their names."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each token of one document stands, what it is hidden from, and whether it is trained on."""

    segment: Int32[np.ndarray, "T"]
    """Segment of each token; segments are numbered by the place of their `<Path>`, the root is 0."""
    parent: Int32[np.ndarray, "segments"]
    """The segment that holds each segment's block; -1 for the root."""
    position: Int32[np.ndarray, "T"]
    """Rotary position."""
    depth: int
    """Nesting levels in use: the most paths that enclose a token."""
    hide_start: Int32[np.ndarray, "depth T"]
    """Per nesting level (outermost first): the first row, counted in the document, from which the token is hidden."""
    hide_end: Int32[np.ndarray, "depth T"]
    """The row after the last; INT32_MAX where the block is open at the end. An unused level is [0, 0)."""
    loss: Bool[np.ndarray, "T"]
    """Whether the model itself must produce the token: not the prompt, nor what the interpreter writes."""
    part: Int8[np.ndarray, "T"]
    """PROMPT, SEQUENTIAL, PATH, TAG or CONCLUSION; the innermost that holds the token."""
    open: bool
    """Whether the transcript is cut inside a block."""
    prompt_length: int
    """Tokens of the prompt."""
    structure: Structure
    """The blocks, as token indices."""

    @property
    def new_tokens(self) -> int:
        """Tokens after the prompt."""
        return len(self.segment) - self.prompt_length

    @property
    def critical_path(self) -> int:
        """Positions from the last of the prompt to the last: the steps that unlimited rows would need."""
        before = int(self.position[self.prompt_length - 1]) if self.prompt_length else -1
        return int(self.position.max(initial=before)) - before

    @property
    def degree(self) -> float:
        """Degree of parallelism, "# parallel": new tokens over critical path; 1.0 where there are none."""
        return self.new_tokens / self.critical_path if self.new_tokens else 1.0

    @cached_property
    def predecessor(self) -> Int32[np.ndarray, "T"]:
        """The token that each is predicted from: the one before it in its segment; -1 for a segment's first."""
        order_T = np.argsort(self.segment, kind="stable").astype(np.int32)
        previous_T = np.full(len(order_T), NONE, np.int32)
        same_T = self.segment[order_T[1:]] == self.segment[order_T[:-1]]
        previous_T[order_T[1:][same_T]] = order_T[:-1][same_T]
        return previous_T


def lay_out(
    codes_T: Int[np.ndarray, "T"] | Sequence[int],
    colon_T: Bool[np.ndarray, "T"] | Sequence[bool],
    prompt_length: int = 0,
    *,
    separator_T: Bool[np.ndarray, "T"] | None = None,
    scan_prompt: bool = False,
    engine_output: bool = False,
    complete: bool = False,
    max_depth: int = MAX_DEPTH,
    record: str = "",
) -> Layout:
    """Lay out one document.

    Args:
        codes_T: per token the ordinal of its tag, or TEXT (-1).
        colon_T: whether the token's text contains ":".
        prompt_length: how many tokens the prompt has. They carry no loss and are text whatever their codes.
        separator_T: whether the token is a separator (a newline and nothing else). Where it is given, text in places
            that hold only tags is rejected, and so is a missing separator that the interpreter would write. Without
            it, the separator is the one token behind `</Goal>`, `<Path>`, `</Path>` and `<Conclusion>`.
        scan_prompt: the prompt holds earlier responses: scan it for tags too (a chat template must have kept those that
            users typed from becoming tags). Each must be whole.
        engine_output: allow what an interpreter may produce and training data may not contain: see `grammar`.
        complete: reject a transcript that is cut.
        max_depth: how deep blocks may nest; a deeper transcript is rejected.
        record: name of the record, for errors.

    Raises:
        TranscriptError: the transcript is malformed; says where, what stands there and what was expected.
        ValueError: the arguments do not fit each other.
    """
    codes_T, colon_T = np.asarray(codes_T), np.asarray(colon_T, bool)
    if codes_T.ndim != 1 or colon_T.shape != codes_T.shape or not 0 <= prompt_length <= len(codes_T):
        raise ValueError(f"codes {codes_T.shape}, colons {colon_T.shape} and a prompt of {prompt_length} do not fit")
    if separator_T is not None:
        separator_T = np.asarray(separator_T, bool)
        if separator_T.shape != codes_T.shape:
            raise ValueError(f"codes {codes_T.shape} and separators {separator_T.shape} do not fit")
    structure = scan(
        codes_T,
        colon_T,
        prompt_length,
        separator_T=separator_T,
        scan_prompt=scan_prompt,
        engine_output=engine_output,
        complete=complete,
        max_depth=max_depth,
        record=record,
    )
    n_tokens = len(codes_T)
    segment_T, parent_S, position_T, spans = _segments(structure, n_tokens)
    depth = max((span.level + 1 for span in spans), default=0)
    hide_start_ET = np.zeros((depth, n_tokens), np.int32)
    hide_end_ET = np.zeros((depth, n_tokens), np.int32)
    for span in spans:
        if span.end < span.block_end:
            hide_start_ET[span.level, span.start : span.end] = span.end
            hide_end_ET[span.level, span.start : span.end] = span.block_end
    return Layout(
        segment=segment_T,
        parent=parent_S,
        position=position_T,
        depth=depth,
        hide_start=hide_start_ET,
        hide_end=hide_end_ET,
        loss=_loss(structure, codes_T, prompt_length),
        part=_parts(structure, codes_T, prompt_length, spans),
        open=bool(structure.open_blocks),
        prompt_length=prompt_length,
        structure=structure,
    )


@dataclass(slots=True)
class _PathSpan:
    """The tokens of a path's segment and of all within it."""

    start: int
    level: int
    end: int = NONE
    block_end: int = NONE


@dataclass(slots=True)
class _OpenBlock:
    """What must be kept of a block while its paths are laid out."""

    segment: int
    """The segment that holds it."""
    base: int
    """Position of each path's first token."""
    largest: int
    """Largest position of the paths so far."""
    spans: list[_PathSpan]


def _segments(structure: Structure, n_tokens: int):
    """Segment and position of each token, the parents, and the paths' spans: one walk over the tags."""
    run_start, run_segment, run_shift = [0], [0], [0]
    parent, spans, opened = [-1], [], []
    for index, code, block in structure.events:
        if block is None or (code != tags.PATH_OPEN and code != tags.CONCLUSION_OPEN):
            continue
        position = index + run_shift[-1]
        if code == tags.PATH_OPEN and block.paths[0].open == index:
            opened.append(_OpenBlock(run_segment[-1], position, NONE, []))
        here = opened[-1]
        if here.spans:
            here.spans[-1].end = index
            here.largest = max(here.largest, position - 1)
        if code == tags.PATH_OPEN:
            here.spans.append(_PathSpan(index, block.level))
            spans.append(here.spans[-1])
            parent.append(here.segment)
            segment, first = len(parent) - 1, here.base
        else:
            for span in here.spans:
                span.block_end = index
            opened.pop()
            segment, first = here.segment, here.largest + 1
        run_start.append(index)
        run_segment.append(segment)
        run_shift.append(first - index)
    for span in spans:
        if span.end == NONE:
            span.end = n_tokens
        elif span.block_end == NONE:
            span.block_end = INT32_MAX
    length_R = np.diff([*run_start, n_tokens])
    segment_T = np.repeat(np.array(run_segment, np.int32), length_R)
    position_T = np.arange(n_tokens, dtype=np.int32) + np.repeat(np.array(run_shift, np.int32), length_R)
    return segment_T, np.array(parent, np.int32), position_T, spans


def _loss(structure: Structure, codes_T: np.ndarray, prompt_length: int) -> np.ndarray:
    """All but the prompt, what the interpreter writes around paths, and the first token, which nothing predicts."""
    n_tokens = len(codes_T)
    loss_T = np.ones(n_tokens, bool)
    loss_T[: max(prompt_length, 1)] = False
    text_T = np.append(codes_T == tags.TEXT, False)
    for index, code, _ in structure.events:
        if code in WRITTEN_SEPARATOR and text_T[index + 1]:
            loss_T[index + 1] = False  # Further separators are text.
        if code == tags.CONCLUSION_OPEN:
            loss_T[index] = False
    for block in structure.blocks:
        for path in block.paths:
            loss_T[path.open : path.colon + 1 if path.colon != NONE else n_tokens] = False
    return loss_T


def _parts(structure: Structure, codes_T: np.ndarray, prompt_length: int, spans: list[_PathSpan]) -> np.ndarray:
    """The part of each token: the innermost of path and conclusion, or sequential; tags for themselves."""
    n_tokens = len(codes_T)
    part_T = np.full(n_tokens, SEQUENTIAL, np.int8)
    for span in spans:
        if span.level == 0:
            part_T[span.start : span.end] = PATH
    for block in structure.blocks:
        if block.conclusion is not None:
            end = block.conclusion.close if block.conclusion.close != NONE else n_tokens
            part_T[block.conclusion.open : end] = CONCLUSION
    part_T[codes_T != tags.TEXT] = TAG
    part_T[:prompt_length] = PROMPT
    return part_T
