"""The grammar of a transcript (arXiv 2506.09991, section 4) as data: which tags may stand where, and what they lead to.

    response   := Think? body
    Think      := "<Think>" body "</Think>"
    body       := (text | Parallel)*
    Parallel   := "<Parallel>" Goal Path{n} Conclusion "</Parallel>"          n >= 1
    Goal       := "<Goal>" Outline{n} "</Goal>"
    Outline    := "<Outline>" label ":" text "</Outline>"
    Path       := "<Path>" label ":" body "</Path>"
    Conclusion := "<Conclusion>" text "</Conclusion>"

The only copy of these rules: the reader of transcripts (`scan`) and the engine's interpreter look them up here. What
depends on counts (outlines, paths, depth, tokens left, `<Think>` as the first token) is code where it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

import numpy as np
from jaxtyping import Int8

from mvjax.language import tags

NONE = -1
"""Index of what a cut transcript does not reach."""


class GrammarState(IntEnum):
    """Where the next token stands. The first three are bodies: they hold text and blocks."""

    BODY = 0
    """In the root, outside Think."""
    THINK = 1
    PATH = 2
    BLOCK = 3
    """After `<Parallel>`."""
    GOAL = 4
    OUTLINE = 5
    MAPPED = 6
    """After `</Goal>`."""
    BETWEEN = 7
    """After `</Path>`."""
    CONCLUSION = 8
    CONCLUDED = 9
    """After `</Conclusion>`."""


S = GrammarState

BODIES = (S.BODY, S.THINK, S.PATH)

MAP_STATES = (S.BLOCK, S.GOAL, S.OUTLINE)
"""Where a block that is wound up is abandoned: its map is not complete."""

TAGS_ONLY = frozenset((S.BLOCK, S.GOAL, S.MAPPED, S.BETWEEN, S.CONCLUDED))
"""Where training data has nothing but separators between two tags. (An engine may sample text there.)"""


class Audience(IntEnum):
    """For whom a tag is allowed. Each may do what those before it may."""

    SAMPLER = 0
    """What the engine may sample."""
    TRAINING = 1
    """What training data may hold: also what the interpreter writes at a fork and at a reduce."""
    TRANSCRIPT = 2
    """What a finished transcript of an engine may hold: also what it writes when it winds up."""


_SAMPLED: dict[GrammarState, tuple[int, ...]] = {
    S.BODY: (tags.PARALLEL_OPEN, tags.THINK_OPEN),
    S.THINK: (tags.PARALLEL_OPEN, tags.THINK_CLOSE),
    S.PATH: (tags.PARALLEL_OPEN, tags.PATH_CLOSE),
    S.BLOCK: (tags.GOAL_OPEN,),
    S.GOAL: (tags.OUTLINE_OPEN, tags.GOAL_CLOSE),
    S.OUTLINE: (tags.OUTLINE_CLOSE,),
    S.MAPPED: (),
    S.BETWEEN: (),
    S.CONCLUSION: (tags.CONCLUSION_CLOSE,),
    S.CONCLUDED: (tags.PARALLEL_CLOSE,),
}
_AT_FORK_AND_REDUCE = {S.MAPPED: (tags.PATH_OPEN,), S.BETWEEN: (tags.PATH_OPEN, tags.CONCLUSION_OPEN)}
_AT_WIND_UP = {S.BLOCK: (tags.PARALLEL_CLOSE,), S.MAPPED: (tags.PARALLEL_CLOSE,)}


def _with(allowed: dict, more: dict) -> dict[GrammarState, tuple[int, ...]]:
    return {state: allowed[state] + more.get(state, ()) for state in GrammarState}


ALLOWED: dict[Audience, dict[GrammarState, tuple[int, ...]]] = {
    Audience.SAMPLER: _SAMPLED,
    Audience.TRAINING: _with(_SAMPLED, _AT_FORK_AND_REDUCE),
    Audience.TRANSCRIPT: _with(_with(_SAMPLED, _AT_FORK_AND_REDUCE), _AT_WIND_UP),
}
"""The tags that may come next. Counts may bar some of them: see `Block.allowed` and `engine.interpreter`."""

MAY_END = (S.BODY, S.PATH)
"""Where the engine may sample an end of text; inside a path it counts as `</Path>`."""

RETURN, ILLEGAL = -1, -2
"""In NEXT: the state of the body that holds the block; nowhere."""

LEADS_TO: tuple[GrammarState | int, ...] = (
    *(S.THINK, S.BODY),
    *(S.BLOCK, RETURN),
    *(S.GOAL, S.MAPPED),
    *(S.OUTLINE, S.GOAL),
    *(S.PATH, S.BETWEEN),
    *(S.CONCLUSION, S.CONCLUDED),
)
"""Per tag the state behind it, wherever it may stand."""

NEXT: Int8[np.ndarray, "states tags"] = np.array(
    [
        [LEADS_TO[tag] if tag in ALLOWED[Audience.TRANSCRIPT][state] else ILLEGAL for tag in range(len(tags.TAGS))]
        for state in GrammarState
    ],
    np.int8,
)
"""The state behind a tag in a state."""

CLOSING: dict[GrammarState, tuple[int, ...]] = {
    S.BODY: (),
    S.THINK: (tags.THINK_CLOSE,),
    S.PATH: (tags.PATH_CLOSE,),
    S.BLOCK: (tags.PARALLEL_CLOSE,),
    S.GOAL: (tags.GOAL_CLOSE, tags.PARALLEL_CLOSE),
    S.OUTLINE: (tags.OUTLINE_CLOSE, tags.GOAL_CLOSE, tags.PARALLEL_CLOSE),
    S.MAPPED: (tags.PARALLEL_CLOSE,),
    S.BETWEEN: (tags.CONCLUSION_OPEN, tags.CONCLUSION_CLOSE, tags.PARALLEL_CLOSE),
    S.CONCLUSION: (tags.CONCLUSION_CLOSE, tags.PARALLEL_CLOSE),
    S.CONCLUDED: (tags.PARALLEL_CLOSE,),
}
"""The tags that close a body, or a block up to the body that holds it."""

WRITTEN_SEPARATOR = (tags.GOAL_CLOSE, tags.PATH_OPEN, tags.PATH_CLOSE, tags.CONCLUSION_OPEN)
"""The tags whose separator the interpreter writes."""

CONCLUSION_RESERVE = 2
"""Tokens and positions that a fork takes off for `<Conclusion>` and its separator."""


def closing_tags(state: GrammarState, body: GrammarState) -> tuple[int, ...]:
    """The tags that close all that is open in a segment: a block's in `body`, then the body's own."""
    return CLOSING[state] + (CLOSING[body] if state not in BODIES else ())


RESERVE = 2 * max(len(closing_tags(state, body)) for state in GrammarState for body in BODIES)
"""Tokens and positions of the longest closing, each tag with its separator. Where a block may open a segment keeps as
many, and samples only while it has more; where none can, it keeps what closes that which is open."""


WORDS: dict[GrammarState, str] = {
    S.BLOCK: "after <Parallel>",
    S.GOAL: "in <Goal>",
    S.OUTLINE: "in <Outline>",
    S.MAPPED: "after </Goal>",
    S.PATH: "in <Path>",
    S.BETWEEN: "after </Path>",
    S.CONCLUSION: "in <Conclusion>",
    S.CONCLUDED: "after </Conclusion>",
}
"""The states of a block for error messages."""


@cache
def allowed_in_block(audience: Audience, state: GrammarState, has_outlines: bool, more_paths: bool) -> tuple[int, ...]:
    """The tags that may come next in a block; `more_paths`: it has more outlines than paths so far."""
    engine = audience is Audience.TRANSCRIPT
    barred = set()
    if not has_outlines and not engine:
        barred.add(tags.GOAL_CLOSE)
    if not more_paths and (engine or state is not S.MAPPED):
        barred.add(tags.PATH_OPEN)
    if more_paths and not engine:
        barred.add(tags.CONCLUSION_OPEN)
    return tuple(tag for tag in ALLOWED[audience][state] if tag not in barred)


@dataclass(slots=True)
class Span:
    """An element from its opening to its closing tag, as token indices; -1 for what is not reached."""

    open: int
    """Index of the opening tag."""
    close: int = NONE
    """Index of the closing tag."""
    colon: int = NONE
    """Outlines and paths: index of the token that ends the label, the first that contains ":"."""


@dataclass(slots=True)
class Block:
    """One `<Parallel>` block, as token indices; -1 or None for what is not reached."""

    open: int
    """Index of `<Parallel>`."""
    level: int
    """How many paths enclose the block."""
    state: GrammarState = S.BLOCK
    """The state at the end of the transcript; without meaning once the block is closed."""
    goal: Span | None = None
    outlines: list[Span] = field(default_factory=list)
    paths: list[Span] = field(default_factory=list)
    conclusion: Span | None = None
    close: int = NONE
    """Index of `</Parallel>`."""

    def allowed(self, audience: Audience) -> tuple[int, ...]:
        """The tags that may come next in this block."""
        n_outlines = len(self.outlines)
        return allowed_in_block(audience, self.state, n_outlines > 0, len(self.paths) < n_outlines)

    def take(self, index: int, code: int) -> None:
        """Move on over the tag at `index`, one of this block's own (not `<Parallel>`)."""
        match code:
            case tags.GOAL_OPEN:
                self.goal = Span(index)
            case tags.OUTLINE_OPEN:
                self.outlines.append(Span(index))
            case tags.OUTLINE_CLOSE:
                self.outlines[-1].close = index
            case tags.GOAL_CLOSE if self.goal is not None:
                self.goal.close = index
            case tags.PATH_OPEN:
                self.paths.append(Span(index))
            case tags.PATH_CLOSE:
                self.paths[-1].close = index
            case tags.CONCLUSION_OPEN:
                self.conclusion = Span(index)
            case tags.CONCLUSION_CLOSE if self.conclusion is not None:
                self.conclusion.close = index
            case tags.PARALLEL_CLOSE:
                self.close = index
                return
        self.state = GrammarState(LEADS_TO[code])


def describe_expected(allowed: tuple[int, ...], block: Block | None, text: bool) -> str:
    """What the grammar allows, for an error message: "text, <Parallel> or </Path>"."""
    words = ["text"] if text else []
    for code in allowed:
        word = tags.TAGS[code]
        if code == tags.PATH_OPEN and block is not None:
            word += f" ({len(block.paths) + 1} of {len(block.outlines)})"
        words.append(word)
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def describe_found(code: int, block: Block | None, think_open: bool) -> str:
    """The tag found where it may not stand, and what makes it wrong where the tag alone does not say."""
    word = tags.TAGS[code]
    if block is None:
        if code == tags.THINK_OPEN:
            return f"{word} inside {word}" if think_open else f"{word} that does not begin the response"
        if code == tags.THINK_CLOSE:
            return f"{word} without {tags.TAGS[tags.THINK_OPEN]}"
        return f"{word} outside a block"
    if code == tags.PARALLEL_CLOSE and not block.paths:
        return f"{word} of a block without a path"
    if code == tags.PATH_OPEN and block.state is S.BETWEEN:
        return f"{word} beyond the block's {len(block.outlines)} outlines"
    return f"{word} {WORDS[block.state]}"
