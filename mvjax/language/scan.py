"""Reading the tags of a transcript: one walk over them, checked against the grammar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mvjax.language import tags
from mvjax.language.errors import TranscriptError
from mvjax.language.grammar import (
    ALLOWED,
    LEADS_TO,
    NONE,
    TAGS_ONLY,
    WRITTEN_SEPARATOR,
    Audience,
    Block,
    GrammarState,
    describe_expected,
    describe_found,
)

BEFORE_TAGS = tuple(tag for tag, state in enumerate(LEADS_TO) if state in TAGS_ONLY)
"""The tags behind which only separators may stand up to the next tag."""

LABEL = f'a label of at most {tags.LABEL_LIMIT} tokens and ":"'

HEADED = (tags.OUTLINE_OPEN, tags.PATH_OPEN)
"""The tags behind which a label stands."""

HEAD_LIMIT = tags.LABEL_LIMIT + 2
"""How many tokens after `<Path>` its ":" may stand at most: the separator, the label, the ":" itself."""

MAX_DEPTH = 64
"""Blocks nested deeper are rejected unless the caller says otherwise: a layout takes nesting x tokens integers."""


@dataclass(slots=True)
class Structure:
    """What the tags of one document say: one walk over `events` gives a layout or a tree."""

    events: list[tuple[int, int, Block | None]]
    """The tags in order: (token index, tag ordinal, the block it belongs to; None for Think)."""
    blocks: list[Block]
    """All blocks in the order of their `<Parallel>`."""
    open_blocks: list[Block]
    """The blocks still open at the end, outermost first."""
    open_think: bool
    """Whether `<Think>` is still open at the end."""


def scan(
    codes_T: Int[np.ndarray, "T"],
    colon_T: Bool[np.ndarray, "T"],
    prompt_length: int = 0,
    *,
    separator_T: Bool[np.ndarray, "T"] | None = None,
    scan_prompt: bool = False,
    engine_output: bool = False,
    complete: bool = False,
    max_depth: int = MAX_DEPTH,
    record: str = "",
    faults: list[TranscriptError] | None = None,
) -> Structure:
    """Read the tags of one document; `lay_out` says what the arguments mean.

    Raises TranscriptError at the first fault. With a list for `faults` nothing is raised: the faults are appended
    there and reading goes on behind each as well as it can.
    """
    n_tokens = len(codes_T)
    start = 0 if scan_prompt else prompt_length
    tags_N = np.flatnonzero(codes_T[start:] != tags.TEXT) + start
    codes_N = codes_T[tags_N]
    if codes_N.size and (codes_N.min() < tags.TEXT or codes_N.max() >= len(tags.TAGS)):
        raise ValueError(f"codes of tokens must lie between {tags.TEXT} and {len(tags.TAGS) - 1}")
    limit_N = np.append(tags_N[1:], n_tokens)[: len(tags_N)]
    text_T = codes_T == tags.TEXT if separator_T is None else (codes_T == tags.TEXT) & ~separator_T
    first_text = int(_next_after(np.array([prompt_length - 1]), text_T)[0])
    # An engine's labels are of any length: one that it makes up begins with the whole label of the path around it.
    head_limit = n_tokens if engine_output else HEAD_LIMIT
    label_N = _labels(tags_N, limit_N, colon_T, separator_T, head_limit)
    amiss_N = _misplaced_text(tags_N, codes_N, limit_N, text_T, separator_T, engine_output)

    walk = _Walk(record, engine_output, max_depth, faults)
    walk.in_prompt = scan_prompt and prompt_length > 0
    for index, code, limit, label, amiss in zip(*(a.tolist() for a in (tags_N, codes_N, limit_N, label_N, amiss_N))):
        if walk.in_prompt and index >= prompt_length:
            walk.end_prompt(prompt_length)
        # Where no prompt length is given the prompt may be part of the tokens, so text before <Think> proves nothing.
        walk.text_seen = not walk.in_prompt and prompt_length > 0 and first_text < index
        block = walk.step(index, code)
        if block is not None and code in HEADED:
            span = block.paths[-1] if code == tags.PATH_OPEN else block.outlines[-1]
            span.colon = label
            wanted = label == NONE and (code == tags.PATH_OPEN or not engine_output)
            # A transcript may be cut within a label.
            if wanted and (limit < n_tokens or n_tokens - index > head_limit or colon_T[index:].any()):
                walk.fail(index, f"{tags.TAGS[code]} without a label", LABEL)
        if amiss != NONE:
            walk.fail_text(amiss, code)
    if walk.in_prompt:
        walk.end_prompt(prompt_length)
    if complete:
        walk.check_closed(n_tokens, "end of the transcript")
    return Structure(walk.events, walk.blocks, walk.stack, walk.think_open)


def _next_after(indices_N: np.ndarray, where_T: np.ndarray) -> np.ndarray:
    """Per index, the next one after it where `where_T` holds; the length where there is none."""
    true_M = np.append(np.flatnonzero(where_T), len(where_T))
    return true_M[np.searchsorted(true_M[:-1], indices_N, side="right")]


def _labels(
    tags_N: np.ndarray,
    limit_N: np.ndarray,
    colon_T: np.ndarray,
    separator_T: np.ndarray | None,
    head_limit: int,
) -> np.ndarray:
    """Per tag the token with the ":" that ends a label behind it; -1 where none does before the next tag, `limit_N`."""
    colon_N = _next_after(tags_N, colon_T)
    good_N = (colon_N < limit_N) & (colon_N - tags_N <= head_limit)
    if separator_T is not None:
        # Only the first token may be a separator. (A token may hold both a newline and ":": that ends the label.)
        second_N = _next_after(tags_N + 1, separator_T & ~colon_T)
        good_N &= second_N > colon_N
    return np.where(good_N, colon_N, NONE)


def _misplaced_text(
    tags_N: np.ndarray,
    codes_N: np.ndarray,
    limit_N: np.ndarray,
    text_T: np.ndarray,
    separator_T: np.ndarray | None,
    engine_output: bool,
) -> np.ndarray:
    """Per tag the first token before the next tag that may not stand behind it; -1 where all is well or unknown."""
    if separator_T is None:
        return np.full(len(tags_N), NONE)
    # The interpreter writes the separators around paths itself: there even its own output has nothing else.
    bare = (tags.GOAL_CLOSE, tags.PATH_CLOSE) if engine_output else BEFORE_TAGS
    next_text_N = _next_after(tags_N, text_T)
    amiss_N = np.where(np.isin(codes_N, bare) & (next_text_N < limit_N), next_text_N, NONE)
    next_N = np.minimum(tags_N + 1, len(text_T) - 1)
    bad_N = np.isin(codes_N, WRITTEN_SEPARATOR) & (next_N > tags_N) & ~separator_T[next_N]
    return np.where(bad_N, next_N, amiss_N)


class _Walk:
    """The state between two tags: the stack of open blocks, and Think."""

    def __init__(self, record: str, engine_output: bool, max_depth: int, faults: list[TranscriptError] | None):
        self.record, self.max_depth, self.faults = record, max_depth, faults
        self.audience = Audience.TRANSCRIPT if engine_output else Audience.TRAINING
        self.events: list[tuple[int, int, Block | None]] = []
        self.blocks: list[Block] = []
        self.stack: list[Block] = []
        self.root = GrammarState.BODY
        """The state outside all blocks."""
        self.in_prompt = self.text_seen = False
        self.last = NONE
        """Index of the last tag."""
        self.begun = False
        """Whether the response has had a tag already."""

    def fail(self, index: int, found: str, expected: str) -> None:
        error = TranscriptError(index, found, expected, self.record)
        if self.faults is None:
            raise error
        self.faults.append(error)

    def allowed(self) -> tuple[int, ...]:
        """The tags that the grammar allows here."""
        if self.stack:
            return self.stack[-1].allowed(self.audience)
        allowed = ALLOWED[self.audience][self.root]
        first = self.in_prompt or not (self.begun or self.text_seen)
        return allowed if first else tuple(tag for tag in allowed if tag != tags.THINK_OPEN)

    @property
    def think_open(self) -> bool:
        """Whether Think is open."""
        return self.root is GrammarState.THINK

    def expected(self) -> str:
        block = self.stack[-1] if self.stack else None
        return describe_expected(self.allowed(), block, text=block is None or block.state not in TAGS_ONLY)

    def step(self, index: int, code: int) -> Block | None:
        """Take the tag at `index`; returns the block that it belongs to, None for Think and for a tag passed over."""
        self.last = index
        if code not in self.allowed():
            block = self.stack[-1] if self.stack else None
            self.fail(index, describe_found(code, block, self.think_open), self.expected())
            if not self.recover(code):
                return None
        self.begun = True
        if code in (tags.THINK_OPEN, tags.THINK_CLOSE):
            self.root = GrammarState(LEADS_TO[code])
            self.events.append((index, code, None))
            return None
        if code == tags.PARALLEL_OPEN:
            if len(self.stack) >= self.max_depth:
                self.fail(index, f"block {len(self.stack) + 1} deep", f"at most {self.max_depth} nested blocks")
            self.stack.append(Block(index, level=len(self.stack)))
            self.blocks.append(self.stack[-1])
        block = self.stack[-1]
        block.take(index, code)
        if code == tags.PARALLEL_CLOSE:
            self.stack.pop()
        self.events.append((index, code, block))
        return block

    def recover(self, code: int) -> bool:
        """After a fault: make the tag fit by taking what is missing before it as there, or say no: pass it over."""
        if code == tags.PARALLEL_OPEN:
            return True
        if code == tags.PATH_CLOSE:
            while len(self.stack) > 1 and self.stack[-1].state is not GrammarState.PATH:
                self.stack.pop()
        return bool(self.stack) and self.stack[-1].state in {
            tags.OUTLINE_OPEN: (GrammarState.OUTLINE,),
            tags.GOAL_CLOSE: (GrammarState.GOAL, GrammarState.OUTLINE),
            tags.PATH_OPEN: (GrammarState.GOAL, GrammarState.OUTLINE, GrammarState.PATH, GrammarState.BETWEEN),
            tags.PATH_CLOSE: (GrammarState.PATH,),
            tags.CONCLUSION_OPEN: (GrammarState.MAPPED, GrammarState.PATH, GrammarState.BETWEEN),
            tags.PARALLEL_CLOSE: tuple(GrammarState),
        }.get(code, ())

    def fail_text(self, index: int, code: int) -> None:
        """Something at `index` that may not stand behind the tag of this code."""
        if code in WRITTEN_SEPARATOR and index == self.last + 1:
            self.fail(index, f"no separator after {tags.TAGS[code]}", "a newline: each tag has its own line")
        else:
            self.fail(index, f"text after {tags.TAGS[code]}", self.expected())

    def end_prompt(self, prompt_length: int) -> None:
        """Earlier responses must be whole; a new one begins."""
        self.check_closed(prompt_length, "end of the prompt")
        self.stack, self.root, self.begun, self.in_prompt = [], GrammarState.BODY, False, False

    def check_closed(self, index: int, found: str) -> None:
        if self.stack or self.think_open:
            self.fail(index, found, self.expected() if self.stack else tags.TAGS[tags.THINK_CLOSE])
